import { closeSync, fdatasyncSync, openSync, readSync, rmSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { type Log, openLog } from 'stratalog'
import { appendClosedLoop, KIB_RECORD, MIB, quiet } from './load.js'
import { dropCache, filesBelow } from './probe.js'
import {
  type Bench,
  type BenchMember,
  type BenchResult,
  median,
  percentile,
  ratioAtLeast,
  ratioAtMost,
} from './result.js'
import { SILENT } from './silent.js'

/** The store that is lost. */
const LOST = '3'
/** A writer beside the rebuild appends a record this often, whatever became of the one before. */
const EVERY_MS = 5
const WRITERS = 4
/** Records that each of them appends at least. */
const APPENDS_MIN = 10
/** Milliseconds for which writers are watched without a rebuild. */
const ALONE_MS = 10_000

export const REBUILD_MEMBER: BenchMember = {
  names: ['rebuild.store', 'rebuild.store.p99'],
  what: 'one of three stores with 5 GB lost and built again, beside writers that append steadily',
  run: rebuildStore,
}

async function rebuildStore(bench: Bench): Promise<BenchResult[]> {
  const root = join(bench.directory, 'log')
  const bytes = bench.bytes(5e9, 4 * MIB)
  const alone: number[] = []
  const beside: number[] = []
  const rebuilt: number[] = []
  const copied: number[] = []
  {
    await using log = await openLog(root, quiet(bench))
    await appendClosedLoop(log, ['bench'], KIB_RECORD, bytes / 1024)
  }
  for (let round = 0; round < bench.rounds; round += 1) {
    {
      await using log = await openLog(root, quiet(bench))
      const stop = new AbortController()
      const times = appendSteadily(log, stop.signal)
      await new Promise((resolve) => setTimeout(resolve, bench.amount(ALONE_MS, 200)))
      stop.abort()
      alone.push(...(await times))
    }
    const store = join(root, 'stores', LOST)
    rmSync(store, { recursive: true })
    const files = filesBelow(join(root, 'stores', '1'))
    dropCache(files)
    copied.push(plainCopy(files, join(bench.directory, 'copy')))
    await using log = await openLog(root, { ...quiet(bench), system: { logger: SILENT } })
    dropCache(filesBelow(join(root, 'stores')))
    rebuilt.push(await rebuild(log, store, bytes, beside))
  }
  return [
    ratioAtLeast(
      {
        name: 'rebuild.store',
        value: median(rebuilt),
        unit: 'MB/s',
        what: 'plain copy of another store, synced every 8 MiB',
        reference: median(copied),
      },
      0.5,
    ),
    ratioAtMost(
      {
        name: 'rebuild.store.p99',
        value: percentile(beside, 0.99),
        unit: 'ms',
        what: 'p99 of the same writers without the rebuild',
        reference: percentile(alone, 0.99),
      },
      2,
    ),
  ]
}

/** MB/s of payload. Throws unless all of it was copied. */
async function rebuild(log: Log, store: string, bytes: number, times: number[]): Promise<number> {
  const stop = new AbortController()
  const writers = appendSteadily(log, stop.signal)
  const { stores, upkeep } = log.parts
  const start = performance.now()
  await stores.beginReplace({ store, with: null, bytesPerSecond: null })
  const pass = await upkeep.work(() => {})
  const ms = performance.now() - start
  stop.abort()
  times.push(...(await writers))
  const [done] = pass.works
  if (done === undefined || done.copiedBytes < bytes || done.incompleteLedgers > 0)
    throw new Error(`the store was not built again: ${JSON.stringify(done?.problem ?? pass.failed)}`)
  return done.copiedBytes / 1e3 / ms
}

/** Milliseconds until each record was acknowledged, from when it was due. */
async function appendSteadily(log: Log, signal: AbortSignal): Promise<number[]> {
  const times: number[] = []
  const write = async (_: unknown, writer: number) => {
    const stream = log.stream(`beside/${writer}`)
    await stream.append(KIB_RECORD)
    const under: Promise<void>[] = []
    let dueMs = performance.now()
    for (let count = 0; !signal.aborted || count < APPENDS_MIN; count += 1, dueMs += EVERY_MS) {
      const at = dueMs
      under.push(
        stream.append(KIB_RECORD).then(() => {
          times.push(performance.now() - at)
        }),
      )
      const waitMs = dueMs + EVERY_MS - performance.now()
      if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs))
      if (under.length > 1_000) await Promise.all(under.splice(0))
    }
    await Promise.all(under)
  }
  await Promise.all(Array.from({ length: WRITERS }, write))
  return times
}

/** Reads files, writes their bytes to one other and syncs them now and then; MB/s. */
function plainCopy(files: readonly string[], to: string): number {
  const chunk = Buffer.allocUnsafe(MIB)
  const out = openSync(to, 'w')
  let total = 0
  const start = performance.now()
  for (const file of files) {
    const fd = openSync(file, 'r')
    for (let read = readSync(fd, chunk); read > 0; read = readSync(fd, chunk)) {
      writeSync(out, chunk, 0, read)
      total += read
      if (total % (8 * MIB) < read) fdatasyncSync(out)
    }
    closeSync(fd)
  }
  fdatasyncSync(out)
  const ms = performance.now() - start
  closeSync(out)
  rmSync(to)
  return total / 1e3 / ms
}
