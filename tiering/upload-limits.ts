import type { ResolvedPolicy } from '../src/model/policy.js'
import type { StreamRow } from '../src/model/segment.js'
import type { ReplayableBody } from '../src/ports/archive-store.js'
import type { Clock } from '../src/ports/clock.js'
import { Pace } from './pace.js'

/** Limits that are kept ready; a log has few, and one that is made anew only starts without a debt. */
const LIMITS_MAX = 1_000

/**
 * Keeps copies to `limits.upload`. Streams that get their limit from the same line share it: the line says how much of
 * the way to the archive all of them together may take. A stream's own override is its own limit.
 */
export class UploadLimits {
  readonly #clock: Clock
  readonly #limits = new Map<string, { readonly pace: Pace; bytesPerSecond: number }>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /**
   * The body at the rate of the policy, each time it is opened; the body itself where there is no limit. `answered` is
   * called while it waits.
   */
  limited(
    body: ReplayableBody,
    stream: StreamRow,
    { policy, origins }: ResolvedPolicy,
    signal: AbortSignal,
    answered: () => void = () => undefined,
  ): ReplayableBody {
    const bytesPerSecond = policy.limits.uploadBytesPerSecond
    if (bytesPerSecond === null) return body
    const origin = origins['limits.upload']
    const pace = this.#paceOf(origin === 'stream override' ? stream.incarnation : origin, bytesPerSecond)
    // No wait is longer than a second, however slow the rate: whoever watches the copy must hear that it lives.
    const sliceBytes = Math.max(1, Math.floor(bytesPerSecond))
    return {
      sizeBytes: body.sizeBytes,
      open: async function* () {
        for await (const chunk of body.open()) {
          for (let taken = 0; taken < chunk.length; taken += sliceBytes) {
            await pace.take(Math.min(sliceBytes, chunk.length - taken), signal)
            answered()
          }
          yield chunk
        }
      },
    }
  }

  /** A rate that was changed holds from the next bytes on, also for copies under way. */
  #paceOf(key: string, bytesPerSecond: number): Pace {
    const known = this.#limits.get(key)
    if (known !== undefined) {
      known.bytesPerSecond = bytesPerSecond
      return known.pace
    }
    if (this.#limits.size >= LIMITS_MAX) this.#limits.clear()
    const pace = new Pace(this.#clock, () => this.#limits.get(key)?.bytesPerSecond ?? bytesPerSecond, true)
    this.#limits.set(key, { pace, bytesPerSecond })
    return pace
  }
}
