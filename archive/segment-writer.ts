import { corrupt } from '../src/format/bytes.js'
import type { ObjectSeal } from '../src/format/envelope.js'
import { decodeLedgerMetadata } from '../src/format/ledger-metadata.js'
import {
  BLOCK_BYTES_TARGET,
  BLOCK_HEADER_BYTES,
  type BlockRow,
  blockCrc,
  blockPayloadOffsets,
  ENTRY_HEADER_BYTES,
  encodeBlock,
  OBJECT_ENTRY_BYTES_MAX,
  sealBlock,
  storedBlockBytes,
} from '../src/format/segment-block.js'
import {
  encodeObjectHeader,
  encodeObjectIndex,
  objectIndexBytes,
  type SegmentObjectFooter,
} from '../src/format/segment-object.js'
import type { SegmentObjectMeta } from '../src/format/segment-object-meta.js'
import { assert, present } from '../src/model/assert.js'
import { StratalogError } from '../src/model/errors.js'
import type { ReplayableBody } from '../src/ports/archive-store.js'
import { contentDigest } from './restore-digest.js'
import { SegmentTally } from './segment-tally.js'

/** An entry of a ledger: its payload is the envelope, verbatim. */
export interface ArchivedEntry {
  readonly entryId: bigint
  readonly payload: Uint8Array
}

/**
 * A segment's entries from `from` (0 if it is not given) to the last, in batches; each `open` gives the same. Entries
 * below `from` may come too and are left out. Batches are copied at once.
 */
export interface EntrySource {
  open(from?: bigint): AsyncIterable<readonly ArchivedEntry[]>
}

/**
 * Memory that all copies of a process share for blocks which the first pass made and the second need not make again
 * (invariant 11). One that gets none reads and compresses twice.
 */
export class BlockBudget {
  #leftBytes: number

  constructor(bytesMax: number) {
    this.#leftBytes = bytesMax
  }

  /** Whether there was room for so many bytes; who got it gives it back. */
  take(bytes: number): boolean {
    if (bytes > this.#leftBytes) return false
    this.#leftBytes -= bytes
    return true
  }

  giveBack(bytes: number): void {
    this.#leftBytes += bytes
  }
}

/** Room for the entry that fills a block. */
const BLOCK_SLACK_BYTES = 64 * 1024

/** Everything about an object that must be known before its first byte is stored: its name and its size. */
export interface PlannedObject {
  readonly meta: SegmentObjectMeta
  readonly header: Uint8Array
  readonly rows: readonly BlockRow[]
  /** What it is encrypted with; null: it is not. */
  readonly sealing: ObjectSealing | null
  /** CRC32C of each block before it is encrypted. */
  readonly blockCrcs: readonly number[]
  readonly footer: SegmentObjectFooter
  readonly contentDigest: string
  /** Bytes of index and footer at the end of the object. */
  readonly indexBytes: number
  readonly sizeBytes: number
  /** The first blocks as they are stored, before they are encrypted, as far as the budget went. */
  readonly kept: readonly Uint8Array[]
}

/** The keys of one object that is going to be written: they serve for no other. */
export interface ObjectSealing extends ObjectSeal {
  /** Key of the content digest, which its name carries the id of. */
  readonly digestKey: Uint8Array
}

interface RawBlock {
  readonly firstEntryId: bigint
  readonly lastEntryId: bigint
  readonly entryCount: number
  /** Valid until the next block is asked for. */
  readonly raw: Uint8Array
}

/**
 * First pass over the entries: where blocks are cut, what they compress to, the content digest, and whether
 * the entries are the segment that `meta` describes (`corrupt` if not). Memory is one block and a row per
 * block, and the compressed bytes that `budget` has room for; `release` gives that back. Others are made again by the
 * second pass.
 */
export async function planSegmentObject(
  meta: SegmentObjectMeta,
  entries: EntrySource,
  signal?: AbortSignal,
  budget?: BlockBudget,
  sealing: ObjectSealing | null = null,
): Promise<PlannedObject> {
  const kept = new KeptBlocks(budget)
  try {
    return await firstPass(meta, entries, kept, sealing, signal)
  } catch (error) {
    kept.release()
    throw error
  }
}

/** Gives the memory of kept blocks back; the plan is of no use any more. */
export function releasePlanned(planned: PlannedObject, budget: BlockBudget): void {
  for (const block of planned.kept) budget.giveBack(block.length)
}

/** The first blocks of an object, without a hole: who goes on reading begins behind the last of them. */
class KeptBlocks {
  readonly blocks: Uint8Array[] = []
  readonly #budget: BlockBudget | null
  #full: boolean

