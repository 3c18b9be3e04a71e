import { present } from '../../model/assert.js'
import { formatTime } from '../../model/units.js'
import { formatCount, plural } from '../render.js'
import { eventStream, type ReadBack, readAndCompare } from './compare.js'
import type { DemoRun } from './context.js'
import type { DemoEvent, DemoStream } from './source.js'

const DAY_MS = 86_400_000
const LIMIT = 500

/** Reads by time, by txid and by DLSN, each compared with the source. */
export async function readRanges(run: DemoRun): Promise<void> {
  const bySize = [...run.source.streams].sort((a, b) => b.events.length - a.events.length)
  const largest = present(bySize[0], 'stream')
  await readByTime(run, largest)
  await readByTxid(run, bySize[1] ?? largest)
  await readByDlsn(run, largest)
}

async function readByTime(run: DemoRun, source: DemoStream): Promise<void> {
  const first = timeAt(source, 0.25)
  const end = timeAt(source, 0.6)
  const day = (ms: number) => (end - first > 4 * DAY_MS ? Math.floor(ms / DAY_MS) * DAY_MS : ms)
  const [from, until] = [day(first), day(end)]
  const at = firstAtOrAfter(source, BigInt(from))
  const expected = firstAtOrAfter(source, BigInt(until)) - at
  const range = { from: { time: from }, until: { time: until }, signal: run.signal }
  const found = await readAndCompare(run.log, source, range, at, expected)
  await tell(run, source, 'time', `${formatTime(from)} … ${formatTime(until)}`, found)
}

async function readByTxid(run: DemoRun, source: DemoStream): Promise<void> {
  const txid = BigInt(timeAt(source, 0.8))
  const at = firstAtOrAfter(source, txid)
  const expected = Math.min(LIMIT, source.events.length - at)
  const range = { from: { txid }, limit: LIMIT, signal: run.signal }
  const found = await readAndCompare(run.log, source, range, at, expected)
  await tell(run, source, 'txid', `from txid:${txid}, ${LIMIT} at most`, found)
}

async function readByDlsn(run: DemoRun, source: DemoStream): Promise<void> {
  const at = Math.floor(source.events.length * 0.7)
  const from = { sequenceId: BigInt(at) }
  for await (const { dlsn } of eventStream(run.log, source.name).read({
    from,
    limit: 1,
    signal: run.signal,
  })) {
    const expected = source.events.length - at
    const found = await readAndCompare(run.log, source, { from: dlsn, signal: run.signal }, at, expected)
    await tell(run, source, 'dlsn', `from ${dlsn} to the end`, found)
  }
}

async function tell(
  run: DemoRun,
  source: DemoStream,
  by: string,
  range: string,
  found: ReadBack,
): Promise<void> {
  const tiers = `cold ${formatCount(found.cold)} · hot ${formatCount(found.hot)}`
  await run.out.step('read', `${source.name}  ${range}  ${plural(found.records, 'record')}  ${tiers}`, {
    by,
    stream: source.name,
    range,
    ...found,
    equal: true,
  })
}

function timeAt(source: DemoStream, share: number): number {
  const event = source.events[Math.min(source.events.length - 1, Math.floor(source.events.length * share))]
  return Number(present<DemoEvent>(event, 'event').txid)
}

/** Number of the first event with that txid or a later one. */
function firstAtOrAfter(source: DemoStream, txid: bigint): number {
  const found = source.events.findIndex((event) => event.txid >= txid)
  return found < 0 ? source.events.length : found
}
