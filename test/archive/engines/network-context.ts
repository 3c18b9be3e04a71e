import type { ArchiveContext } from '../../../src/ports/archive-store.js'
import type { Clock } from '../../../src/ports/clock.js'
import { realClock } from '../../../src/system/clock.js'
import { realDisk } from '../../../src/system/disk.js'
import { silentLogger } from '../../../src/system/logger.js'
import { realRandom } from '../../../src/system/random.js'

/** Waits between attempts are this much shorter than an engine wants them: a suite makes thousands. */
const HASTE = 20

/** What an engine gets that talks to a real server: real time, but for the waits between attempts. */
export function networkContext(): ArchiveContext {
  const clock = realClock()
  const hasty: Clock = {
    nowMs: () => clock.nowMs(),
    monotonicMs: () => clock.monotonicMs(),
    setTimer: (delayMs, fire) => clock.setTimer(delayMs, fire),
    sleep: (delayMs, signal) => clock.sleep(delayMs / HASTE, signal),
  }
  return {
    clock: hasty,
    random: realRandom(),
    logger: silentLogger(),
    disk: realDisk(),
    signal: new AbortController().signal,
    existing: false,
  }
}
