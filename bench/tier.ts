import { randomFillSync } from 'node:crypto'
import { closeSync, fdatasyncSync, openSync, readSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { type Log, openLog } from 'stratalog'
import { appendClosedLoop, atRest, KIB_RECORD, MIB, quiet, WarmLog } from './load.js'
import { dropCache, filesBelow, type Speed } from './probe.js'
import { alternate, type Bench, type BenchMember, type BenchResult, median, ratioAtLeast } from './result.js'

const SEGMENT_BYTES = 64 * MIB
/** Distinct records: more than LZ4 looks back, so that none is found again. */
const RECORDS = 512
const STREAMS = 1_000
/** Stores rewrite what was interleaved once they rest; see read.hot.1000streams. */
const REST_MS = 3_000

export const TIER_MEMBERS: readonly BenchMember[] = [
  {
    names: ['tier.copy'],
    what: 'a backlog of 64 MiB segments into a directory archive, every byte read back',
    run: copyOne,
  },
  {
    names: ['tier.copy.1000streams'],
    what: 'the same of 1,000 streams that were written interleaved, page cache dropped',
    run: copyMany,
  },
  {
    names: ['append.while_tiering'],
    what: 'as append.1stream, beside the copying of another stream at full speed',
    run: whileTiering,
  },
]

async function copyOne(bench: Bench): Promise<BenchResult[]> {
  const bytes = bench.bytes(512 * MIB, 4 * MIB)
  await using log = await openTieredLog(bench)
  let round = 0
  const found = await alternate(bench.rounds, {
    log: async () => {
      round += 1
      await fill(log, [`round-${round}`], bytes)
      return copyAll(log, bytes)
    },
    plain: () => plainCopyAndRead(filesBelow(join(log.directory, 'stores', '1')), bytes, bench.directory),
  })
  return [
    ratioAtLeast(
      {
        name: 'tier.copy',
        value: median(found.log),
        unit: 'MB/s',
        what: 'plain copy in 64 MiB files, fdatasync at the end of each, and a read of the same bytes',
        reference: median(found.plain),
      },
      0.35,
    ),
  ]
}

async function copyMany(bench: Bench): Promise<BenchResult[]> {
  const count = bench.short ? 20 : STREAMS
  const bytes = count * bench.bytes(MIB, MIB / 16)
  await using log = await openTieredLog(bench)
  const names = Array.from({ length: count }, (_, i) => `stream-${i}`)
  // Control objects of a stream are written once: what is measured is what goes on for ever.
  await fill(log, names, count * 1024)
  await copyAll(log, count * 1024)
  const prepared = async (streams: number): Promise<void> => {
    await fill(log, names.slice(0, streams), bytes)
    // Streams that were written interleaved are sorted by the stores before they are copied.
    await atRest(log.directory, bench.amount(REST_MS, 100))
    dropCache(filesBelow(join(log.directory, 'stores')))
  }
  const found = await alternate(bench.rounds, {
    one: async () => {
      await prepared(1)
      return copyAll(log, bytes)
    },
    many: async () => {
      await prepared(count)
      return copyAll(log, bytes)
    },
  })
  return [
    ratioAtLeast(
      {
        name: 'tier.copy.1000streams',
        value: median(found.many),
        unit: 'MB/s',
        what: 'the same bytes of one stream, page cache dropped',
        reference: median(found.one),
      },
      0.6,
    ),
  ]
}

/** The archive has a backlog that lasts longer than the appends; what is left of it is copied between the rounds. */
async function whileTiering(bench: Bench): Promise<BenchResult[]> {
  const bytes = Math.min(128 * MIB, bench.bytes(128 * MIB, 2 * MIB))
  // One log: what is appended is trimmed between the rounds, a backlog is copied and its files come back as well.
  await using warm = await WarmLog.open(bench, 3 * bytes, { archive: join(bench.directory, 'archive') })
  let round = 0
  let copied = 0
  const backlog = async (): Promise<void> => {
    round += 1
    const names = Array.from({ length: 2 }, (_, i) => `backlog-${round}/${i}`)
    for (const name of names)
      await warm.log.stream(name).setPolicy({ keep: 'forever', hot: { for: '1ms' }, evict: { lag: '0s' } })
    await fill(warm.log, names, 2 * bytes)
  }
  const tiering = async (): Promise<Speed> => {
    await backlog()
    const copying = warm.log.tier.run({ until: 'settled' })
    const speed = await warm.append(1, KIB_RECORD, { bytes })
    const report = await copying
    if (report.failed.length > 0) throw new Error(`copying failed: ${report.failed[0]?.error}`)
    copied += report.copied
    return speed
  }
  const alone = () => warm.append(1, KIB_RECORD, { bytes })
  const found = await alternate(bench.rounds, { alone, tiering })
  if (copied === 0) throw new Error('nothing was copied beside the writers')
  const speed = (of: readonly Speed[]) => median(of.map((one) => one.mbPerSecond))
  return [
    ratioAtLeast(
      {
        name: 'append.while_tiering',
        value: speed(found.tiering),
        unit: 'MB/s',
        what: `the same without a copy beside it; ${copied} segments were copied in ${bench.rounds} rounds`,
        reference: speed(found.alone),
      },
      0.8,
    ),
  ]
}

function openTieredLog(bench: Bench): Promise<Log> {
  const archive = join(bench.directory, 'archive')
  return openLog(join(bench.directory, 'log'), {
    ...quiet(bench),
    archive,
    defaults: { roll: { size: bench.short ? '1 MiB' : SEGMENT_BYTES }, keep: 'forever' },
  })
}

/** Appends so many bytes, spread over the streams in turn, and seals them. */
async function fill(log: Log, names: readonly string[], bytes: number): Promise<void> {
  const records = halfRandom()
  let next = 0
  const record = () => records[next++ % records.length] ?? KIB_RECORD
  // Streams are opened a few at a time: a thousand at once would measure that.
  await appendClosedLoop(log, names, record, names.length, 64)
  await appendClosedLoop(log, names, record, bytes / 1024 - names.length)
  for (const name of names) await log.stream(name).seal()
}

/** Copies everything that is sealed; MB/s of payload. */
async function copyAll(log: Log, bytes: number): Promise<number> {
  const start = performance.now()
  const report = await log.tier.run({ until: 'settled' })
  const ms = performance.now() - start
  if (report.failed.length > 0 || report.copied === 0)
    throw new Error(`copying failed: ${report.failed[0]?.error}`)
  return bytes / 1e3 / ms
}

/** Records of 1 KiB that LZ4 makes half as long, as it does logs and JSON. */
function halfRandom(): Uint8Array[] {
  return Array.from({ length: RECORDS }, () => {
    const record = Buffer.from(KIB_RECORD)
    randomFillSync(record, 0, 512)
    return record
  })
}

/** Reads `bytes` of files, writes them to files of a segment's size, syncs each at its end, reads them; MB/s. */
function plainCopyAndRead(files: readonly string[], bytes: number, parent: string): number {
  const chunk = Buffer.allocUnsafe(MIB)
  const paths: string[] = []
  let out = -1
  let total = 0
  let inFile = SEGMENT_BYTES
  const start = performance.now()
  const finish = () => {
    if (out >= 0) {
      fdatasyncSync(out)
      closeSync(out)
    }
  }
  for (const file of files) {
    const fd = openSync(file, 'r')
    for (let read = readSync(fd, chunk); read > 0 && total < bytes; read = readSync(fd, chunk)) {
      if (inFile >= SEGMENT_BYTES) {
        finish()
        paths.push(join(parent, `plain-${paths.length}`))
        out = openSync(paths.at(-1) ?? '', 'w')
        inFile = 0
      }
      writeSync(out, chunk, 0, read)
      inFile += read
      total += read
    }
    closeSync(fd)
  }
  finish()
  for (const path of paths) {
    const fd = openSync(path, 'r')
    while (readSync(fd, chunk) > 0);
    closeSync(fd)
  }
  const ms = performance.now() - start
  for (const path of paths) rmSync(path)
  return total / 1e3 / ms
}
