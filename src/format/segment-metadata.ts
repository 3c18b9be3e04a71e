import { assert } from '../model/assert.js'
import { corrupt, unsupportedVersion } from './bytes.js'

/*
 * A segment's node in DistributedLog's stream tree (LogSegmentMetadata.java): decimals with `;` between them.
 *
 *   in progress  v1  first;ledger;firstTxid
 *                v2  first;ledger;firstTxid;segment
 *                v3  first;ledger;firstTxid;segment;minEntry;minSlot                            v4 the same
 *                v5  first;ledger;firstTxid;segment;minEntry;minSlot;startSequenceId
 *   completed    v1  first;ledger;firstTxid;lastTxid;completed
 *                v2  first;ledger;firstTxid;lastTxid;completed;segment;lastEntry;lastSlot
 *                v3  …;lastSlot;minEntry;minSlot                                                v4 the same
 *                v5  …;lastSlot;minEntry;minSlot;startSequenceId
 *
 *   first:  63                    32 31    28 27      16 15         8 7       0
 *           ┌───────────────────────┬────────┬──────────┬────────────┬─────────┐
 *           │ record count          │ region │ 0        │ status     │ version │
 *           └───────────────────────┴────────┴──────────┴────────────┴─────────┘
 *            completed segments only                      & 3: 0 active, 1 partially truncated, 2 truncated
 *
 * How many fields there are tells completed from in progress. From version 4 on entries are enveloped
 * (`entry.ts`).
 */

/** Versions of the text; DistributedLog writes 5. */
export type SegmentMetadataVersion = 1 | 2 | 3 | 4 | 5

/**
 * What truncation left of a segment. `partially_truncated`: readers begin at its min active entry and slot.
 */
export type TruncationStatus = 'active' | 'partially_truncated' | 'truncated'

/** What a segment's node says once its ledger is closed. */
export interface SegmentCompletion {
  /** 2^63−1 where the stream was ended. */
  readonly lastTxid: bigint
  readonly completedMs: number
  /** User records, those in record sets one by one; no control records. */
  readonly recordCount: number
  /** Of the last user or end-of-stream record; −1 in version 1, which does not say. The ledger may go on. */
  readonly lastEntryId: bigint
  readonly lastSlotId: bigint
}

/** A segment's node. */
export interface SegmentMetadata {
  readonly version: SegmentMetadataVersion
  readonly ledgerId: bigint
  readonly firstTxid: bigint
  /** Log segment sequence number; null in version 1, which does not say. */
  readonly segment: bigint | null
  readonly truncation: TruncationStatus
  /** The six bits above the truncation status; nobody uses them, but Java keeps them. */
  readonly spareStatusBits: number
  readonly regionId: number
  /** First entry and slot a reader may have; 0 below version 3. */
  readonly minActiveEntryId: bigint
  readonly minActiveSlotId: bigint
  /** sequenceId of the first record; −1 while in progress and below version 5. */
  readonly startSequenceId: bigint
  /** null while in progress. */
  readonly completion: SegmentCompletion | null
}

const STATUSES: readonly TruncationStatus[] = ['active', 'partially_truncated', 'truncated']
const FIELDS_IN_PROGRESS: Readonly<Record<SegmentMetadataVersion, number>> = { 1: 3, 2: 4, 3: 6, 4: 6, 5: 7 }
const FIELDS_COMPLETED: Readonly<Record<SegmentMetadataVersion, number>> = { 1: 5, 2: 8, 3: 10, 4: 10, 5: 11 }
const TEXT_MAX = 400

/** Whether the entries of a segment with metadata of that version stand in envelopes. */
export function isEnveloped(version: SegmentMetadataVersion): boolean {
  return version >= 4
}

/** The text of a segment's node, in its own version. */
export function encodeSegmentMetadata(metadata: SegmentMetadata): string {
  const { version, completion, segment } = metadata
  const fields: bigint[] = [packFirst(metadata), metadata.ledgerId, metadata.firstTxid]
  if (completion !== null) fields.push(completion.lastTxid, BigInt(completion.completedMs))
  if (version >= 2) {
    assert(segment !== null, 'a segment without a number is written in a version that has one')
    fields.push(segment)
    if (completion !== null) fields.push(completion.lastEntryId, completion.lastSlotId)
  }
  if (version >= 3) fields.push(metadata.minActiveEntryId, metadata.minActiveSlotId)
  else assert(metadata.truncation !== 'partially_truncated', 'versions below 3 have no min active position')
  if (version >= 5) fields.push(metadata.startSequenceId)
  for (const field of fields)
    assert(BigInt.asIntN(64, field) === field, 'segment metadata has 64-bit numbers')
  return fields.join(';')
}

