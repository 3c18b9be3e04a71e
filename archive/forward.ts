import type { ArchiveStore } from '../src/ports/archive-store.js'

/**
 * The calls an engine may leave out, for a store that wraps another one: each is there exactly where the inner store
 * has it. A wrapper that forgot one would hide it from everybody above.
 */
export function optionalCalls(
  store: ArchiveStore,
): Pick<ArchiveStore, 'removeLeftovers' | 'thaw' | 'findings' | 'readInOrder'> {
  const { removeLeftovers, thaw, findings, readInOrder } = store
  return {
    ...(removeLeftovers === undefined ? {} : { removeLeftovers: () => removeLeftovers.call(store) }),
    ...(thaw === undefined
      ? {}
      : { thaw: (key: string, forMs: number, signal?: AbortSignal) => thaw.call(store, key, forMs, signal) }),
    ...(findings === undefined ? {} : { findings: (signal?: AbortSignal) => findings.call(store, signal) }),
    ...(readInOrder === undefined
      ? {}
      : {
          readInOrder: (key: string, offset: number, lengthBytes: number, signal?: AbortSignal) =>
            readInOrder.call(store, key, offset, lengthBytes, signal),
        }),
  }
}
