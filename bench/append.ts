import { join } from 'node:path'
import { appendClosedLoop, KIB_RECORD, MIB, OUTSTANDING, WarmLog } from './load.js'
import { PlainFiles, type Speed } from './probe.js'
import {
  alternate,
  type Bench,
  type BenchMember,
  type BenchResult,
  median,
  ratioAtLeast,
  valueAtMost,
} from './result.js'

/** A quarter of what is in flight with 1,000 records of 1 KiB. */
const GROUP_BYTES = 256 * 1024
const BIG_RECORD = Buffer.alloc(64 * 1024, 'stratalog ')

export const APPEND_MEMBERS: readonly BenchMember[] = [
  {
    names: ['append.1stream', 'append.cpu'],
    what: '1 KiB records, three fsynced stores, 1,000 outstanding, and the CPU time of one',
    run: oneStream,
  },
  { names: ['append.64k'], what: '64 KiB records, 256 outstanding, the same stores', run: bigRecords },
  {
    names: ['append.100streams'],
    what: 'as append.1stream, spread over 100 streams',
    run: (bench) => manyStreams(bench, 100, 0.8),
  },
  {
    names: ['append.1000streams'],
    what: 'as append.1stream, spread over 1,000 streams',
    run: (bench) => manyStreams(bench, 1_000, 0.6),
  },
  {
    names: ['append.while_catchup'],
    what: 'as append.1stream, beside a full-speed catch-up reader of another stream',
    run: whileCatchup,
  },
]

/** Bytes of one round: what a store keeps freed files for, with room for headers. */
function roundBytes(bench: Bench): number {
  return Math.min(384 * MIB, bench.bytes(384 * MIB, 4 * MIB))
}

async function oneStream(bench: Bench): Promise<BenchResult[]> {
  const bytes = roundBytes(bench)
  const plain = new PlainFiles(join(bench.directory, 'plain'), bytes)
  await using warm = await WarmLog.open(bench, bytes)
  const found = await alternate(bench.rounds, {
    plain: () => plain.append(GROUP_BYTES),
    log: () => warm.append(1, KIB_RECORD),
  })
  plain.close()
  const what = 'plain loop: three preallocated files, fdatasync per 256 KiB'
  return [
    ratioAtLeast(
      {
        name: 'append.1stream',
        value: speed(found.log),
        unit: 'MB/s',
        what,
        reference: speed(found.plain),
      },
      0.7,
    ),
    valueAtMost(
      {
        name: 'append.cpu',
        value: median(found.log.map((one) => one.cpuMicrosPerKib)),
        unit: 'µs',
        what: `a KiB of the ${what}`,
        reference: median(found.plain.map((one) => one.cpuMicrosPerKib)),
      },
      3.5,
    ),
  ]
}

async function bigRecords(bench: Bench): Promise<BenchResult[]> {
  const bytes = roundBytes(bench)
  const plain = new PlainFiles(join(bench.directory, 'plain'), bytes)
  await using warm = await WarmLog.open(bench, bytes)
  const found = await alternate(bench.rounds, {
    small: () => plain.append(256 * 1024),
    middle: () => plain.append(MIB),
    large: () => plain.append(4 * MIB),
    log: () => warm.append(1, BIG_RECORD, { outstanding: 256 }),
  })
  plain.close()
  return [
    ratioAtLeast(
      {
        name: 'append.64k',
        value: speed(found.log),
        unit: 'MB/s',
        what: 'the best plain loop: fdatasync per 256 KiB, 1 MiB or 4 MiB',
        reference: Math.max(speed(found.small), speed(found.middle), speed(found.large)),
      },
      0.6,
    ),
  ]
}

async function manyStreams(bench: Bench, count: number, least: number): Promise<BenchResult[]> {
  const bytes = roundBytes(bench)
  const streams = bench.short ? Math.ceil(count / 20) : count
  await using warm = await WarmLog.open(bench, bytes)
  const found = await alternate(bench.rounds, {
    one: () => warm.append(1, KIB_RECORD),
    many: () => warm.append(streams, KIB_RECORD),
  })
  return [
    ratioAtLeast(
      {
        name: `append.${count}streams`,
        value: speed(found.many),
        unit: 'MB/s',
        what: 'the same in one stream',
        reference: speed(found.one),
      },
      least,
    ),
  ]
}

/** The reader begins anew whenever it is through, so that it never rests while there are writers. */
async function whileCatchup(bench: Bench): Promise<BenchResult[]> {
  const bytes = roundBytes(bench)
  await using warm = await WarmLog.open(bench, bytes)
  const history = warm.log.stream('history')
  await history.setPolicy({ keep: 'forever' })
  await appendClosedLoop(warm.log, ['history'], KIB_RECORD, Math.floor(bytes / 1024), OUTSTANDING)
  await history.seal()
  let readBytes = 0
  const beside = async (): Promise<Speed> => {
    const stop = new AbortController()
    const reading = readAgainAndAgain(history, stop.signal, (count) => {
      readBytes += count
    })
    const speed = await warm.append(1, KIB_RECORD)
    stop.abort()
    await reading
    return speed
  }
  const found = await alternate(bench.rounds, { alone: () => warm.append(1, KIB_RECORD), beside })
  if (readBytes === 0) throw new Error('the reader beside the writers read nothing')
  const value = speed(found.beside)
  return [
    ratioAtLeast(
      {
        name: 'append.while_catchup',
        value,
        unit: 'MB/s',
        what: `the same without a reader; it read ${Math.round(readBytes / 1e6)} MB in ${bench.rounds} rounds`,
        reference: speed(found.alone),
      },
      0.85,
    ),
  ]
}

async function readAgainAndAgain(
  stream: ReturnType<WarmLog['log']['stream']>,
  signal: AbortSignal,
  count: (bytes: number) => void,
): Promise<void> {
  while (!signal.aborted) {
    for await (const batch of stream.read({ from: 'earliest' }).batches()) {
      for (const record of batch) count(record.payload.length)
      if (signal.aborted) break
    }
  }
}

function speed(found: readonly Speed[]): number {
  return median(found.map((one) => one.mbPerSecond))
}
