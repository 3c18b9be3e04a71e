import { Buffer } from 'node:buffer'
import { StratalogError } from '../../model/errors.js'
import type { ControlFrame, LedgerHeader, LedgerSeal } from '../../ports/segment-store.js'
import { CONTROL_BODY_BYTES_MAX, type FrameKind } from './frame.js'

/*
 * Bodies of the frames that are not entries: JSON with bigints as decimal strings for ledger headers and
 * control frames, 8 bytes for a seal (its last entry id stands in the frame header). Fences and deletes have
 * none.
 */

/** A durable frame that is not an entry. */
export interface Mark {
  readonly kind: Exclude<FrameKind, 'group' | 'entry'>
  readonly ledgerId: bigint
  readonly entryId: bigint
  readonly bornGeneration: bigint
  readonly body: Uint8Array
}

export const NO_BODY: Uint8Array = new Uint8Array(0)

export function encodeLedgerHeader(header: LedgerHeader): Uint8Array {
  return encodeJson({
    ledgerId: header.ledgerId,
    digestType: header.digestType,
    ensembleSize: header.ensembleSize,
    writeQuorum: header.writeQuorum,
    ackQuorum: header.ackQuorum,
    members: header.members,
    firstEntryId: header.firstEntryId,
    segment: header.segment,
    preceding: header.preceding,
  })
}

/**
 * The body's checksum was right: what does not fit is another version's, so it throws `version_unsupported`.
 */
export function decodeLedgerHeader(body: Uint8Array): LedgerHeader {
  const raw = decodeJson(body) as Omit<LedgerHeader, 'segment' | 'preceding'> & {
    readonly segment: LedgerHeader['segment']
    readonly preceding: LedgerHeader['preceding']
  }
  return reading(() => ({
    ledgerId: BigInt(raw.ledgerId),
    digestType: raw.digestType,
    ensembleSize: raw.ensembleSize,
    writeQuorum: raw.writeQuorum,
    ackQuorum: raw.ackQuorum,
    members: [...raw.members],
    firstEntryId: BigInt(raw.firstEntryId),
    segment: raw.segment && {
      incarnation: raw.segment.incarnation,
      stream: raw.segment.stream,
      segment: BigInt(raw.segment.segment),
      epoch: BigInt(raw.segment.epoch),
      openedMs: raw.segment.openedMs,
      firstTxid: BigInt(raw.segment.firstTxid),
      startSequenceId: BigInt(raw.segment.startSequenceId),
    },
    preceding: raw.preceding && {
      ledgerId: BigInt(raw.preceding.ledgerId),
      lastEntryId: BigInt(raw.preceding.lastEntryId),
      lengthBytes: raw.preceding.lengthBytes,
    },
  }))
}

/**
 * What two headers of one ledger must agree in. Members and first entry differ where a store comes back into
 * a ledger's ensemble; then the first header stays.
 */
export function ledgerIdentity(header: LedgerHeader): string {
  const { digestType, ensembleSize, writeQuorum, ackQuorum, segment, preceding } = header
  return toJson([
    [digestType, ensembleSize, writeQuorum, ackQuorum],
    segment && [
      [segment.incarnation, segment.stream, segment.segment, segment.epoch],
      [segment.openedMs, segment.firstTxid, segment.startSequenceId],
    ],
    preceding && [preceding.ledgerId, preceding.lastEntryId, preceding.lengthBytes],
  ])
}

export function encodeControl(frame: ControlFrame): Uint8Array {
  return encodeJson({ id: frame.id, kind: frame.kind, body: frame.body })
}

export function decodeControl(body: Uint8Array): ControlFrame {
  const raw = decodeJson(body) as ControlFrame
  return { id: String(raw.id), kind: String(raw.kind), body: String(raw.body) }
}

export function encodeSealLength(seal: LedgerSeal): Uint8Array {
  const body = Buffer.alloc(8)
  body.writeBigUInt64BE(BigInt(seal.lengthBytes))
  return body
}

export function decodeSealLength(body: Uint8Array): number {
  return reading(() => Number(asBuffer(body).readBigUInt64BE(0)))
}

/** The same bytes: start decodes as many bodies as there are ledgers. */
function asBuffer(body: Uint8Array): Buffer {
  return Buffer.from(body.buffer, body.byteOffset, body.byteLength)
}

function toJson(value: unknown): string {
  return JSON.stringify(value, (_, field: unknown) => (typeof field === 'bigint' ? field.toString() : field))
}

function encodeJson(value: object): Uint8Array {
  const body = Buffer.from(toJson(value))
  if (body.byteLength > CONTROL_BODY_BYTES_MAX) {
    throw new StratalogError(
      'invalid_argument',
      `a header or control frame has ${body.byteLength} bytes, at most ${CONTROL_BODY_BYTES_MAX} are kept`,
      { expected: CONTROL_BODY_BYTES_MAX, found: body.byteLength },
    )
  }
  return body
}

function decodeJson(body: Uint8Array): unknown {
  return reading(() => {
    const value: unknown = JSON.parse(asBuffer(body).toString('utf8'))
    if (typeof value !== 'object' || value === null) throw new TypeError('no object')
    return value
  })
}

function reading<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw new StratalogError(
      'version_unsupported',
      'a frame is whole but not of a form this version knows: use the stratalog that wrote it',
      { cause: error },
    )
  }
}