function packFirst(metadata: SegmentMetadata): bigint {
  const { version, completion, regionId, spareStatusBits } = metadata
  const recordCount = completion?.recordCount ?? 0
  assert(recordCount >= 0 && recordCount < 2 ** 31, 'a segment has at most 2^31−1 records')
  assert(
    regionId >= 0 && regionId <= 0xf && spareStatusBits >= 0 && spareStatusBits <= 0x3f,
    'bits of a segment',
  )
  const status = (spareStatusBits << 2) | STATUSES.indexOf(metadata.truncation)
  assert(version > 1 || (status === 0 && regionId === 0), 'version 1 knows neither truncation nor regions')
  return (BigInt(recordCount) << 32n) | (BigInt(regionId) << 28n) | BigInt(status << 8) | BigInt(version)
}

/** Reads a segment's node. Throws `corrupt` or `version_unsupported`. */
export function decodeSegmentMetadata(text: string): SegmentMetadata {
  if (text.length > TEXT_MAX) throw notReadable(text)
  const fields = text.split(';').map((field) => int64(field, text))
  const first = unpackFirst(fields.shift() ?? 0n)
  const { version } = first
  const completed = fields.length + 1 === FIELDS_COMPLETED[version]
  // Nobody counts the records of a segment in progress: that is a completed one that was cut off.
  const inProgress = fields.length + 1 === FIELDS_IN_PROGRESS[version] && first.recordCount === 0
  if (!completed && !inProgress) {
    throw corrupt(`segment metadata of version ${version} has ${fields.length + 1} fields`, { found: text })
  }
  const next = (least: bigint): bigint => {
    const field = fields.shift()
    if (field === undefined || field < least) throw notReadable(text)
    return field
  }
  const ledgerId = next(0n)
  const firstTxid = next(-(2n ** 63n))
  const lastTxid = completed ? next(-(2n ** 63n)) : 0n
  const completedMs = completed ? milliseconds(next(0n), text) : 0
  const segment = version >= 2 ? next(0n) : null
  const lastEntryId = completed && version >= 2 ? next(-1n) : -1n
  const lastSlotId = completed && version >= 2 ? next(-1n) : -1n
  const { recordCount, ...status } = first
  return {
    ...status,
    ledgerId,
    firstTxid,
    segment,
    minActiveEntryId: version >= 3 ? next(0n) : 0n,
    minActiveSlotId: version >= 3 ? next(0n) : 0n,
    startSequenceId: version >= 5 ? next(-(2n ** 63n)) : -1n,
    completion: completed ? { lastTxid, completedMs, recordCount, lastEntryId, lastSlotId } : null,
  }
}

type FirstField = Pick<SegmentMetadata, 'version' | 'truncation' | 'spareStatusBits' | 'regionId'> & {
  readonly recordCount: number
}

function unpackFirst(first: bigint): FirstField {
  const version = Number(first & 0xffn)
  if (version !== 1 && version !== 2 && version !== 3 && version !== 4 && version !== 5) {
    throw unsupportedVersion(`version ${version} of segment metadata is not known: versions 1 to 5 are`, {
      found: version,
    })
  }
  const status = Number((first >> 8n) & 0xffn)
  const truncation = STATUSES[status & 3]
  if (truncation === undefined) {
    throw unsupportedVersion('segment metadata has a truncation status that is not known', { found: status })
  }
  const regionId = Number((first >> 28n) & 0xfn)
  const recordCount = Number(first >> 32n)
  if (recordCount < 0) throw corrupt(`segment metadata counts ${recordCount} records`)
  if (version === 1 && (status !== 0 || regionId !== 0)) {
    throw corrupt('segment metadata of version 1 has a status that version 1 does not know', {
      found: status,
    })
  }
  return { version, truncation, spareStatusBits: status >> 2, regionId, recordCount }
}

function milliseconds(value: bigint, text: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw notReadable(text)
  return Number(value)
}

function int64(field: string, text: string): bigint {
  const value = /^-?\d{1,19}$/.test(field) ? BigInt(field) : null
  if (value === null || BigInt.asIntN(64, value) !== value) throw notReadable(text)
  return value
}

function notReadable(text: string): Error {
  return corrupt('segment metadata is not readable: the node was damaged or is no segment', {
    found: text.slice(0, TEXT_MAX),
  })
}