  constructor(budget: BlockBudget | undefined) {
    this.#budget = budget ?? null
    this.#full = budget === undefined
  }

  add(header: Uint8Array, data: Uint8Array): void {
    if (this.#full || this.#budget === null) return
    this.#full = !this.#budget.take(header.length + data.length)
    // Copied: compressed bytes may stand in memory of the size they had before, and others in a buffer that is used again.
    if (!this.#full) this.blocks.push(Buffer.concat([header, data]))
  }

  release(): void {
    for (const block of this.blocks.splice(0)) this.#budget?.giveBack(block.length)
  }
}

async function firstPass(
  meta: SegmentObjectMeta,
  entries: EntrySource,
  kept: KeptBlocks,
  sealing: ObjectSealing | null,
  signal: AbortSignal | undefined,
): Promise<PlannedObject> {
  const where = `segment ${meta.segment} of ${meta.streamName}`
  const password = decodeLedgerMetadata(meta.ledgerMetadata).password
  assert(password === null || password.length === 0, 'the password of a ledger must not reach the archive')
  const encrypted = sealing !== null
  const header = encodeObjectHeader(meta, encrypted)
  const tally = new SegmentTally(meta, where)
  const digest = contentDigest(sealing?.digestKey ?? null)
  const cuts: Omit<BlockRow, 'firstSequenceId' | 'firstTxid' | 'lastTxid'>[] = []
  const blockCrcs: number[] = []
  let offset = header.length
  for await (const block of rawBlocks(entries, where, rawBytesOf(meta))) {
    signal?.throwIfAborted()
    tallyBlock(tally, block.raw, block, where)
    digest.raw(block.raw)
    const encoded = encodeBlock(block.raw, block.firstEntryId, block.entryCount)
    const blockBytes = storedBlockBytes(encoded.data.length, encrypted)
    const { firstEntryId, lastEntryId } = block
    cuts.push({ firstEntryId, lastEntryId, offset, blockBytes, rawBytes: block.raw.length })
    blockCrcs.push(blockCrc(encoded.header))
    kept.add(encoded.header, encoded.data)
    offset += blockBytes
  }
  const columns = tally.finish()
  const rows = cuts.map((cut, i) => ({ ...cut, ...present(columns[i], 'block columns') }))
  const indexBytes = objectIndexBytes(rows.length, encrypted)
  const footer: SegmentObjectFooter = {
    headerBytes: header.length,
    entryCount: tally.entryCount,
    lengthBytes: tally.lengthBytes,
    recordCount: meta.recordCount,
    contentDigest: digest.hex(),
  }
  const sizeBytes = offset + indexBytes
  return {
    ...{ meta, header, rows, blockCrcs, footer, contentDigest: footer.contentDigest, indexBytes, sizeBytes },
    sealing,
    kept: kept.blocks,
  }
}

/** Counts the entries of a raw block in `tally` and ends it there. */
export function tallyBlock(
  tally: SegmentTally,
  raw: Uint8Array,
  block: Pick<BlockRow, 'firstEntryId' | 'lastEntryId'>,
  where: string,
): void {
  const row = {
    ...block,
    firstSequenceId: 0n,
    firstTxid: 0n,
    lastTxid: 0n,
    offset: 0,
    blockBytes: 0,
    rawBytes: 0,
  }
  const offsets = blockPayloadOffsets(raw, row, where)
  let entryId = block.firstEntryId
  for (let i = 0; i + 1 < offsets.length; i++) {
    tally.add(entryId, raw.subarray(offsets[i], present(offsets[i + 1], 'offset') - ENTRY_HEADER_BYTES))
    entryId += 1n
  }
  tally.cut()
}

/** Second pass: the object's bytes, as often as an upload has to begin again. */
export function segmentObjectBody(planned: PlannedObject, entries: EntrySource): ReplayableBody {
  return { sizeBytes: planned.sizeBytes, open: () => objectBytes(planned, entries) }
}

async function* objectBytes(planned: PlannedObject, entries: EntrySource): AsyncIterable<Uint8Array> {
  const { sealing } = planned
  yield planned.header
  let index = 0
  for (const block of planned.kept) {
    if (sealing === null) yield block
    else yield* Object.values(sealBlock(partsOf(block), sealing.cipher))
    index += 1
  }
  const from = planned.rows[index]?.firstEntryId ?? null
  const where = `segment ${planned.meta.segment} of ${planned.meta.streamName}`
  for await (const block of from === null ? [] : rawBlocks(entries, where, rawBytesOf(planned.meta), from)) {
    const row = planned.rows[index]
    const encoded = encodeBlock(block.raw, block.firstEntryId, block.entryCount)
    // The name and the index promise the first pass's bytes; a source that changed in between must not be
    // stored, nor two contents be encrypted with one nonce.
    const same =
      row?.firstEntryId === block.firstEntryId && blockCrc(encoded.header) === planned.blockCrcs[index]
    assert(same, `block ${index} differs from its plan`)
    const { header, data } = sealing === null ? encoded : sealBlock(encoded, sealing.cipher)
    assert(row.blockBytes === header.length + data.length, `block ${index} has another size than planned`)
    yield header
    yield data
    index += 1
  }
  assert(index === planned.rows.length, `${index} blocks where ${planned.rows.length} were planned`)
  const sealed = sealing === null ? null : { seal: sealing, header: planned.header }
  yield encodeObjectIndex(planned.rows, planned.footer, sealed)
}

function partsOf(block: Uint8Array): { header: Uint8Array; data: Uint8Array } {
  return { header: block.subarray(0, BLOCK_HEADER_BYTES), data: block.subarray(BLOCK_HEADER_BYTES) }
}

/** What the blocks of a segment come to, if its metadata says how long it is. */
function rawBytesOf({ lengthBytes, lastEntryId }: SegmentObjectMeta): number {
  return lengthBytes + (Number(lastEntryId) + 1) * ENTRY_HEADER_BYTES
}

/** Entries gathered to raw blocks. Both passes cut here, so they cut alike. About `aboutBytes` are to come. */
async function* rawBlocks(
  entries: EntrySource,
  where: string,
  aboutBytes: number,
  from = 0n,
): AsyncIterable<RawBlock> {
  // Of the size that is needed: growing to it takes as much again for a small segment.
  let buffer: Buffer = Buffer.allocUnsafe(Math.min(aboutBytes, BLOCK_BYTES_TARGET + BLOCK_SLACK_BYTES))
  let used = 0
  let first: bigint | null = null
  let last = from - 1n
  let count = 0
  for await (const batch of entries.open(from)) {
    for (const { entryId, payload } of batch) {
      if (entryId < from) continue
      if (payload.length > OBJECT_ENTRY_BYTES_MAX) throw tooLarge(where, entryId, payload.length)
      if (entryId !== last + 1n) {
        throw corrupt(`${where}: entry ${entryId} follows ${last}: read the segment again`, {
          expected: last + 1n,
          found: entryId,
        })
      }
      const end = used + ENTRY_HEADER_BYTES + payload.length
      if (end > buffer.length) buffer = grown(buffer, used, end)
      buffer.writeBigInt64BE(entryId, used)
      buffer.writeInt32BE(payload.length, used + 8)
      buffer.set(payload, used + ENTRY_HEADER_BYTES)
      used = end
      first ??= entryId
      last = entryId
      count += 1
      if (used >= BLOCK_BYTES_TARGET) {
        yield { firstEntryId: first, lastEntryId: last, entryCount: count, raw: buffer.subarray(0, used) }
        used = 0
        first = null
        count = 0
      }
    }
  }
  if (first !== null)
    yield { firstEntryId: first, lastEntryId: last, entryCount: count, raw: buffer.subarray(0, used) }
}

function grown(buffer: Buffer, used: number, needed: number): Buffer {
  const larger = Buffer.allocUnsafe(Math.max(needed, buffer.length * 2))
  buffer.copy(larger, 0, 0, used)
  return larger
}

function tooLarge(where: string, entryId: bigint, found: number): StratalogError {
  return new StratalogError(
    'unsupported',
    `${where}: entry ${entryId} has ${found} bytes; an archived entry has at most ${OBJECT_ENTRY_BYTES_MAX}`,
    { expected: OBJECT_ENTRY_BYTES_MAX, found },
  )
}
