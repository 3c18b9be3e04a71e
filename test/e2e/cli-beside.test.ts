import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { application, finished, OPEN, start, Workplace } from '../helpers/cli.js'

let place: Workplace
const cli: Workplace['cli'] = (args, input) => place.cli(args, input)
const ok: Workplace['ok'] = (args, input) => place.ok(args, input)

before(async () => {
  place = await Workplace.make()
})
after(() => place.remove())

describe('beside a running application', () => {
  for (const [kind, name] of [
    ['short', 'app'],
    ['long', join('x'.repeat(90), 'y'.repeat(90))],
  ] as const) {
    test(`every command works (${kind} path)`, async () => {
      const directory = join(place.base, name)
      await mkdir(directory, { recursive: true })
      await writeFile(join(directory, 'stratalog.yaml'), 'version: 1\narchive: ./archive\n')
      const app = await application(directory)
      const beside = async (args: readonly string[], input?: string) =>
        finished(start(['--dir', directory, ...args]), input)
      try {
        assert.match((await beside(['append', 'app', '--message', 'from beside'])).out, /durable [23]\/3/)
        assert.equal((await beside(['read', 'app', '--raw'])).out, 'from the application\nfrom beside\n')
        assert.equal((await beside(['tail', 'app', '-n', '1', '--raw'])).out, 'from beside\n')
        assert.match((await beside(['import', 'imp', join(directory, 'stratalog.yaml')])).out, /^2 records/)
        for (const args of [
          ['stream', 'list'],
          ['stream', 'show', 'app'],
          ['stream', 'create', 'made'],
          ['tier', 'status'],
          ['tier', 'plan'],
          ['tier', 'run'],
          ['policy', 'show', 'app'],
          ['policy', 'test', 'app'],
          ['segment', 'list', 'app'],
          ['segment', 'dump', 'app', '1'],
        ]) {
          const result = await beside(args)
          assert.equal(result.code, 0, `${args.join(' ')}: ${result.err}`)
        }
        const unknown = await beside(['read', 'ap'])
        assert.deepEqual(
          [unknown.code, unknown.err],
          [3, 'stratalog: there is no stream ap: did you mean app?\n'],
        )
      } finally {
        await app.close()
      }
      assert.equal((await beside(['read', 'app', '--raw'])).out, 'from the application\nfrom beside\n')
    })
  }

  test('a follower prints what comes and ends with Ctrl-C', async () => {
    const directory = join(place.base, 'follow')
    const app = await application(directory)
    const child = start(['--dir', directory, 'read', 'app', '-f'])
    // From the start: on a busy machine it ends before the command that appends does.
    const ended = once(child, 'close')
    let [out, err] = ['', '']
    child.stderr?.on('data', (chunk: Buffer) => {
      err += chunk.toString()
    })
    child.stdout?.on('data', (chunk: Buffer) => {
      out += chunk.toString()
      if (out.includes('second')) child.kill('SIGINT')
    })
    if (child.stdout !== null) await once(child.stdout, 'data')
    await finished(start(['--dir', directory, 'append', 'app', '--message', 'second']))
    const [code] = (await ended) as [number]
    assert.equal(code, 0)
    assert.match(err, /^\(2 records, hot\)\n$/)
    await app.close()
  })

  test('a follower that has the log for itself waits as well', async () => {
    const directory = join(place.base, 'alone')
    await finished(start(['--dir', directory, 'append', 's', '--message', 'first']))
    for (const command of ['tail', 'read']) {
      const child = start(['--dir', directory, command, 's', '-f', '--raw'])
      const ended = once(child, 'close')
      let out = ''
      child.stdout?.on('data', (chunk: Buffer) => {
        out += chunk.toString()
        if (out.includes(`later ${command}`)) child.kill('SIGINT')
      })
      if (child.stdout !== null) await once(child.stdout, 'data')
      // Longer than anything that kept the process busy with opening the log.
      assert.equal(await Promise.race([ended, sleep(1_500, 'follows')]), 'follows', command)
      await finished(start(['--dir', directory, 'append', 's', '--message', `later ${command}`]))
      const [code] = (await ended) as [number]
      assert.equal(code, 0, command)
    }
  })

  test('commands beside a command that lasts: append from a pipe that stays open', async () => {
    const directory = join(place.base, 'lasting')
    const appending = start(['--dir', directory, 'append', 's'])
    appending.stdin?.write('one\n')
    if (appending.stdout !== null) await once(appending.stdout, 'data')
    assert.equal((await finished(start(['--dir', directory, 'read', 's', '--raw']))).out, 'one\n')
    appending.kill('SIGINT')
    const [code] = (await once(appending, 'close')) as [number]
    assert.equal(code, 130)
    assert.equal((await finished(start(['--dir', directory, 'read', 's', '--raw']))).out, 'one\n')
  })

  test('two commands at once wait for each other', async () => {
    const results = await Promise.all(
      Array.from({ length: 4 }, (_, i) => cli(['append', 'together', '--message', `m${i}`])),
    )
    assert.deepEqual(
      results.map(({ code, err }) => [code, err]),
      results.map(() => [0, '']),
    )
    assert.equal((await ok(['read', 'together', '--raw'])).trim().split('\n').length, 4)
  })

  test('what a killed application left behind is no obstacle', async () => {
    const directory = join(place.base, 'killed')
    const child = spawn(
      process.execPath,
      [
        '--input-type=module',
        '-e',
        `import { openLog } from ${JSON.stringify(OPEN)}
const log = await openLog(${JSON.stringify(directory)}); await log.stream('s').append('x'); process.stdout.write('ready'); setInterval(() => {}, 1000)`,
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    await once(child.stdout, 'data')
    child.kill('SIGKILL')
    await once(child, 'close')
    await stat(join(directory, 'control.json'))
    assert.equal((await finished(start(['--dir', directory, 'read', 's', '--raw']))).out, 'x\n')
  })
})
