import { createHash, createHmac } from 'node:crypto'
import { ENTRY_HEADER_BYTES } from '../src/format/segment-block.js'
import { assert } from '../src/model/assert.js'
import type { Dlsn } from '../src/model/dlsn.js'

/**
 * The digest that names a segment's content: SHA-256 over entry id (int64), payload length (int32) and
 * payload of each entry in order. Those are the raw bytes of the object's blocks, so writer and verifier hash
 * whole blocks.
 */
export interface ContentDigest {
  entry(entryId: bigint, payload: Uint8Array): void
  /** Bytes that are entries in that form already. */
  raw(bytes: Uint8Array): void
  /** Lower-case hex; ends the digest. */
  hex(): string
}

/**
 * Begins a content digest; one rule for writer, verifier and restore. `key`: of an encrypted object, whose digest is an
 * HMAC, so that its name does not tell who knows a content that this is it; null of others. What an object needs
 * `contentDigestOf` (object-index.ts) finds out.
 */
export function contentDigest(key: Uint8Array | null): ContentDigest {
  const hash = key === null ? createHash('sha256') : createHmac('sha256', key)
  return {
    entry(entryId, payload) {
      const header = Buffer.allocUnsafe(ENTRY_HEADER_BYTES)
      header.writeBigInt64BE(entryId, 0)
      header.writeInt32BE(payload.length, 8)
      hash.update(header).update(payload)
    },
    raw(bytes) {
      hash.update(bytes)
    },
    hex: () => hash.digest('hex'),
  }
}

/** A gap as the restore digest counts it. */
export interface RestoredGap {
  readonly gap: string
  readonly from: Dlsn
  readonly until: Dlsn
}

/** A stream as the restore digest counts it: no incarnation and no attempt, which differ between restores. */
export interface RestoredStream {
  readonly name: string
  /** Ascending. */
  readonly segments: Iterable<{
    readonly segment: bigint
    readonly lastEntryId: bigint
    readonly contentDigest: string
  }>
  /** Ascending by `from`. */
  readonly gaps: Iterable<RestoredGap>
}

/**
 * One value for everything that was restored (invariant 7): SHA-256 over lines of JSON, streams in code-point
 * order of their names:
 *
 *   ["stratalog-restore",1]
 *   ["stream","audit/login"]
 *   ["segment","12","340","<content digest>"]
 *   ["gap","dropped","13:0:0","14:0:0"]
 *
 * @returns `sha256:<hex>`
 */
export function restoreDigest(streams: Iterable<RestoredStream>): string {
  const hash = createHash('sha256')
  const line = (...values: (string | number)[]): void => {
    hash.update(`${JSON.stringify(values)}\n`)
  }
  line('stratalog-restore', 1)
  const sorted = [...streams].sort((a, b) => Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)))
  sorted.forEach((stream, i) => {
    assert(sorted[i - 1]?.name !== stream.name, `stream ${stream.name} is restored twice`)
    line('stream', stream.name)
    let last = 0n
    for (const { segment, lastEntryId, contentDigest } of stream.segments) {
      assert(segment > last, `segments of ${stream.name} are out of order`)
      last = segment
      line('segment', segment.toString(), lastEntryId.toString(), contentDigest)
    }
    for (const { gap, from, until } of stream.gaps) line('gap', gap, from.toString(), until.toString())
  })
  return `sha256:${hash.digest('hex')}`
}
