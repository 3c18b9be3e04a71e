import { join } from 'node:path'
import process from 'node:process'
import { openLog } from 'stratalog'
import { appendClosedLoop, KIB_RECORD, MIB, quiet } from './load.js'
import { PlainFiles } from './probe.js'
import { type Bench, type BenchMember, type BenchResult, percentile, valueAtMost } from './result.js'

/** Appends are made in batches this far apart: a timer for each would measure timers. */
const TICK_MS = 10
/** Streams opened side by side. */
const OPENERS = 64

export const OPEN_STREAMS_MEMBER: BenchMember = {
  names: ['streams.10000', 'streams.10000.p99'],
  what: '10,000 open streams, one append of 1 KiB a second each: memory, and the time until one is acknowledged',
  run: openStreams,
}

async function openStreams(bench: Bench): Promise<BenchResult[]> {
  const count = bench.short ? 50 : 10_000
  const seconds = bench.amount(20, 1)
  const plain = new PlainFiles(join(bench.directory, 'plain'), 8 * MIB)
  const reference = percentile(await plain.latencies(bench.amount(1_000, 40)), 0.99)
  plain.close()
  await using log = await openLog(join(bench.directory, 'log'), quiet(bench))
  const emptyMb = process.memoryUsage.rss() / 1e6
  const names = Array.from({ length: count }, (_, i) => `sensors/${i}`)
  await appendClosedLoop(log, names.slice(0, OPENERS), KIB_RECORD, OPENERS, OPENERS)
  for (let at = OPENERS; at < count; at += OPENERS) {
    const some = names.slice(at, at + OPENERS)
    await appendClosedLoop(log, some, KIB_RECORD, some.length, some.length)
  }
  const streams = names.map((name) => log.stream(name))
  let peakMb = 0
  const times = await openLoop(count, seconds, async (i) => {
    await streams[i]?.append(KIB_RECORD)
    peakMb = Math.max(peakMb, process.memoryUsage.rss() / 1e6)
  })
  return [
    valueAtMost(
      {
        name: 'streams.10000',
        value: peakMb,
        unit: 'MB',
        what: 'the same log without a stream',
        reference: emptyMb,
      },
      600,
    ),
    valueAtMost(
      {
        name: 'streams.10000.p99',
        value: percentile(times, 0.99),
        unit: 'ms',
        what: 'p99 of three parallel 4 KiB writes and fdatasyncs, nothing beside them',
        reference,
      },
      100,
    ),
  ]
}

/**
 * Does `work` for each of `count` once a second, spread evenly. One whose last work is not done begins late, and the
 * time it was late counts: a process that can't keep up shows it without queueing for ever. Milliseconds.
 */
async function openLoop(
  count: number,
  seconds: number,
  work: (i: number) => Promise<void>,
): Promise<number[]> {
  const times: number[] = []
  const last = Array.from({ length: count }, () => Promise.resolve())
  const start = performance.now()
  const timed = async (before: Promise<void>, i: number, dueMs: number) => {
    await before
    await work(i)
    times.push(performance.now() - dueMs)
  }
  for (let done = 0; done < count * seconds; ) {
    const now = performance.now() - start
    const due = Math.min(count * seconds, Math.floor((now * count) / 1_000))
    for (; done < due; done += 1) {
      const i = done % count
      last[i] = timed(last[i] ?? Promise.resolve(), i, start + ((done + 1) * 1_000) / count)
    }
    await new Promise((resolve) => setTimeout(resolve, TICK_MS))
  }
  await Promise.all(last)
  return times
}
