import type { SegmentKey } from '../src/format/archive-names.js'
import { corrupt } from '../src/format/bytes.js'
import { type BlockRow, decodeBlock } from '../src/format/segment-block.js'
import {
  decodeObjectHeader,
  FOOTER_BYTES,
  objectHeaderBytes,
  type SegmentObjectFooter,
} from '../src/format/segment-object.js'
import type { SegmentObjectMeta } from '../src/format/segment-object-meta.js'
import { present } from '../src/model/assert.js'
import { StratalogError } from '../src/model/errors.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { contentDigestOf, type ObjectRange, readObjectIndex } from './object-index.js'
import type { ContentDigest } from './restore-digest.js'
import { type RecordColumns, SegmentTally } from './segment-tally.js'
import { tallyBlock } from './segment-writer.js'

/** What is asked for at a time. An object that is no larger is read with one request. */
const RANGE_BYTES = 4 * 2 ** 20

export interface VerifyOptions {
  readonly signal?: AbortSignal
  /** Called with the bytes read back so far. */
  readonly onProgress?: (bytes: number) => void
  /** Awaited before each block is checked: others may need the thread. */
  readonly giveWay?: () => Promise<void>
  /** Is fed with the content as well: what an object under another key would state of it. */
  readonly also?: ContentDigest
}

/**
 * Reads every byte of a segment's object back and compares: header with name, each block's checksum, each
 * entry's records, the content digest with the name's, index rows with the blocks, footer with all of it; of an
 * encrypted object every tag, so that nothing counts as verified that can't be decrypted.
 * Resolving is the "verified" without which no hot copy is freed (invariant 4). Throws `corrupt` with key,
 * offset and what differs.
 */
export async function verifySegmentObject(
  store: ArchiveStore,
  key: string,
  expected: SegmentKey,
  options: VerifyOptions = {},
): Promise<void> {
  const { signal } = options
  const found = await store.head(key, signal)
  if (found === null) {
    throw new StratalogError('object_not_found', `${key} is not in ${store.location}: copy the segment again`)
  }
  const { sizeBytes } = found
  if (expected.indexBytes < FOOTER_BYTES || expected.indexBytes > sizeBytes) {
    throw differs(key, sizeBytes, 'the size', `above ${expected.indexBytes}`, sizeBytes)
  }
  const object = { key, sizeBytes, indexBytes: expected.indexBytes }
  const source =
    sizeBytes <= RANGE_BYTES ? await wholeObject(store, key, sizeBytes, signal) : remote(store, signal)
  const { rows, footer, access } = await readObjectIndex(store, object, {
    signal,
    named: expected,
    fetch: source.fetch,
  })
  const header = await source.fetch({ key, offset: 0, lengthBytes: footer.headerBytes })
  const headerBytes = objectHeaderBytes(header, key)
  if (headerBytes !== footer.headerBytes) {
    throw differs(key, 0, 'the size of the header', footer.headerBytes, headerBytes)
  }
  const meta = decodeObjectHeader(header, key, access)
  let doneBytes = expected.indexBytes + footer.headerBytes
  options.onProgress?.(doneBytes)
  checkHeader(key, meta, expected)
  const tally = new SegmentTally(meta, key)
  const digest = await contentDigestOf(store, expected, signal)
  for await (const { range, inRange } of ranges(source, key, rows)) {
    for (const row of inRange) {
      await options.giveWay?.()
      const from = row.offset - present(inRange[0], 'row').offset
      const raw = decodeBlock(range.subarray(from, from + row.blockBytes), row, key, access)
      tallyBlock(tally, raw, row, `${key}: block at ${row.offset}`)
      digest.raw(raw)
      options.also?.raw(raw)
    }
    doneBytes += range.length
    options.onProgress?.(doneBytes)
  }
  checkRows(key, rows, tally.finish())
  checkFooter(key, sizeBytes, footer, meta, tally)
  const digestFound = digest.hex()
  for (const stated of [expected.contentDigest, footer.contentDigest]) {
    if (digestFound !== stated)
      throw differs(key, footer.headerBytes, 'the content digest', stated, digestFound)
  }
}

/** Reads an object back whole and gives the digest of its content as the name `as` would state it. */
export async function verifiedDigestAs(
  store: ArchiveStore,
  { key, parsed }: { readonly key: string; readonly parsed: SegmentKey },
  as: Pick<SegmentKey, 'incarnation' | 'keyId'>,
  options: VerifyOptions = {},
): Promise<string> {
  const also = await contentDigestOf(store, as, options.signal)
  await verifySegmentObject(store, key, parsed, { ...options, also })
  return also.hex()
}

/** Where the bytes of an object are had from while it is read back. */
interface Source {
  readonly fetch: (range: ObjectRange) => Promise<Uint8Array>
  /** A part that is read from its begin to its end, where that has a way of its own. */
  readonly inOrder: (range: ObjectRange) => ReturnType<NonNullable<ArchiveStore['readInOrder']>> | undefined
}

