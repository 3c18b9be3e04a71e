import type { ContentDigest } from '../archive/restore-digest.js'
import type { SegmentObjectReader } from '../archive/segment-reader.js'
import type { ArchivedEntry } from '../archive/segment-writer.js'
import type { SegmentKey } from '../src/format/archive-names.js'
import { encodeEnvelope, openEnvelope } from '../src/format/entry.js'
import { decodeProducers, encodeProducers } from '../src/format/producers.js'
import {
  controlRecord,
  type DecodedRecord,
  decodeRecords,
  recordBytes,
  writeRecord,
} from '../src/format/record.js'
import { present } from '../src/model/assert.js'
import { Dlsn } from '../src/model/dlsn.js'
import type { RestoreUntil } from './restore-types.js'

/*
 * A restore that ends within a segment takes the entries before that and the records before it of the last one. The
 * positions of what is kept do not change; the last entry is written anew without the records behind.
 */

/** Bytes of payloads read at a time. */
const READ_BYTES = 1024 * 1024

/** Every entry of the object in order. */
export async function* wholeEntries(
  object: SegmentObjectReader,
  signal?: AbortSignal,
): AsyncGenerator<ArchivedEntry> {
  for (let next = 0n; next <= object.lastEntryId; ) {
    const entries = await object.readEntries(next, READ_BYTES, signal)
    yield* entries
    next = present(entries.at(-1), 'an entry').entryId + 1n
  }
}

/** The entries of `segment` before `until`; the last one holds a user record, so that it can tell where it ends. */
export async function* entriesUntil(
  object: SegmentObjectReader,
  segment: bigint,
  until: RestoreUntil,
  signal?: AbortSignal,
): AsyncGenerator<ArchivedEntry> {
  // Entries of control records alone: they come along only where a record follows.
  const waiting: ArchivedEntry[] = []
  for await (const { entryId, payload } of wholeEntries(object, signal)) {
    const records = decodeRecords(openEnvelope(payload))
    const users = records.filter(({ control, endOfStream }) => !control && !endOfStream)
    const kept = users.filter((record) => isBefore(until, segment, entryId, record))
    if (kept.length > 0) {
      yield* waiting.splice(0)
      // Java may put the record that ends the stream behind others: it lies beyond, or nothing were cut here.
      const whole = kept.length === users.length && !records.some(({ endOfStream }) => endOfStream)
      yield {
        entryId,
        payload: whole ? payload : cutEntry(records, kept, (slot) => new Dlsn(segment, entryId, slot)),
      }
    } else if (users.length === 0) waiting.push({ entryId, payload })
    if (kept.length < users.length) return
  }
}

function isBefore(until: RestoreUntil, segment: bigint, entryId: bigint, record: DecodedRecord): boolean {
  if ('timeMs' in until) return record.txid < BigInt(Math.max(0, Math.ceil(until.timeMs)))
  return new Dlsn(segment, entryId, BigInt(record.slot)).compare(until.dlsn) < 0
}

function cutEntry(
  records: readonly DecodedRecord[],
  kept: readonly DecodedRecord[],
  at: (slot: bigint) => Dlsn,
): Uint8Array {
  const parts = kept.map(({ flags, position, txid, payload }) => {
    const bytes = Buffer.allocUnsafe(recordBytes(payload.length))
    writeRecord(bytes, 0, flags, position, txid, payload)
    return bytes
  })
  const producers = cutProducers(records, kept, at)
  return encodeEnvelope(Buffer.concat(producers === null ? parts : [...parts, producers]), 'none')
}

/**
 * What the entry says of producers, without those whose last record is cut off: of them nothing here tells what they
 * had appended before, and a number too high would have their records refused as duplicates (decision 0021).
 */
function cutProducers(
  records: readonly DecodedRecord[],
  kept: readonly DecodedRecord[],
  at: (slot: bigint) => Dlsn,
): Uint8Array | null {
  const control = records.findLast((record) => record.control)
  if (control === undefined) return null
  const said = decodeProducers(control.payload)
  const last = present(kept.at(-1), 'a kept record')
  const end = at(BigInt(last.slot))
  const payload =
    said === null
      ? control.payload
      : encodeProducers({ ...said, producers: said.producers.filter(({ dlsn }) => dlsn.compare(end) <= 0) })
  return controlRecord(last.position, last.txid, payload)
}

/**
 * What the name of the segment's first part would say; null: nothing of it lies before `until`. `digest`: begun with the
 * key of the whole one's.
 */
export async function cutKey(
  object: SegmentObjectReader,
  whole: SegmentKey,
  until: RestoreUntil,
  digest: ContentDigest,
  signal?: AbortSignal,
): Promise<SegmentKey | null> {
  let end: { readonly entryId: bigint; readonly payload: Uint8Array } | null = null
  for await (const entry of entriesUntil(object, whole.segment, until, signal)) {
    digest.entry(entry.entryId, entry.payload)
    end = entry
  }
  if (end === null) return null
  const last = present(
    decodeRecords(openEnvelope(end.payload)).findLast(({ control, endOfStream }) => !control && !endOfStream),
    'a record of the last entry',
  )
  return {
    ...whole,
    lastEntryId: end.entryId,
    lastSlot: BigInt(last.slot),
    recordCount: BigInt(last.position),
    lastTxid: last.txid,
    contentDigest: digest.hex(),
  }
}
