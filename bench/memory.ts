import { join } from 'node:path'
import process from 'node:process'
import { openLog } from 'stratalog'
import { appendClosedLoop, KIB_RECORD, MIB, quiet } from './load.js'
import { openColdLog, readAll } from './read.js'
import { type Bench, type BenchMember, type BenchResult, result, valueAtMost } from './result.js'

const RSS_MB_MAX = 300
/** Flat: the second half may not take more than this above the first. */
const GROWTH_MAX = 1.1
const SAMPLE_MS = 20

export const MEMORY_MEMBERS: readonly BenchMember[] = [
  {
    names: ['memory.path'],
    what: 'peak RSS while 2 GB pass through append, tiering and cold read',
    run: memoryPath,
  },
  {
    names: ['memory.steady'],
    what: 'peak RSS while 10 GB of 1 KiB records are appended and trimmed behind',
    run: memorySteady,
  },
]

async function memoryPath(bench: Bench): Promise<BenchResult[]> {
  const bytes = bench.bytes(2_048 * MIB, 4 * MIB)
  const peak = samplePeak()
  await using log = await openColdLog(bench, join(bench.directory, 'archive'), bytes)
  await readAll(log, ['bench'], 'cold', bytes)
  return [
    valueAtMost(
      {
        name: 'memory.path',
        value: Math.max(peak.stop(), process.resourceUsage().maxRSS / 1e3),
        unit: 'MB',
        what: 'MB of payload that passed',
        reference: bytes / 1e6,
      },
      RSS_MB_MAX,
    ),
  ]
}

/** The agent trims behind the writers, so the disk holds a few segments at a time. */
async function memorySteady(bench: Bench): Promise<BenchResult[]> {
  const half = Math.ceil(bench.bytes(5e9, 4 * MIB) / 1024)
  const keep = { max: '256 MiB' }
  await using log = await openLog(join(bench.directory, 'log'), {
    ...quiet(bench),
    tiering: 'run',
    defaults: { keep },
  })
  const first = samplePeak()
  await appendClosedLoop(log, ['bench'], KIB_RECORD, half)
  const firstPeak = first.stop()
  const second = samplePeak()
  await appendClosedLoop(log, ['bench'], KIB_RECORD, half)
  const secondPeak = second.stop()
  return [
    result(
      {
        name: 'memory.steady',
        value: Math.max(firstPeak, secondPeak),
        unit: 'MB',
        what: 'peak of the first half',
        reference: firstPeak,
      },
      `value <= ${RSS_MB_MAX}, ratio <= ${GROWTH_MAX}`,
      (ratio, value) => value <= RSS_MB_MAX && ratio <= GROWTH_MAX,
    ),
  ]
}

/** Looks at the process's memory until it is stopped; MB. */
export function samplePeak(): { stop(): number } {
  let peak = 0
  const look = (): void => {
    peak = Math.max(peak, process.memoryUsage.rss() / 1e6)
  }
  look()
  const timer = setInterval(look, SAMPLE_MS)
  return {
    stop: () => {
      clearInterval(timer)
      look()
      return peak
    },
  }
}
