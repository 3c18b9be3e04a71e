import { randomFillSync } from 'node:crypto'
import { join } from 'node:path'
import { type ArchiveEngine, type Log, openLog } from 'stratalog'
import { appendClosedLoop, KIB_RECORD, MIB, quiet } from './load.js'
import { readAll } from './read.js'
import { alternate, type Bench, type BenchResult, LeftOut, median, ratioAtLeast } from './result.js'

/*
 * What members over an archive on another machine share. The reference is always a plain client against the same server,
 * in the same process, with the same bytes.
 *
 * Records are random, so LZ4 makes nothing shorter: a payload byte is an object byte, and each is counted where it moves,
 * alike on both sides.
 */

const SEGMENT_BYTES = 64 * MIB
const RANGE_BYTES = 8 * MIB
/** The best of these is what a plain client reaches. */
const PARALLEL = [1, 2, 4, 8] as const
/** Distinct records: more than LZ4 looks back, so that none is found again. */
const RECORDS = 512

/** An object as the server has it. */
export interface PlainObject {
  readonly key: string
  readonly sizeBytes: number
}

/** A plain client of a server: no checks, no retries. */
export interface PlainStore {
  /** Keys below `plain/` are the reference's own. */
  put(key: string, body: Buffer): Promise<void>
  /** Reads and throws away; how many bytes came. */
  get(key: string, offset: number, lengthBytes: number): Promise<number>
  remove(key: string): Promise<void>
  /** Segments' objects of the archive. */
  segments(): Promise<PlainObject[]>
}

/** A server that runs, an archive in it, and a plain client beside it. */
export interface Remote {
  readonly archive: ArchiveEngine
  readonly plain: PlainStore
}

/** Whatever a server's starter is; the package that is installed has none. */
export async function fromSources<T>(load: () => Promise<T>): Promise<T> {
  try {
    return await load()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error
    throw new LeftOut('it starts servers that only the sources of stratalog have: run "npm run bench" there')
  }
}

/** Leaves the member out where its server can't be had on this machine. */
export async function requireServer(name: 'versitygw' | 'hdfs'): Promise<void> {
  const { prepared } = await fromSources(() => import('../test/servers/cache.js'))
  const found = await prepared(name)
  if ('why' in found) throw new LeftOut(found.why)
}

/** A log over that archive, with segments of 64 MiB. */
export function openRemoteLog(
  bench: Bench,
  archive: ArchiveEngine,
  options: { readonly name?: string; readonly segmentBytes?: number; readonly cold?: boolean } = {},
): Promise<Log> {
  const segmentBytes = options.segmentBytes ?? (bench.short ? MIB : SEGMENT_BYTES)
  const keep = options.cold ? { hot: { for: 0 }, evict: { lag: 0 } } : { keep: 'forever' as const }
  return openLog(join(bench.directory, options.name ?? 'log'), {
    ...quiet(bench),
    archive,
    // What was read before is asked of the server again.
    diskCacheBytes: 0,
    defaults: { roll: { size: segmentBytes }, ...keep },
  })
}

/** Appends so many bytes of random records to a stream and seals it. */
export async function fill(log: Log, name: string, bytes: number): Promise<void> {
  const records = Array.from({ length: RECORDS }, () => randomFillSync(Buffer.from(KIB_RECORD)))
  let next = 0
  await appendClosedLoop(log, [name], () => records[next++ % RECORDS] ?? KIB_RECORD, bytes / 1024)
  await log.stream(name).seal()
}

/** Runs the agent until nothing is due; throws unless everything went well. */
export async function settle(log: Log): Promise<void> {
  const report = await log.tier.run({ until: 'settled' })
  if (report.failed.length > 0 || report.copied === 0)
    throw new Error(`copying failed: ${report.failed[0]?.error ?? 'there was nothing to copy'}`)
}

/** A backlog copied and read back, against PUTs and GETs of as many bytes. Bytes count on their way out and back. */
export async function copyAgainstPlain(bench: Bench, name: string, remote: Remote): Promise<BenchResult[]> {
  const bytes = bench.bytes(512 * MIB, 4 * MIB)
  await using log = await openRemoteLog(bench, remote.archive)
  let round = 0
  let segments: readonly PlainObject[] = []
  const copied = async () => {
    round += 1
    await fill(log, `round-${round}`, bytes)
    const before = new Set((await remote.plain.segments()).map(({ key }) => key))
    const start = performance.now()
    await settle(log)
    const ms = performance.now() - start
    segments = (await remote.plain.segments()).filter(({ key }) => !before.has(key))
    return (2 * sizeOf(segments)) / 1e3 / ms
  }
  const plain = (parallel: number) => async () => putAndGet(remote.plain, segments, parallel)
  const found = await alternate(bench.rounds, { log: copied, ...eachParallel(plain) })
  const best = bestOf(found)
  const what = `plain PUT and GET of as many bytes, ${best.parallel} in parallel, the best of ${PARALLEL.join(', ')}`
  return [
    ratioAtLeast({ name, value: median(found.log ?? []), unit: 'MB/s', what, reference: best.speed }, 0.6),
  ]
}

