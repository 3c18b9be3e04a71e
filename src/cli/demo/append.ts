import { performance } from 'node:perf_hooks'
import { present } from '../../model/assert.js'
import { formatCount, plural } from '../render.js'
import { eventStream } from './compare.js'
import type { DemoRun } from './context.js'

/** Records appended one by one, each awaited, to measure what a single append takes. */
const LONE_APPENDS = 50
const MB = 1_000_000

/** What is there of each stream, by name. */
export type Progress = Map<string, number>

/** Appends to all streams side by side until each holds that share of its events; what is there is left alone. */
export async function appendUntil(run: DemoRun, there: Progress, share: number, what: string): Promise<void> {
  const parts = run.source.streams.map((source) => {
    const from = there.get(source.name) ?? 0
    return { source, from, until: Math.max(from, Math.ceil(source.events.length * share)) }
  })
  const left = () => parts.reduce((sum, { from, until }) => sum + until - from, 0)
  const streams = parts.filter(({ from, until }) => until > from).length
  const total = left()
  if (total === 0) {
    await run.out.step('append', `nothing to do: the ${what} are there from an earlier run`, { records: 0 })
    return
  }
  // One by one first: the bulk would stand in front of them in the queue of the disks.
  const lone = await loneAppends(run, parts)
  const bulk = left()
  const startedMs = performance.now()
  const done = new Map<string, { count: number; bytes: number }>()
  const sum = (key: 'count' | 'bytes') => [...done.values()].reduce((all, one) => all + one[key], 0)
  const summaries = await Promise.all(
    parts.map(({ source, from, until }) =>
      eventStream(run.log, source.name).appendAll(source.events.slice(from, until), {
        txid: (event) => event.txid,
        signal: run.signal,
        onProgress: (so) => {
          done.set(source.name, so)
          run.out.progress('append', bulk, sum('count'), source.name)
        },
      }),
    ),
  )
  const tookMs = performance.now() - startedMs
  for (const { source, until } of parts) there.set(source.name, until)
  const bytes = summaries.reduce((all, one) => all + one.bytes, 0)
  const rate = bytes / MB / (tookMs / 1_000)
  const lastly =
    lone.length === 0 ? '' : `   p50 ${medianMs(lone).toFixed(1)} ms (${lone.length} lone appends)`
  const text = `${formatCount(total)} ${what} → ${plural(streams, 'stream')}   ${rate.toFixed(1)} MB/s${lastly}`
  await run.out.step('append', text, {
    records: total,
    bytes,
    tookMs: Math.round(tookMs),
    megabytesPerSecond: Number(rate.toFixed(2)),
    ...(lone.length === 0 ? {} : { loneAppends: lone.length, p50Ms: Number(medianMs(lone).toFixed(3)) }),
  })
}

/** Milliseconds of each lone append, taken from the stream that has the most to append; moves its `from` on. */
async function loneAppends(
  run: DemoRun,
  parts: { readonly source: DemoRun['source']['streams'][number]; from: number; readonly until: number }[],
): Promise<number[]> {
  const [most] = [...parts].sort((a, b) => b.until - b.from - (a.until - a.from))
  if (most === undefined) return []
  const tookMs: number[] = []
  const stream = eventStream(run.log, most.source.name)
  // The first append makes the stream, its writer and its segment: that is not what is measured.
  const next = Math.min(most.until, most.from + LONE_APPENDS + 1)
  for (let warm = true; most.from < next; most.from += 1, warm = false) {
    run.signal.throwIfAborted()
    const event = present(most.source.events[most.from], 'event')
    const startedMs = performance.now()
    await stream.append(event, { txid: event.txid })
    if (!warm) tookMs.push(performance.now() - startedMs)
  }
  return tookMs
}

function medianMs(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? 0
}
