import { isStratalogError } from '../../src/model/errors.js'
import type { ArchiveContext } from '../../src/ports/archive-store.js'

/** What an archive says that can be read and takes nothing now: it is full, read-only, in safe mode, or not ours to write. */
const REFUSALS = ['archive_full', 'access_denied', 'archive_unavailable'] as const

/**
 * Whether an archive can be written, as far as was tried. One that is new must be, or it is not opened. One that a log
 * has used is opened where it can only be read: its history is there, what is to be copied waits on the stores (invariant
 * 4), and each write tries again first, so that it goes on by itself once there is room or the right.
 */
export class Writing {
  readonly #prepare: () => Promise<void>
  #ready = false
  #preparing: Promise<void> | null = null

  /** `prepare` makes what writes need and tries one; it fails in the words of the port, and may be repeated. */
  constructor(prepare: () => Promise<void>) {
    this.#prepare = prepare
  }

  /** While the archive is opened: rejects where it has to be one that can be written, and is none. */
  async begin({ existing, readOnly, logger, signal }: ArchiveContext, location: string): Promise<void> {
    if (readOnly === true) {
      this.#ready = true
      return
    }
    try {
      await this.ready()
    } catch (error) {
      signal.throwIfAborted()
      if (!existing || !isStratalogError(error) || !REFUSALS.some((code) => code === error.code)) throw error
      const { code, message } = error
      logger.warn({ archive: location, code, reason: message }, 'the archive can be read and not written now')
    }
  }

  /** Before each write: resolves where it can be written, else rejects with why it can't. Tries once for all who wait. */
  async ready(signal?: AbortSignal): Promise<void> {
    if (this.#ready) return
    this.#preparing ??= this.#prepare()
      .then(() => {
        this.#ready = true
      })
      .finally(() => {
        this.#preparing = null
      })
    await abortable(this.#preparing, signal)
  }

  /** What was found out is too old to be believed: the next write finds it out again. */
  doubt(): void {
    this.#ready = false
  }
}

/** Waits for what goes on without this caller. */
async function abortable(work: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) return work
  signal.throwIfAborted()
  let abort = (): void => {}
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(signal.reason)
    signal.addEventListener('abort', abort, { once: true })
  })
  try {
    await Promise.race([work, aborted])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}