/** History read from end to end, against ranges of the same objects. */
export async function readAgainstPlain(bench: Bench, name: string, remote: Remote): Promise<BenchResult[]> {
  const bytes = bench.bytes(1024 * MIB, 4 * MIB)
  await using log = await openRemoteLog(bench, remote.archive, { cold: true })
  await fill(log, 'bench', bytes)
  await settle(log)
  const segments = await remote.plain.segments()
  const stored = sizeOf(segments)
  const read = async () => ((await readAll(log, ['bench'], 'cold', bytes)) * stored) / bytes
  const plain = (parallel: number) => () => getRanges(remote.plain, segments, parallel)
  const found = await alternate(bench.rounds, { log: read, ...eachParallel(plain) })
  const best = bestOf(found)
  const what = `plain ranges of 8 MiB of the same objects, ${best.parallel} in parallel, the best of ${PARALLEL.join(', ')}`
  return [
    ratioAtLeast({ name, value: median(found.log ?? []), unit: 'MB/s', what, reference: best.speed }, 0.85),
  ]
}

export function sizeOf(objects: readonly PlainObject[]): number {
  return objects.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
}

/** Runs `work` for each item, so many side by side. */
export async function inParallel<T>(
  items: readonly T[],
  parallel: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const queue = [...items]
  const take = async () => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await work(item)
  }
  await Promise.all(Array.from({ length: parallel }, take))
}

function eachParallel(
  run: (parallel: number) => () => Promise<number>,
): Record<string, () => Promise<number>> {
  return Object.fromEntries(PARALLEL.map((parallel) => [`plain-${parallel}`, run(parallel)]))
}

function bestOf(found: Readonly<Record<string, readonly number[]>>): { speed: number; parallel: number } {
  const each = PARALLEL.map((parallel) => ({ parallel, speed: median(found[`plain-${parallel}`] ?? []) }))
  return each.reduce((best, one) => (one.speed > best.speed ? one : best))
}

/** Puts objects of these sizes and gets each once it is there; MB/s, both ways counted. */
async function putAndGet(plain: PlainStore, like: readonly PlainObject[], parallel: number): Promise<number> {
  const random = randomFillSync(Buffer.alloc(Math.max(...like.map(({ sizeBytes }) => sizeBytes))))
  const objects = like.map(({ sizeBytes }, i) => ({ key: `plain/${i}`, sizeBytes }))
  const start = performance.now()
  await inParallel(objects, parallel, async ({ key, sizeBytes }) => {
    await plain.put(key, random.subarray(0, sizeBytes))
    await got(plain, key, 0, sizeBytes)
  })
  const ms = performance.now() - start
  for (const { key } of objects) await plain.remove(key)
  return (2 * sizeOf(objects)) / 1e3 / ms
}

async function getRanges(
  plain: PlainStore,
  objects: readonly PlainObject[],
  parallel: number,
): Promise<number> {
  const ranges = objects.flatMap(({ key, sizeBytes }) =>
    Array.from({ length: Math.ceil(sizeBytes / RANGE_BYTES) }, (_, i) => {
      const offset = i * RANGE_BYTES
      return { key, offset, lengthBytes: Math.min(RANGE_BYTES, sizeBytes - offset) }
    }),
  )
  const start = performance.now()
  await inParallel(ranges, parallel, ({ key, offset, lengthBytes }) => got(plain, key, offset, lengthBytes))
  return sizeOf(objects) / 1e3 / (performance.now() - start)
}

/** Gets a range; throws unless all of it came. */
export async function got(
  plain: PlainStore,
  key: string,
  offset: number,
  lengthBytes: number,
): Promise<void> {
  const bytes = await plain.get(key, offset, lengthBytes)
  if (bytes !== lengthBytes) throw new Error(`${bytes} bytes of ${key} came, not ${lengthBytes}`)
}
