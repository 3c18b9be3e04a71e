import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import process from 'node:process'
import { createInterface } from 'node:readline'
import { openLog } from 'stratalog'
import { appendClosedLoop, KIB_RECORD, MIB, quiet } from './load.js'
import { filesBelow, plainRead } from './probe.js'
import { type Bench, type BenchMember, type BenchResult, median, valueAtMost } from './result.js'

export const OPEN_MEMBER: BenchMember = {
  names: ['open.after_kill'],
  what: 'seconds until a log with 5 GB hot is open again after kill -9 in the middle of appends',
  run: openAfterKill,
}

/** Far more than it appends before it is killed. */
const LAST_RECORDS = 1024 * 1024

/** What the process to be killed says once it has opened the log, filled it, and appends. */
interface Ready {
  readonly openSeconds: number
}

async function openAfterKill(bench: Bench): Promise<BenchResult[]> {
  const root = join(bench.directory, 'log')
  const bytes = bench.bytes(5e9, 4 * MIB)
  // The first one fills the log; each later one finds what the one before it left.
  await appendAndDie(bench, root, bytes)
  const seconds: number[] = []
  const plain: number[] = []
  for (let round = 0; round < bench.rounds; round += 1) {
    seconds.push((await appendAndDie(bench, root, MIB)).openSeconds)
    plain.push(bytes / 1e6 / plainRead(filesBelow(join(root, 'stores', '1')), bytes))
  }
  return [
    valueAtMost(
      {
        name: 'open.after_kill',
        value: median(seconds),
        unit: 's',
        what: 'plain sequential read of one of the three stores',
        reference: median(plain),
      },
      3,
    ),
  ]
}

/** Runs `victim` in a process of its own and kills it while it appends. */
async function appendAndDie(bench: Bench, root: string, bytes: number): Promise<Ready> {
  const main = join(import.meta.dirname, 'main.js')
  const args = ['--victim', root, '--bytes', String(bytes), ...(bench.short ? ['--short'] : [])]
  const child = spawn(process.execPath, [main, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const exit = once(child, 'exit')
  for await (const line of createInterface(child.stdout)) {
    child.kill('SIGKILL')
    await exit
    return JSON.parse(line) as Ready
  }
  throw new Error('the process that was to be killed ended by itself')
}

/** Opens a log, appends so many bytes, says so, and appends on, in the middle of which it is killed. */
export async function victim(root: string, bytes: number, short: boolean): Promise<void> {
  const start = performance.now()
  const log = await openLog(root, quiet({ short }))
  const openSeconds = (performance.now() - start) / 1_000
  await appendClosedLoop(log, ['bench'], KIB_RECORD, Math.ceil(bytes / 1024))
  process.stdout.write(`${JSON.stringify({ openSeconds } satisfies Ready)}\n`)
  // Bounded, should nobody be left to kill it.
  await appendClosedLoop(log, ['bench'], KIB_RECORD, LAST_RECORDS)
  throw new Error('nobody killed this process')
}
