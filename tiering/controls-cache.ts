import { type ControlObject, listControlKeys, ownerOf, readControls } from '../archive/control-objects.js'
import type { Incarnation } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { TieringContext } from './context.js'

/**
 * What the archive's control objects say at this moment, asked before each deletion. They never change once they are
 * there, so while their names are the same their bodies are not read again: one listing for each object that goes.
 */
export class ControlsCache {
  readonly #context: TieringContext
  readonly #read = new Map<Incarnation, { readonly names: string; readonly controls: ControlObject[] }>()

  constructor(context: TieringContext) {
    this.#context = context
  }

  /** Rejects where any of it can't be read: then nothing is deleted (invariant 8). */
  async fresh(
    archive: ArchiveStore,
    incarnation: Incarnation,
    signal: AbortSignal,
  ): Promise<ControlObject[]> {
    const keys = await listControlKeys(archive, incarnation, signal)
    const names = keys.map(({ number, kind, attempt }) => `${number} ${kind} ${attempt}`).join('\n')
    const known = this.#read.get(incarnation)
    if (known !== undefined && known.names === names) return known.controls
    const controls = await readControls(archive, incarnation, undefined, signal)
    this.#read.clear()
    this.#read.set(incarnation, { names, controls })
    return controls
  }

  /** Whether the archive is still this log's. */
  async owned(archive: ArchiveStore): Promise<boolean> {
    return (await ownerOf(archive))?.logId === this.#context.logId
  }
}
