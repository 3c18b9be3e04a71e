import { listControlKeys } from '../archive/control-objects.js'
import { SharedRequest, sharedResult } from '../archive/shared-request.js'
import type { ControlKey } from '../src/format/archive-names.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'

type Look = SharedRequest<readonly ControlKey[]>

/**
 * Looks at the decisions on the whole log that an archive has, for all who ask at a time. Whoever asks is answered by a
 * listing that began after that: what another log did before is in it. So copies of many small segments, each of which
 * has to be sure twice whose archive it is, don't list the same few names twice each.
 */
export class OwnerLook {
  readonly #archive: ArchiveStore
  #running: Look | null = null
  /** Begins when the one that runs has ended; until then whoever asks may join it. */
  #next: Look | null = null

  constructor(archive: ArchiveStore) {
    this.#archive = archive
  }

  /** The names of control objects of the log, in order. Rejects with what the listing failed with. */
  ask(signal?: AbortSignal): Promise<readonly ControlKey[]> {
    if (this.#next?.live !== true) this.#next = this.#begin()
    return sharedResult(this.#next, signal)
  }

  #begin(): Look {
    const before = this.#running?.result
    const look: Look = new SharedRequest(async (signal) => {
      // Also without one before it this is a turn, so that all who ask in one share a look. What became of the one
      // before is told to who asked for it.
      await before?.catch(() => undefined)
      if (this.#next === look) this.#next = null
      signal.throwIfAborted()
      this.#running = look
      try {
        return await listControlKeys(this.#archive, null, signal)
      } finally {
        if (this.#running === look) this.#running = null
      }
    })
    // Everybody may have gone before it began.
    look.result.catch(() => undefined)
    return look
  }
}
