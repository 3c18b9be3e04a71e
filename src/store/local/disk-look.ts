import { isStratalogError, StratalogError } from '../../model/errors.js'
import type { Clock } from '../../ports/clock.js'
import type { Disk } from '../../ports/disk.js'

/** A disk that does not say how much space it has for this long is taken for unreachable. */
const LOOK_TIMEOUT_MS = 5_000

/** What the file system says of itself. */
export type DiskSpace = Awaited<ReturnType<Disk['space']>>

/** What was seen; `failure` says why nothing was, and `space` is then what was known last of the device. */
export interface Look {
  readonly space: DiskSpace
  readonly failure: StratalogError | null
}

/**
 * Looks at a disk that may be gone or hang, and answers in any case. A call that hangs holds one of the process's few
 * I/O threads, so there is never a second one: until it returns, the answer is at once that the disk does not answer.
 */
export class DiskLook {
  readonly #directory: string
  readonly #clock: Clock
  readonly #see: () => Promise<DiskSpace>
  #last: DiskSpace
  #under: Promise<Look> | null = null
  #hangs: StratalogError | null = null

  /** `device` stands in until the disk has told its own. */
  constructor(directory: string, clock: Clock, device: string, see: () => Promise<DiskSpace>) {
    this.#directory = directory
    this.#clock = clock
    this.#see = see
    this.#last = { freeBytes: 0, totalBytes: 0, device }
  }

  /** Never rejects for what the disk does. */
  take(): Promise<Look> {
    if (this.#hangs !== null) return Promise.resolve(this.#unseen(this.#hangs))
    this.#under ??= this.#take().finally(() => {
      this.#under = null
    })
    return this.#under
  }

  #take(): Promise<Look> {
    return new Promise((resolve, reject) => {
      const timer = this.#clock.setTimer(LOOK_TIMEOUT_MS, () => {
        this.#hangs = this.#unreachable(`no answer within ${LOOK_TIMEOUT_MS} ms`, undefined)
        resolve(this.#unseen(this.#hangs))
      })
      this.#see()
        .finally(() => {
          timer.cancel()
          this.#hangs = null
        })
        .then(
          (space) => {
            this.#last = space
            resolve({ space, failure: null })
          },
          (error: unknown) => {
            if (!isStratalogError(error)) reject(error)
            else resolve(this.#unseen(this.#unreachable(error.message, error)))
          },
        )
    })
  }

  #unseen(failure: StratalogError): Look {
    return { space: { ...this.#last, freeBytes: 0 }, failure }
  }

  #unreachable(why: string, cause: unknown): StratalogError {
    return new StratalogError(
      'store_unavailable',
      `the disk of the store in ${this.#directory} can't be reached: ${why}; check the disk and the mount`,
      { retryable: true, ...(cause === undefined ? {} : { cause }) },
    )
  }
}
