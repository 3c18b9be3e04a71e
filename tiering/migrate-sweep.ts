import { listKeys } from '../archive/listing.js'
import type { ArchivedKey, ArchiveStore } from '../src/ports/archive-store.js'

/** How an object of two archives is not the same in both. */
export interface Difference extends ArchivedKey {
  /**
   * `absent` from the target, `unread`: there, and nobody has read it back or it has another size; `extra`: in the
   * target alone.
   */
  readonly kind: 'absent' | 'unread' | 'extra'
}

/** What is left out of a comparison, and what counts as not read back yet. */
export interface CompareOptions {
  readonly signal: AbortSignal
  /** Keys that are not compared: marks, and what is known to be no use. */
  readonly ignored: (key: string) => boolean
  /** Keys in the target of which nobody knows whether they are whole. */
  readonly unread: (key: string) => boolean
}

/**
 * Compares two archives by names and sizes, in order of keys: one page of each at a time, however many objects there
 * are. Every key of either is looked at once; what is stored behind the comparison is found by the next one.
 */
export async function* compareArchives(
  source: ArchiveStore,
  target: ArchiveStore,
  { signal, ignored, unread }: CompareOptions,
): AsyncGenerator<Difference, void, undefined> {
  const there = listKeys(source, '', '', signal)[Symbol.asyncIterator]()
  const here = listKeys(target, '', '', signal)[Symbol.asyncIterator]()
  let wanted = await there.next()
  let found = await here.next()
  for (;;) {
    const one = wanted.done === true ? null : wanted.value
    const other = found.done === true ? null : found.value
    if (one === null && other === null) return
    if (other !== null && (one === null || other.key < one.key)) {
      if (!ignored(other.key)) yield { kind: 'extra', ...other }
      found = await here.next()
      continue
    }
    if (one === null) return
    if (!ignored(one.key)) {
      if (other === null || other.key !== one.key) yield { kind: 'absent', ...one }
      else if (other.sizeBytes !== one.sizeBytes || unread(one.key)) yield { kind: 'unread', ...one }
    }
    if (other !== null && other.key === one.key) found = await here.next()
    wanted = await there.next()
  }
}

/** Objects and bytes of an archive, and how many of them another one has already. */
export interface Weighed {
  objects: number
  bytes: number
  thereObjects: number
  thereBytes: number
}

/** What there is to copy. Two listings. `target` null: there is nothing yet. */
export async function weighArchives(
  source: ArchiveStore,
  target: ArchiveStore | null,
  options: CompareOptions,
): Promise<Weighed> {
  const weighed = { objects: 0, bytes: 0, thereObjects: 0, thereBytes: 0 }
  for await (const { key, sizeBytes } of listKeys(source, '', '', options.signal)) {
    if (options.ignored(key)) continue
    weighed.objects += 1
    weighed.bytes += sizeBytes
  }
  if (target === null) return weighed
  weighed.thereObjects = weighed.objects
  weighed.thereBytes = weighed.bytes
  for await (const { kind, sizeBytes } of compareArchives(source, target, options)) {
    if (kind === 'extra') continue
    weighed.thereObjects -= 1
    weighed.thereBytes -= sizeBytes
  }
  return weighed
}
