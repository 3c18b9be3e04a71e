import { join } from 'node:path'
import { openLog } from 'stratalog'
import { KIB_RECORD, MIB, quiet } from './load.js'
import { PlainFiles } from './probe.js'
import {
  alternate,
  type Bench,
  type BenchMember,
  type BenchResult,
  percentile,
  ratioAtMost,
} from './result.js'

const UNCOUNTED = 200

export const LATENCY_MEMBER: BenchMember = {
  names: ['append.latency', 'append.latency.p99'],
  what: 'one record of 1 KiB at a time',
  run: latency,
}

async function latency(bench: Bench): Promise<BenchResult[]> {
  const plain = new PlainFiles(join(bench.directory, 'plain'), 8 * MIB)
  await using log = await openLog(join(bench.directory, 'log'), quiet(bench))
  const stream = log.stream('bench')
  for (let i = 0; i < UNCOUNTED; i += 1) await stream.append(KIB_RECORD)
  const count = bench.amount(1_000, 40)
  const found = await alternate(bench.rounds, {
    plain: () => plain.latencies(count),
    log: async () => {
      const times: number[] = []
      for (let i = 0; i < count; i += 1) {
        const start = performance.now()
        await stream.append(KIB_RECORD)
        times.push(performance.now() - start)
      }
      return times
    },
  })
  plain.close()
  const at = (fraction: number, name: string, most: number) =>
    ratioAtMost(
      {
        name,
        value: percentile(found.log.flat(), fraction),
        unit: 'ms',
        what: 'three parallel 4 KiB writes and fdatasyncs',
        reference: percentile(found.plain.flat(), fraction),
      },
      most,
    )
  return [at(0.5, 'append.latency', 2.5), at(0.99, 'append.latency.p99', 4)]
}
