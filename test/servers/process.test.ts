import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePorts } from './ports.js'
import { Household } from './process.js'

/** Says where it keeps its data and which processes it has, and is killed then. */
const WORKER = `
import { Household } from ${JSON.stringify(join(import.meta.dirname, 'process.js'))}
const house = new Household('worker')
// The second has a child of its own, as a server that forks does.
const pids = [['sleep', '1000'], ['sh', '-c', 'sleep 1000 & wait']].map((command, i) => house.start('p' + i, command).pid)
house.start('gone', ['true'])
process.stdout.write(JSON.stringify({ pids, directory: house.directory }) + '\\n')
setInterval(() => {}, 1000)
`

/** Whether a process of that group is there that has not ended. */
function groupRuns(pid: number): boolean {
  try {
    process.kill(-pid, 0)
    return !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z')
  } catch {
    return false
  }
}

async function eventually(what: string, done: () => boolean): Promise<void> {
  for (let tries = 0; !done(); tries++) {
    assert.ok(tries < 200, what)
    await sleep(25)
  }
}

describe('a household of processes', () => {
  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    test(`ends with the process that began it, by ${signal}, and its data goes`, async () => {
      const worker = spawn(process.execPath, ['--input-type=module', '-e', WORKER], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      const [line] = await once(worker.stdout, 'data')
      const { pids, directory } = JSON.parse(String(line)) as { pids: number[]; directory: string }
      assert.ok(pids.every(groupRuns), 'they run')
      assert.ok(existsSync(directory))
      worker.kill(signal)
      await eventually('the processes end', () => !pids.some(groupRuns))
      await eventually('the data goes', () => !existsSync(directory))
    })
  }

  test('a stopped process is killed too, and one that ends is said with its last lines', async () => {
    const house = new Household('test')
    const stopped = house.start('stopped', ['sleep', '1000'])
    stopped.signal('SIGSTOP')
    house.start('broken', ['sh', '-c', 'echo no such option; exit 3'])
    await assert.rejects(
      house.until('a server', () => Promise.resolve(false)),
      /broken ended[\s\S]*no such option/,
    )
    writeFileSync(join(house.directory, 'file'), 'x')
    await house.close()
    assert.ok(!groupRuns(stopped.pid))
    assert.ok(!existsSync(house.directory))
  })

  test('waiting for what does not come ends', async () => {
    const house = new Household('test')
    await assert.rejects(
      house.until('nothing', () => Promise.resolve(false), 100),
      /nothing: not after 100 ms/,
    )
    await house.close()
  })

  test('free ports are different ones that can be listened on', async () => {
    const ports = await freePorts(20)
    assert.equal(new Set(ports).size, 20)
    assert.ok(ports.every((port) => port > 1024 && port < 32_768))
  })
})
