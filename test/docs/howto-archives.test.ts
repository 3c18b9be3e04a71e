import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, realpathSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { after, before, describe, test } from 'node:test'
import { environment, finished, MAIN } from '../helpers/cli.js'
import { skipWithout } from '../servers/cache.js'
import { startHdfs } from '../servers/hdfs.js'
import { S3_ENVIRONMENT } from '../servers/s3.js'
import { startVersitygw } from '../servers/versitygw.js'

/** A server for a page: what stands in the page and what is there instead, and how it ends. */
interface Served {
  readonly replaced: readonly (readonly [text: string, by: string])[]
  close(): Promise<void>
}

const servers: Readonly<Record<'s3' | 'hdfs', () => Promise<Served>>> = {
  s3: async () => {
    const server = await startVersitygw()
    await server.makeBucket('history')
    return { replaced: [['http://127.0.0.1:7070', server.endpoint]], close: () => server.close() }
  },
  hdfs: async () => {
    const cluster = await startHdfs()
    const replaced = [
      ['namenode.example.org:9870', cluster.namenode],
      ['user: strata', `user: ${cluster.user}`],
    ] as const
    return { replaced, close: () => cluster.close() }
  },
}

/** The commands of all console blocks, in order, with the exit code they name and what they are said to print. */
function stepsOf(page: string): { command: string; exit: number; lines: string[] }[] {
  const steps: { command: string; exit: number; lines: string[] }[] = []
  for (const [, block = ''] of page.matchAll(/```console\n([\s\S]*?)```/g)) {
    for (const line of block.trimEnd().split('\n')) {
      const exit = Number(/# exit (\d+)$/.exec(line)?.[1] ?? '0')
      if (line.startsWith('$ ')) steps.push({ command: line.slice(2), exit, lines: [] })
      else steps.at(-1)?.lines.push(line)
    }
  }
  return steps
}

/** `…` stands for anything within a line, alone on a line for any lines. */
function patternOf(lines: readonly string[]): RegExp {
  const parts = lines.map((line) => {
    if (line === '…') return '(?:.*\\n)*?'
    const fixed = line.split('…').map((text) => text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'))
    return `${fixed.join('.*')}.*\\n`
  })
  return new RegExp(`^${parts.join('')}$`)
}

for (const page of ['s3', 'hdfs'] as const) {
  const skip = await skipWithout(page === 's3' ? 'versitygw' : 'hdfs')
  describe(`docs/howto/${page}.md, word for word`, { skip }, () => {
    let served: Served | undefined
    let root = ''
    before(async () => {
      served = await servers[page]()
      root = realpathSync(mkdtempSync(join(tmpdir(), `sl-howto-${page}-`)))
    })
    after(async () => {
      await served?.close()
      if (root !== '') rmSync(root, { recursive: true, force: true })
    })
    const there = (text: string) =>
      (served?.replaced ?? []).reduce((done, [one, by]) => done.replaceAll(one, by), text)

    for (const { command, exit, lines } of stepsOf(readFileSync(`docs/howto/${page}.md`, 'utf8'))) {
      test(command, async () => {
        const shell = `stratalog() { "${process.execPath}" "${MAIN}" "$@"; }\n${there(command)}`
        const env = { ...environment(), ...S3_ENVIRONMENT }
        const child = spawn('sh', ['-c', `{ ${shell}\n} 2>&1`], { cwd: root, env })
        const { code, out } = await finished(child)
        assert.equal(code, exit, out)
        assert.match(out, patternOf(lines.map(there)))
      })
    }
  })
}
