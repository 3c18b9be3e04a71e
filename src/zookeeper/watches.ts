import { begin, TYPE, type WatchEvent, XID } from './messages.js'

/** What a watch is left on. */
export type WatchKind = 'data' | 'exists' | 'children'

const KINDS_OF_EVENT: ReadonlyMap<number, readonly WatchKind[]> = new Map<number, readonly WatchKind[]>([
  [1, ['data', 'exists']],
  [2, ['data', 'exists', 'children']],
  [3, ['data', 'exists']],
  [4, ['children']],
])
/** Watches are set again in packets of about this size: a server takes no more than a megabyte at once. */
const PACKET_BYTES = 128 * 1024

/** The watches of a session. Each is called once. */
export class Watches {
  readonly #of: Readonly<Record<WatchKind, Map<string, Set<() => void>>>> = {
    data: new Map(),
    exists: new Map(),
    children: new Map(),
  }

  add(kind: WatchKind, path: string, watch: () => void): void {
    const watches = this.#of[kind].get(path) ?? new Set()
    this.#of[kind].set(path, watches.add(watch))
  }

  /** Lets go of one that nobody waits for any more. The server may still tell of it: that calls nobody. */
  remove(path: string, watch: () => void): void {
    for (const watches of Object.values(this.#of)) {
      const set = watches.get(path)
      if (set?.delete(watch) === true && set.size === 0) watches.delete(path)
    }
  }

  /** Calls those that an event is for. */
  fire(event: WatchEvent): void {
    for (const kind of KINDS_OF_EVENT.get(event.type) ?? []) {
      const watches = this.#of[kind].get(event.path)
      this.#of[kind].delete(event.path)
      for (const watch of watches ?? []) queueMicrotask(watch)
    }
  }

  /** Calls them all: the session is lost. */
  fireAll(): void {
    for (const watches of Object.values(this.#of)) {
      for (const set of watches.values()) for (const watch of set) queueMicrotask(watch)
      watches.clear()
    }
  }

  /** Packets that set them again on a new connection: what changed after `lastZxid` is called at once. */
  packets(lastZxid: bigint): Buffer[] {
    const packets: Buffer[] = []
    let chunk: Record<WatchKind, string[]> = { data: [], exists: [], children: [] }
    let bytes = 0
    const flush = (): void => {
      if (bytes === 0) return
      const writer = begin(TYPE.setWatches, XID.setWatches).long(lastZxid)
      packets.push(writer.strings(chunk.data).strings(chunk.exists).strings(chunk.children).packet())
      chunk = { data: [], exists: [], children: [] }
      bytes = 0
    }
    for (const kind of ['data', 'exists', 'children'] as const) {
      for (const path of this.#of[kind].keys()) {
        chunk[kind].push(path)
        bytes += path.length * 3 + 4
        if (bytes >= PACKET_BYTES) flush()
      }
    }
    flush()
    return packets
  }
}
