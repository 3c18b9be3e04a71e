import { setTimeout as sleep } from 'node:timers/promises'
import type { TieringEvent } from '../../../tiering/context.js'
import { StratalogError } from '../../model/errors.js'
import { effectiveRollAge } from '../../model/policy.js'
import { isClosed, type SegmentRow } from '../../model/segment.js'
import { formatBytes, formatDuration } from '../../model/units.js'
import { plural } from '../render.js'
import type { DemoRun } from './context.js'

/** A wait for the policy is cut into pieces of this length, so that what changes meanwhile is seen. */
const WAIT_MS_MAX = 1_000
/** Beyond this without any step done something is wrong that waiting does not mend. */
const STALLED_MS = 60_000

/** What the agent did since the run began, and its first failure. */
class Tally {
  sealedByAgent = 0
  copied = 0
  copiedBytes = 0
  evicted = 0
  freedBytes = 0
  failure: Error | null = null

  see(event: TieringEvent): void {
    if (event.phase === 'failed') this.failure ??= event.error ?? new Error(`${event.kind} failed`)
    if (event.phase !== 'done') return
    const bytes = event.row?.lengthBytes ?? event.bytes
    if (event.kind === 'seal') this.sealedByAgent += 1
    if (event.kind === 'copy') {
      this.copied += 1
      this.copiedBytes += bytes
    }
    if (event.kind === 'evict') {
      this.evicted += 1
      this.freedBytes += bytes
    }
  }
}

/** What was freed on the hot stores. */
export interface Freed {
  readonly evicted: number
  readonly freedBytes: number
}

/**
 * Lets the policy seal what is open and copies everything that is sealed, each object read back. What has been hot
 * for long enough goes meanwhile, as the policy says: that is what is returned.
 */
export async function sealAndCopy(run: DemoRun): Promise<Freed> {
  const before = await segmentsOf(run)
  const total = before.filter((row) => !inArchive(row)).length
  const tally = await work(run, {
    what: 'roll.age',
    left: (rows) => rows.filter((row) => !inArchive(row)).length,
    draw: (done, waits) =>
      run.out.progress('copy', total, done.copied, `${waits}${done.copied}/${total} verified`),
  })
  const { policy } = (await run.log.policyOf(run.source.streams[0]?.name ?? 'demo')).resolved
  const age = formatDuration(effectiveRollAge(policy).ms)
  const sealed = `by policy: ${formatBytes(policy.roll.sizeBytes)} or ${age}`
  if (total === 0) {
    await run.out.step('seal', `${sealed}   nothing is open`, { segments: 0 })
    await run.out.step('copy', 'nothing to do: all segments are in the archive, verified', { segments: 0 })
    return tally
  }
  const byAge = tally.sealedByAgent
  const full = (row: SegmentRow) => row.state === 'sealed' && row.lengthBytes >= policy.roll.sizeBytes
  const bySize = before.filter(full).length
  // Those an earlier run left open were closed when the log was closed or recovered.
  const atClose = total - bySize - byAge
  const how = `${bySize} by size, ${byAge} by age${atClose === 0 ? '' : `, ${atClose} when an earlier run ended`}`
  await run.out.step('seal', `${sealed}   ${plural(total, 'segment')} (${how})`, {
    segments: total,
    bySize,
    byAge,
    atClose,
  })
  const copied = `${plural(tally.copied, 'segment')}, ${formatBytes(tally.copiedBytes)} → archive, read back`
  await run.out.step('copy', `${copied}   ${tally.copied}/${total} verified`, {
    segments: tally.copied,
    bytes: tally.copiedBytes,
    verified: tally.copied,
  })
  return tally
}

/** Waits until everything in the archive has been hot for long enough, and frees it; `before`: what went already. */
export async function evict(run: DemoRun, before: Freed): Promise<void> {
  const hotCopies = (rows: readonly SegmentRow[]) => rows.filter((row) => row.state === 'archived').length
  const total = hotCopies(await segmentsOf(run))
  const tally = await work(run, {
    what: 'hot.for',
    left: hotCopies,
    draw: (done, waits) =>
      run.out.progress('evict', total, done.evicted, `${waits}${done.evicted}/${total} freed`),
  })
  const { policy } = (await run.log.policyOf(run.source.streams[0]?.name ?? 'demo')).resolved
  const hotFor = formatDuration(policy.hot.forMs ?? 0)
  const segments = before.evicted + tally.evicted
  const freedBytes = before.freedBytes + tally.freedBytes
  const text = `${plural(segments, 'segment')} (hot.for ${hotFor} passed)   ${formatBytes(freedBytes)} freed`
  const nothing = 'nothing to do: no segment has a hot copy to free'
  await run.out.step('evict', segments === 0 ? nothing : text, { segments, freedBytes })
}

interface Work {
  /** What is waited for, for people. */
  readonly what: string
  /** Segments that still have to get there; the work ends at 0. */
  readonly left: (rows: readonly SegmentRow[]) => number
  /** `waits` is '' or says what is waited for. */
  readonly draw: (done: Tally, waits: string) => void
}

/** Runs the agent until nothing is left to do, waiting where the policy says so. The first failure ends it. */
async function work(run: DemoRun, { what, left, draw }: Work): Promise<Tally> {
  const tally = new Tally()
  const end = run.log.tier.onEvent((event) => {
    tally.see(event)
    if (event.phase === 'done') draw(tally, '')
  })
  try {
    let lastLeft = Number.POSITIVE_INFINITY
    let stalledMs = 0
    for (;;) {
      run.signal.throwIfAborted()
      const now = left(await segmentsOf(run))
      if (now === 0) return tally
      stalledMs = now < lastLeft ? 0 : stalledMs
      lastLeft = now
      if (stalledMs > STALLED_MS) throw stalled(now)
      const report = await run.log.tier.run({ until: 'settled', signal: run.signal })
      if (tally.failure !== null) throw tally.failure
      if (report.nextDueMs === null || left(await segmentsOf(run)) === 0) continue
      const waitMs = Math.min(WAIT_MS_MAX, Math.max(10, report.nextDueMs - Date.now()))
      draw(tally, `waiting for ${what}, `)
      await sleep(waitMs, undefined, { signal: run.signal })
      stalledMs += waitMs
    }
  } finally {
    end()
  }
}

function stalled(left: number): StratalogError {
  return new StratalogError(
    'timeout',
    `${left} segments did not move for ${STALLED_MS / 1_000} s: see "stratalog tier plan" and the log on stderr, then run the demo again`,
    { retryable: true, found: left },
  )
}

function inArchive(row: SegmentRow): boolean {
  return isClosed(row.state) && row.state !== 'sealed'
}

async function segmentsOf(run: DemoRun): Promise<SegmentRow[]> {
  const rows: SegmentRow[] = []
  for (const { name } of run.source.streams) {
    if ((await run.log.streams.find(name)) === null) continue
    for await (const row of run.log.segments(name)) rows.push(row)
  }
  return rows
}
