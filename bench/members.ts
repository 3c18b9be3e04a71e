import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { type Log, openLog } from 'stratalog'
import { percentile, plainAppend, plainLatency, plainRead } from './probe.js'

/** One line of `npm run bench -- --json`. */
export interface BenchResult {
  readonly name: string
  readonly value: number
  readonly unit: string
  readonly reference: { readonly what: string; readonly value: number }
  readonly ratio: number
  readonly target: string
  readonly met: boolean
}

export interface BenchMember {
  readonly name: string
  readonly what: string
  run(directory: string): Promise<BenchResult>
}

const MIB = 1024 * 1024
const RECORD = Buffer.alloc(1024, 'stratalog ')
const OUTSTANDING = 1_000
const quiet = { tiering: 'off', control: 'off', config: 'none' } as const

export const MEMBERS: readonly BenchMember[] = [
  {
    name: 'append.1stream',
    what: '1 KiB records, three fsynced stores, 1,000 outstanding',
    run: appendOneStream,
  },
  { name: 'append.latency', what: 'one 1 KiB record at a time, p50', run: appendLatency },
  { name: 'read.hot', what: 'catch-up of 1 KiB records from the hot tier, cached', run: readHot },
  { name: 'read.cold', what: 'catch-up of 1 KiB records from a directory archive, cached', run: readCold },
  {
    name: 'memory.path',
    what: 'peak RSS while 2 GB pass through append, tiering and cold read',
    run: memoryPath,
  },
]

/** Keeps `OUTSTANDING` appends under way until `records` are acknowledged. */
async function appendClosedLoop(log: Log, name: string, records: number): Promise<void> {
  const stream = log.stream(name)
  let left = records
  const worker = async () => {
    while (left > 0) {
      left -= 1
      await stream.append(RECORD)
    }
  }
  await Promise.all(Array.from({ length: OUTSTANDING }, worker))
}

async function appendOneStream(directory: string): Promise<BenchResult> {
  const records = 384 * 1024
  const megabytes = (records * RECORD.length) / 1e6
  // The reference before and after, so that a machine that changes its mind is seen in it.
  const before = await plainAppend(join(directory, 'plain'), 256 * 1024, 256 * MIB)
  await using log = await openLog(join(directory, 'log'), quiet)
  await recycleFiles(log, records)
  const start = performance.now()
  await appendClosedLoop(log, 'bench', records)
  // The seal comes last in each store's file: when it is durable on all three, so is every copy.
  await log.stream('bench').seal()
  const value = megabytes / ((performance.now() - start) / 1_000)
  const after = await plainAppend(join(directory, 'plain'), 256 * 1024, 256 * MIB)
  return result(
    'append.1stream',
    value,
    'MB/s',
    'plain loop, three preallocated files, fdatasync per 256 KiB',
    (before + after) / 2,
    0.5,
  )
}

/** Brings a log to where it writes over freed files, as one in use does: the reference has its files preallocated too. */
async function recycleFiles(log: Log, records: number): Promise<void> {
  await appendClosedLoop(log, 'warm-up', records)
  await log.stream('warm-up').seal()
  await log.stream('warm-up').setPolicy({ keep: { for: '1ms' } })
  await log.tier.run({ until: 'settled' })
  await new Promise((resolve) => setTimeout(resolve, 1_000))
}

async function appendLatency(directory: string): Promise<BenchResult> {
  const rounds = 1_500
  await using log = await openLog(join(directory, 'log'), quiet)
  const stream = log.stream('bench')
  const times: number[] = []
  for (let round = 0; round < rounds + 200; round += 1) {
    const start = performance.now()
    await stream.append(RECORD)
    if (round >= 200) times.push(performance.now() - start)
  }
  const value = percentile(times, 0.5)
  const reference = percentile(await plainLatency(join(directory, 'plain'), rounds), 0.5)
  const ratio = value / reference
  return {
    name: 'append.latency',
    value,
    unit: 'ms',
    reference: { what: 'three parallel 4 KiB write + fdatasync, p50', value: reference },
    ratio,
    target: 'ratio <= 2.5',
    met: ratio <= 2.5,
  }
}

