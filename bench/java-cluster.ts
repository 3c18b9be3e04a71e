import process from 'node:process'
import type { JavaClient } from '../test/helpers/java.js'
import type { JavaTimes } from '../test/helpers/java-verbs.js'
import type { Bookies } from '../test/servers/bookkeeper.js'
import { fromSources } from './remote.js'
import { type Bench, type BenchResult, LeftOut } from './result.js'

/*
 * Three bookies and the original Java clients beside ours, which take turns. Each client is timed in its own process.
 */

export type { JavaTimes } from '../test/helpers/java-verbs.js'

/** What stands in the column of the reference. */
export const JAVA = 'the Java client'

/** What a piece of work took. */
export type Effort = Pick<JavaTimes, 'wallMs' | 'cpuMs'>

/** Begins to measure; the function ends it. */
export function startEffort(): () => Effort {
  const beganMs = performance.now()
  const before = process.cpuUsage()
  return () => {
    const { user, system } = process.cpuUsage(before)
    return { wallMs: performance.now() - beganMs, cpuMs: (user + system) / 1_000 }
  }
}

/** Bookies that run, and Java beside them. */
export interface JavaCluster {
  readonly bookies: Bookies
  readonly java: JavaClient
}

/** Starts both for a member. Left out where they can't be had. */
export async function withJavaCluster(
  bench: Bench,
  run: (cluster: JavaCluster) => Promise<BenchResult[]>,
): Promise<BenchResult[]> {
  const { prepared } = await fromSources(() => import('../test/servers/cache.js'))
  for (const name of ['bookkeeper', 'java-clients'] as const) {
    const there = await prepared(name)
    if ('why' in there) throw new LeftOut(there.why)
  }
  const { startBookies } = await fromSources(() => import('../test/servers/bookkeeper.js'))
  const { startJava } = await fromSources(() => import('../test/helpers/java.js'))
  const optimize = !bench.short
  // Ledgers that ZooKeeper does not name are freed, and some of these are named in SQLite: not while this runs.
  const bookies = await startBookies({ optimize, config: { gcWaitTime: 3_600_000 } })
  try {
    const java = await startJava({ zookeeper: bookies.zk.address, optimize })
    try {
      return await run({ bookies, java })
    } finally {
      await java.close()
    }
  } finally {
    await bookies.stop()
  }
}