/** Range by range, as it is needed. */
function remote(store: ArchiveStore, signal: AbortSignal | undefined): Source {
  return {
    fetch: ({ key, offset, lengthBytes }) => store.readRange(key, offset, lengthBytes, signal),
    inOrder: ({ key, offset, lengthBytes }) => store.readInOrder?.(key, offset, lengthBytes, signal),
  }
}

/** A small object at once: index, header and blocks of it would be a request each, which costs more than its bytes. */
async function wholeObject(
  store: ArchiveStore,
  key: string,
  sizeBytes: number,
  signal: AbortSignal | undefined,
): Promise<Source> {
  const bytes = await store.readRange(key, 0, sizeBytes, signal)
  if (bytes.length !== sizeBytes) throw differs(key, bytes.length, 'the size', sizeBytes, bytes.length)
  return {
    fetch: async ({ offset, lengthBytes }) => bytes.subarray(offset, offset + lengthBytes),
    inOrder: () => undefined,
  }
}

/** Ranges of whole blocks in order; the next one is fetched while this one is checked. */
async function* ranges(
  source: Source,
  key: string,
  rows: readonly BlockRow[],
): AsyncIterable<{ range: Uint8Array; inRange: BlockRow[] }> {
  const groups: BlockRow[][] = []
  let bytes = Number.POSITIVE_INFINITY
  for (const row of rows) {
    if (bytes + row.blockBytes > RANGE_BYTES) {
      groups.push([])
      bytes = 0
    }
    groups.at(-1)?.push(row)
    bytes += row.blockBytes
  }
  const begin = rows[0]?.offset ?? 0
  const last = rows.at(-1)
  const endBytes = last === undefined ? begin : last.offset + last.blockBytes
  // Blocks follow one another without a gap, as the index was checked for.
  const inOrder = source.inOrder({ key, offset: begin, lengthBytes: endBytes - begin })
  const fetch = (group: BlockRow[] | undefined): Promise<Uint8Array> | null => {
    const first = group?.[0]
    const last = group?.at(-1)
    if (first === undefined || last === undefined) return null
    const lengthBytes = last.offset + last.blockBytes - first.offset
    const range = inOrder?.next(lengthBytes) ?? source.fetch({ key, offset: first.offset, lengthBytes })
    // It is awaited one turn later; when checking throws first, that error is the one to tell.
    range.catch(() => undefined)
    return range
  }
  try {
    let next = fetch(groups[0])
    for (const [i, inRange] of groups.entries()) {
      const range = await present(next, 'range')
      next = fetch(groups[i + 1])
      yield { range, inRange }
    }
  } finally {
    inOrder?.close()
  }
}

function checkHeader(key: string, meta: SegmentObjectMeta, expected: SegmentKey): void {
  const pairs: [string, unknown, unknown][] = [
    ['incarnation', expected.incarnation, meta.incarnation],
    ['segment', expected.segment, meta.segment],
    ['last entry', expected.lastEntryId, meta.lastEntryId],
    ['last slot', expected.lastSlot, meta.lastSlot],
    ['record count', expected.recordCount, meta.recordCount],
    ['first sequenceId', expected.startSequenceId, meta.startSequenceId],
    ['first txid', expected.firstTxid, meta.firstTxid],
    ['last txid', expected.lastTxid, meta.lastTxid],
    ['completion time', expected.completionMs, meta.sealedMs],
  ]
  for (const [what, named, found] of pairs) if (named !== found) throw differs(key, 0, what, named, found)
}

function checkRows(key: string, rows: readonly BlockRow[], columns: readonly RecordColumns[]): void {
  rows.forEach((row, i) => {
    const { firstSequenceId, firstTxid, lastTxid } = present(columns[i], 'block columns')
    const same =
      row.firstSequenceId === firstSequenceId && row.firstTxid === firstTxid && row.lastTxid === lastTxid
    if (same) return
    const stated = `${row.firstSequenceId} ${row.firstTxid} ${row.lastTxid}`
    throw differs(key, row.offset, `index row ${i}`, stated, `${firstSequenceId} ${firstTxid} ${lastTxid}`)
  })
}

function checkFooter(
  key: string,
  sizeBytes: number,
  footer: SegmentObjectFooter,
  meta: SegmentObjectMeta,
  tally: SegmentTally,
): void {
  const stated = `${footer.entryCount} ${footer.lengthBytes} ${footer.recordCount}`
  const found = `${tally.entryCount} ${tally.lengthBytes} ${meta.recordCount}`
  if (stated !== found) throw differs(key, sizeBytes - FOOTER_BYTES, 'the footer', stated, found)
}

function differs(
  key: string,
  offset: number,
  what: string,
  expected: unknown,
  found: unknown,
): StratalogError {
  return corrupt(
    `${key} at ${offset}: ${what} differs (expected ${expected}, found ${found}): copy the segment again`,
    { expected, found, details: { key, offset } },
  )
}