async function readHot(directory: string): Promise<BenchResult> {
  const root = join(directory, 'log')
  await using log = await openLog(root, quiet)
  await appendClosedLoop(log, 'bench', 256 * 1024)
  await log.stream('bench').seal()
  const value = await readAll(log, 'hot')
  const files = filesBelow(join(root, 'stores', '1'))
  plainRead(files)
  const reference = plainRead(files)
  return result(
    'read.hot',
    value,
    'MB/s',
    'plain sequential read of one store, at most 600 MB/s',
    Math.min(600, reference),
    0.5,
  )
}

async function readCold(directory: string): Promise<BenchResult> {
  const archive = join(directory, 'archive')
  await using log = await openColdLog(directory, archive, 256 * 1024)
  const value = await readAll(log, 'cold')
  const files = filesBelow(archive)
  plainRead(files)
  const reference = plainRead(files)
  return {
    name: 'read.cold',
    value,
    unit: 'MB/s',
    reference: { what: 'plain sequential read of the archive', value: reference },
    ratio: value / reference,
    target: 'value >= 150',
    met: value >= 150,
  }
}

/** A log whose records are all in the archive only. */
async function openColdLog(directory: string, archive: string, records: number): Promise<Log> {
  const defaults = { hot: { for: 0 }, evict: { lag: 0 } }
  const log = await openLog(join(directory, 'log'), { ...quiet, archive, defaults })
  await appendClosedLoop(log, 'bench', records)
  await log.stream('bench').seal()
  const report = await log.tier.run({ until: 'settled' })
  if (report.failed.length > 0) throw new Error(`tiering failed: ${report.failed[0]?.error}`)
  return log
}

async function readAll(log: Log, tier: 'hot' | 'cold'): Promise<number> {
  const read = log.stream('bench').read({ from: 'earliest' })
  let bytes = 0
  const start = performance.now()
  for await (const batch of read.batches()) for (const record of batch) bytes += record.payload.length
  const seconds = (performance.now() - start) / 1_000
  if (read.counts[tier] * RECORD.length !== bytes || bytes === 0)
    throw new Error(`not everything was read from the ${tier} tier: ${JSON.stringify(read.counts)}`)
  return bytes / 1e6 / seconds
}

async function memoryPath(directory: string): Promise<BenchResult> {
  const records = 2 * 1024 * 1024
  const start = performance.now()
  let peak = 0
  const sample = setInterval(() => {
    peak = Math.max(peak, process.memoryUsage.rss())
  }, 20)
  await using log = await openColdLog(directory, join(directory, 'archive'), records)
  await readAll(log, 'cold')
  clearInterval(sample)
  const value = Math.max(peak, process.resourceUsage().maxRSS * 1024) / 1e6
  const seconds = (performance.now() - start) / 1_000
  return {
    name: 'memory.path',
    value,
    unit: 'MB',
    reference: {
      what: `MB of payload that passed, in ${seconds.toFixed(0)} s`,
      value: (records * RECORD.length) / 1e6,
    },
    ratio: value / ((records * RECORD.length) / 1e6),
    target: 'value <= 300',
    met: value <= 300,
  }
}

function result(
  name: string,
  value: number,
  unit: string,
  what: string,
  reference: number,
  least: number,
): BenchResult {
  const ratio = value / reference
  return {
    name,
    value,
    unit,
    reference: { what, value: reference },
    ratio,
    target: `ratio >= ${least}`,
    met: ratio >= least,
  }
}

function filesBelow(directory: string): string[] {
  return readdirSync(directory).flatMap((name) => {
    const path = join(directory, name)
    if (statSync(path).isDirectory()) return filesBelow(path)
    return statSync(path).size > 4_096 ? [path] : []
  })
}
