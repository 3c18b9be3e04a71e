import { join } from 'node:path'
import { type Log, openLog } from 'stratalog'
import { appendClosedLoop, atRest, KIB_RECORD, MIB, quiet } from './load.js'
import { dropCache, filesBelow, plainRead } from './probe.js'
import {
  alternate,
  type Bench,
  type BenchMember,
  type BenchResult,
  median,
  ratioAtLeast,
  valueAtLeast,
} from './result.js'

/** No disk of today need be faster for a reader to be fast enough. */
const PLAIN_MB_MAX = 600
/** Streams read side by side where there are many: an application that follows a thousand does not read one by one. */
const READERS = 4
/** Stores write the mark of an idle log after a second; rewriting begins some time after that. */
const REST_MS = 3_000

export const READ_MEMBERS: readonly BenchMember[] = [
  {
    names: ['read.hot', 'read.hot.cached'],
    what: 'catch-up of 1 KiB records from the hot tier, page cache dropped, and cached',
    run: readHot,
  },
  {
    names: ['read.hot.1000streams'],
    what: 'one segment each of 1,000 streams, after the stores have rewritten them, page cache dropped',
    run: readManyStreams,
  },
  { names: ['read.cold'], what: 'catch-up of 1 KiB records from a directory archive, cached', run: readCold },
]

async function readHot(bench: Bench): Promise<BenchResult[]> {
  const root = join(bench.directory, 'log')
  const bytes = bench.bytes(512 * MIB, 4 * MIB)
  await using log = await openLog(root, quiet(bench))
  await appendClosedLoop(log, ['bench'], KIB_RECORD, bytes / 1024)
  await log.stream('bench').seal()
  await atRest(root, bench.amount(REST_MS, 100))
  const stores = filesBelow(join(root, 'stores'))
  const one = filesBelow(join(root, 'stores', '1'))
  const dropped = await alternate(bench.rounds, {
    plain: () => {
      dropCache(one)
      return plainRead(one, bytes)
    },
    log: () => {
      dropCache(stores)
      return readAll(log, ['bench'], 'hot', bytes)
    },
  })
  const cached = await alternate(bench.rounds + 1, {
    plain: () => plainRead(one, bytes),
    log: () => readAll(log, ['bench'], 'hot', bytes),
  })
  const held = (name: string, state: string, found: { log: number[]; plain: number[] }) =>
    ratioAtLeast(
      {
        name,
        value: median(found.log),
        unit: 'MB/s',
        what: `plain sequential read of one store, ${state}, at most ${PLAIN_MB_MAX}`,
        reference: Math.min(PLAIN_MB_MAX, median(found.plain)),
      },
      0.5,
    )
  return [held('read.hot', dropState(one), dropped), held('read.hot.cached', 'cached', cached)]
}

/** Whether the cache was dropped before each read: not every `dd` can. */
function dropState(files: readonly string[]): string {
  return dropCache(files) ? 'cache dropped' : 'cache NOT dropped, dd can not'
}

async function readManyStreams(bench: Bench): Promise<BenchResult[]> {
  const root = join(bench.directory, 'log')
  const count = bench.short ? 20 : 1_000
  const bytes = count * bench.bytes(MIB, MIB / 16)
  const names = Array.from({ length: count }, (_, i) => `stream-${i}`)
  await using log = await openLog(root, quiet(bench))
  await appendClosedLoop(log, names, KIB_RECORD, bytes / 1024)
  for (const name of names) await log.stream(name).seal()
  await atRest(root, bench.amount(REST_MS, 100))
  const stores = filesBelow(join(root, 'stores'))
  const one = filesBelow(join(root, 'stores', '1'))
  const found = await alternate(bench.rounds, {
    plain: () => {
      dropCache(one)
      return plainRead(one, bytes)
    },
    log: () => {
      dropCache(stores)
      return readAll(log, names, 'hot', bytes)
    },
  })
  return [
    ratioAtLeast(
      {
        name: 'read.hot.1000streams',
        value: median(found.log),
        unit: 'MB/s',
        what: `plain sequential read of one store, ${dropState(one)}, at most ${PLAIN_MB_MAX}`,
        reference: Math.min(PLAIN_MB_MAX, median(found.plain)),
      },
      0.5,
    ),
  ]
}

async function readCold(bench: Bench): Promise<BenchResult[]> {
  const archive = join(bench.directory, 'archive')
  const bytes = bench.bytes(256 * MIB, 4 * MIB)
  await using log = await openColdLog(bench, archive, bytes)
  const files = filesBelow(archive)
  const found = await alternate(bench.rounds, {
    plain: () => plainRead(files),
    log: () => readAll(log, ['bench'], 'cold', bytes),
  })
  return [
    valueAtLeast(
      {
        name: 'read.cold',
        value: median(found.log),
        unit: 'MB/s',
        what: 'plain sequential read of the archive, cached',
        reference: median(found.plain),
      },
      150,
    ),
  ]
}

/** A log whose stream `bench` is in the archive only. */
export async function openColdLog(bench: Bench, archive: string, bytes: number): Promise<Log> {
  const defaults = { hot: { for: 0 }, evict: { lag: 0 } }
  const log = await openLog(join(bench.directory, 'log'), { ...quiet(bench), archive, defaults })
  await appendClosedLoop(log, ['bench'], KIB_RECORD, bytes / 1024)
  await log.stream('bench').seal()
  const report = await log.tier.run({ until: 'settled' })
  if (report.failed.length > 0) throw new Error(`tiering failed: ${report.failed[0]?.error}`)
  return log
}

/** Reads streams from end to end; MB/s of payload. Throws unless exactly `bytes` came, all from that tier. */
export async function readAll(
  log: Log,
  names: readonly string[],
  tier: 'hot' | 'cold',
  bytes: number,
): Promise<number> {
  let read = 0
  const queue = [...names]
  const work = async () => {
    for (let name = queue.shift(); name !== undefined; name = queue.shift()) {
      const records = log.stream(name).read({ from: 'earliest' })
      for await (const batch of records.batches()) for (const record of batch) read += record.payload.length
      if (records.counts[tier === 'hot' ? 'cold' : 'hot'] > 0)
        throw new Error(`not everything was read from the ${tier} tier: ${JSON.stringify(records.counts)}`)
    }
  }
  const start = performance.now()
  await Promise.all(Array.from({ length: READERS }, work))
  const ms = performance.now() - start
  if (read !== bytes) throw new Error(`${read} bytes were read, ${bytes} were written`)
  return bytes / 1e3 / ms
}
