import type {
  AppendConditionsDto,
  AppendRecord,
  AppendResult,
  DumpPart,
  ReadPart,
  ReadRecord,
} from './control-api.js'
import { errorBody, errorFromBody } from './error-body.js'

/*
 * The control API as JSON: payloads are base64, txids decimal strings, errors `{ code, message, … }`. What streams is
 * NDJSON: a part a line, but each record of a `records` part has a line of its own (`type: 'record'`). A stream that
 * fails under way ends with `{ "type": "error", "error": … }`.
 */

/** Largest body of a request the server takes. */
export const CONTROL_BODY_BYTES_MAX: number = 16 * 1024 * 1024

const base64 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')
const fromBase64 = (text: unknown): Uint8Array => new Uint8Array(Buffer.from(String(text), 'base64'))

interface WireRecord {
  readonly payload: string
  readonly txid?: string
}

/** What an append depends on, in its body. */
export interface WireConditions {
  readonly producer?: { readonly id: string; readonly sequence: string }
  readonly ifTail?: string
  readonly fence?: string
}

export function encodeAppend(
  records: readonly AppendRecord[],
  { producer, ifTail, fence }: AppendConditionsDto = {},
): string {
  const conditions: WireConditions = {
    ...(producer === undefined
      ? {}
      : { producer: { id: producer.id, sequence: producer.sequence.toString() } }),
    ...(ifTail === undefined ? {} : { ifTail: ifTail.toString() }),
    ...(fence === undefined ? {} : { fence: fence.toString() }),
  }
  return JSON.stringify({
    ...conditions,
    records: records.map(
      ({ payload, txid }): WireRecord => ({
        payload: base64(payload),
        ...(txid === undefined ? {} : { txid: txid.toString() }),
      }),
    ),
  })
}

export function decodeAppend(records: readonly WireRecord[]): AppendRecord[] {
  return records.map(({ payload, txid }) => ({
    payload: fromBase64(payload),
    ...(txid === undefined ? {} : { txid: BigInt(txid) }),
  }))
}

export function decodeConditions({ producer, ifTail, fence }: WireConditions): AppendConditionsDto {
  return {
    ...(producer === undefined ? {} : { producer: { id: producer.id, sequence: BigInt(producer.sequence) } }),
    ...(ifTail === undefined ? {} : { ifTail: ifTail === 'empty' ? ifTail : BigInt(ifTail) }),
    ...(fence === undefined ? {} : { fence: BigInt(fence) }),
  }
}

export function encodeAppendResult(result: AppendResult): object {
  const { failed } = result
  return {
    ...result,
    failed: failed === null ? null : { index: failed.index, error: errorBody(failed.error) },
  }
}

export function decodeAppendResult(body: unknown): AppendResult {
  const result = body as AppendResult & {
    readonly failed: { readonly index: number; readonly error: unknown } | null
  }
  const { failed } = result
  return {
    ...result,
    failed: failed === null ? null : { index: failed.index, error: errorFromBody(failed.error) },
  }
}

/** The lines of a part of a read. */
export function encodeReadPart(part: ReadPart): string {
  if (part.type !== 'records') return `${JSON.stringify(part)}\n`
  let lines = ''
  for (const { dlsn, txid, sequenceId, payload } of part.records) {
    lines += `{"type":"record","tier":"${part.tier}","dlsn":"${dlsn}","txid":"${txid}","sequenceId":"${sequenceId}","payload":"${base64(payload)}"}\n`
  }
  return lines
}

/** Lines that arrived together as parts; records of one tier that follow each other become one part again. */
export function decodeReadLines(lines: readonly unknown[]): ReadPart[] {
  const parts: ReadPart[] = []
  let records: ReadRecord[] = []
  let tier: 'hot' | 'cold' | null = null
  for (const line of lines) {
    const wire = line as {
      type: string
      tier: 'hot' | 'cold'
      dlsn: string
      txid: string
      sequenceId: string
      payload: string
    }
    if (wire.type !== 'record') {
      parts.push(line as ReadPart)
      tier = null
      continue
    }
    if (wire.tier !== tier) {
      records = []
      tier = wire.tier
      parts.push({ type: 'records', tier, records })
    }
    records.push({
      dlsn: wire.dlsn,
      txid: wire.txid,
      sequenceId: wire.sequenceId,
      payload: fromBase64(wire.payload),
    })
  }
  return parts
}

export function encodeDumpPart(part: DumpPart): string {
  if (part.type === 'segment') return `${JSON.stringify(part)}\n`
  const records = part.entry.records.map((record) => ({
    ...record,
    payload: record.payload === null ? null : base64(record.payload),
  }))
  return `${JSON.stringify({ type: 'entry', entry: { ...part.entry, records } })}\n`
}

export function decodeDumpPart(line: unknown): DumpPart {
  const part = line as DumpPart
  if (part.type === 'segment') return part
  const records = part.entry.records.map((record) => ({
    ...record,
    payload: record.payload === null ? null : fromBase64(record.payload),
  }))
  return { type: 'entry', entry: { ...part.entry, records } }
}
