import { optionalCalls } from '../../archive/forward.js'
import { decodeSegmentKey } from '../../src/format/archive-names.js'
import { StratalogError } from '../../src/model/errors.js'
import type { ArchiveEngine, ArchiveStore } from '../../src/ports/archive-store.js'

/** Objects of segments in a class that is not read at once, as a bucket's lifecycle rule moves them there. */
export class Freezer {
  /** Which keys lie in it. */
  frozen: (key: string) => boolean = () => false
  /** Asked for, and readable only when the test says so. */
  readonly asked: Map<string, number> = new Map<string, number>()
  readonly #thawed = new Set<string>()
  /** What asking for one fails with. */
  refuse: ((key: string) => StratalogError | null) | null = null

  /** All segments written until now. */
  freezeSegments(): void {
    this.frozen = (key) => decodeSegmentKey(key) !== null
  }

  /** What was asked for can be read from now on. */
  thawAsked(): void {
    for (const key of this.asked.keys()) this.#thawed.add(key)
  }

  isReadable(key: string): boolean {
    return !this.frozen(key) || this.#thawed.has(key)
  }
}

/** An engine whose objects have to be thawed as the freezer says. */
export function thawingArchive(engine: ArchiveEngine, freezer: Freezer): ArchiveEngine {
  return {
    apiVersion: 1,
    name: engine.name,
    open: async (context) => wrap(await engine.open(context), freezer),
  }
}

function wrap(store: ArchiveStore, freezer: Freezer): ArchiveStore {
  return {
    ...optionalCalls(store),
    location: store.location,
    capabilities: { ...store.capabilities, thaw: true },
    putIfAbsent: (key, body, options) => store.putIfAbsent(key, body, options),
    head: (key, signal) => store.head(key, signal),
    readRange: async (key, offset, lengthBytes, signal) => {
      if (freezer.isReadable(key)) return store.readRange(key, offset, lengthBytes, signal)
      throw new StratalogError('thawing', `${key} lies in class FROZEN, which is not read at once`)
    },
    listFrom: (prefix, after, limit, signal) => store.listFrom(prefix, after, limit, signal),
    delete: (key, signal) => store.delete(key, signal),
    thaw: async (key) => {
      const refused = freezer.refuse?.(key) ?? null
      if (refused !== null) throw refused
      if ((await store.head(key)) === null)
        throw new StratalogError('object_not_found', `there is no ${key}`, { found: key })
      if (freezer.isReadable(key)) return 'readable'
      freezer.asked.set(key, (freezer.asked.get(key) ?? 0) + 1)
      return 'thawing'
    },
    findings: () =>
      Promise.resolve([{ name: 'classes', state: 'ok', text: 'objects may have to be thawed' }]),
    close: () => store.close(),
  }
}
