import { join } from 'node:path'
import { type ArchiveEngine, type ArchiveStore, type Log, openLog } from 'stratalog'
import { openFromNames } from '../archive/cold-reads.js'
import { directoryArchive } from '../archive/directory/store.js'
import { appendClosedLoop, atRest, KIB_RECORD, MIB, quiet } from './load.js'
import { dropCache, filesBelow, plainRead } from './probe.js'
import {
  alternate,
  type Bench,
  type BenchMember,
  type BenchResult,
  median,
  ratioAtLeast,
  valueAtMost,
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
  {
    names: ['read.cold'],
    what: 'catch-up of 1 KiB records from a directory archive, page cache dropped',
    run: readCold,
  },
  {
    names: ['read.cold.first', 'read.cold.first.bare'],
    what: 'requests to the archive until the first record of a cold range is there',
    run: readColdFirst,
  },
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
  const bytes = bench.bytes(1024 * MIB, 4 * MIB)
  const hotRoot = join(bench.directory, 'hot')
  await using hot = await openLog(hotRoot, quiet(bench))
  await appendClosedLoop(hot, ['bench'], KIB_RECORD, bytes / 1024)
  await hot.stream('bench').seal()
  await using log = await openColdLog(bench, archive, bytes)
  await atRest(hotRoot, bench.amount(REST_MS, 100))
  const stores = filesBelow(join(hotRoot, 'stores'))
  const objects = filesBelow(archive)
  const found = await alternate(bench.rounds, {
    hot: () => {
      dropCache(stores)
      return readAll(hot, ['bench'], 'hot', bytes)
    },
    cold: () => {
      dropCache(objects)
      return readAll(log, ['bench'], 'cold', bytes)
    },
  })
  return [
    ratioAtLeast(
      {
        name: 'read.cold',
        value: median(found.cold),
        unit: 'MB/s',
        what: `the same records from the hot tier, ${dropState(objects)}`,
        reference: median(found.hot),
      },
      0.7,
    ),
  ]
}

/** Requests to an archive until the first record of a range is there; a new process knows nothing of its objects. */
async function readColdFirst(bench: Bench): Promise<BenchResult[]> {
  const archive = join(bench.directory, 'archive')
  const bytes = bench.bytes(64 * MIB, 4 * MIB)
  const middle = { sequenceId: BigInt(bytes / 2 / 1024) }
  const log = await openColdLog(bench, archive, bytes)
  const { incarnation } = await log.stream('bench').info()
  const segment = BigInt((await log.stream('bench').locate(middle)).segment ?? '0')
  await log.close()
  const counted = new CountingArchive(directoryArchive(archive))
  await using again = await openLog(join(bench.directory, 'log'), {
    ...quiet(bench),
    archive: counted.engine,
  })
  counted.requests = 0
  let known = 0
  for await (const _ of again.stream('bench').read({ from: middle })) {
    known = counted.requests
    break
  }
  counted.requests = 0
  const store = counted.present()
  const reader = await openFromNames(store, incarnation, segment)
  await reader.readEntries(0n, 1)
  const bare = counted.requests
  const told = (name: string, value: number, what: string, most: number) =>
    valueAtMost({ name, value, unit: 'requests', what, reference: most }, most)
  return [
    told('read.cold.first', known, 'to the first record, index row known', 2),
    told('read.cold.first.bare', bare, 'to the first record, nothing known but the stream and segment', 5),
  ]
}

/** A directory archive that counts what is asked of it, but for its own owner object. */
class CountingArchive {
  requests = 0
  readonly engine: ArchiveEngine
  #store: ArchiveStore | null = null

  constructor(inner: ArchiveEngine) {
    this.engine = {
      apiVersion: 1,
      name: inner.name,
      open: async (context) => {
        const store = await inner.open(context)
        this.#store = this.#counting(store)
        return this.#store
      },
    }
  }

  present(): ArchiveStore {
    if (this.#store === null) throw new Error('nothing was read from the archive')
    return this.#store
  }

  #counting(store: ArchiveStore): ArchiveStore {
    const count = (key: string) => {
      if (!key.startsWith('_log/')) this.requests += 1
    }
    return {
      location: store.location,
      capabilities: store.capabilities,
      putIfAbsent: (key, body, options) => store.putIfAbsent(key, body, options),
      head: (key, signal) => {
        count(key)
        return store.head(key, signal)
      },
      readRange: (key, offset, lengthBytes, signal) => {
        count(key)
        return store.readRange(key, offset, lengthBytes, signal)
      },
      listFrom: (prefix, after, limit, signal) => {
        count(prefix)
        return store.listFrom(prefix, after, limit, signal)
      },
      delete: (key, signal) => store.delete(key, signal),
      close: () => store.close(),
    }
  }
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
