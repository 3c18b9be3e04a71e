import { openEnvelope } from '../format/entry.js'
import { decodeRecords } from '../format/record.js'
import { checked } from '../ledger/answers.js'
import { member } from '../ledger/context.js'
import { LedgerReader } from '../ledger/reader.js'
import type { LogParts } from '../log-parts.js'
import { present } from '../model/assert.js'
import type { DumpedEntry, DumpedRecord, DumpPart } from '../model/control-api.js'
import { ensembleAt } from '../model/ledger.js'
import { writeSet } from '../model/quorum.js'
import { isHot, type SegmentRow } from '../model/segment.js'

type Copies = DumpedEntry['copies']

/** Entries of a segment in order: from every store that should have them, else from the archive. Damage is told, not thrown. */
export async function* dumpSegment(
  parts: LogParts,
  row: SegmentRow,
  payloads: boolean,
  signal?: AbortSignal,
): AsyncGenerator<DumpPart, void, undefined> {
  if (isHot(row)) yield* dumpLedger(parts, row, payloads, signal)
  else if (row.object !== null) yield* dumpObject(parts, row, payloads, signal)
}

async function* dumpLedger(
  parts: LogParts,
  row: SegmentRow,
  payloads: boolean,
  signal?: AbortSignal,
): AsyncGenerator<DumpPart, void, undefined> {
  const { ledger } = parts.segments
  const ledgerId = present(row.ledgerId, 'ledger of a hot segment')
  const reader = await LedgerReader.open(ledger, ledgerId)
  const last = await reader.lastConfirmed()
  const { metadata } = reader
  for (let entryId = 0n; entryId <= last; entryId += 1n) {
    signal?.throwIfAborted()
    const members = ensembleAt(metadata, entryId)
    const copies: Copies[number][] = []
    let payload: Uint8Array | null = null
    for (const index of writeSet(entryId, metadata.ensembleSize, metadata.writeQuorum)) {
      const id = present(members[index], 'a member')
      const read = async () =>
        member(ledger, id).readEntry(ledgerId, entryId, signal === undefined ? {} : { signal })
      const answer = await checked(read(), metadata, ledgerId, entryId)
      signal?.throwIfAborted()
      if (answer.kind === 'valid') {
        payload ??= answer.entry.payload
        copies.push({ where: id, state: 'ok', error: null })
      } else if (answer.kind === 'unknown')
        copies.push({ where: id, state: 'bad', error: messageOf(answer.error) })
      else copies.push({ where: id, state: answer.kind, error: null })
    }
    yield { type: 'entry', entry: entryDto(row, entryId, payload, copies, payloads) }
  }
}

async function* dumpObject(
  parts: LogParts,
  row: SegmentRow,
  payloads: boolean,
  signal?: AbortSignal,
): AsyncGenerator<DumpPart, void, undefined> {
  const source = await parts.read.openCold(row)
  const last = await source.lastEntry()
  const where = `archive ${present(row.object, 'an object').key}`
  for (let entryId = 0n; entryId <= last; ) {
    signal?.throwIfAborted()
    try {
      const entries = await source.readEntries(entryId, last, 1, signal)
      for (const entry of entries) {
        yield {
          type: 'entry',
          entry: entryDto(row, entry.entryId, entry.payload, [{ where, state: 'ok', error: null }], payloads),
        }
      }
      entryId = present(entries.at(-1), 'an entry').entryId + 1n
    } catch (error) {
      signal?.throwIfAborted()
      yield {
        type: 'entry',
        entry: entryDto(row, entryId, null, [{ where, state: 'bad', error: messageOf(error) }], payloads),
      }
      entryId += 1n
    }
  }
}

function entryDto(
  row: SegmentRow,
  entryId: bigint,
  payload: Uint8Array | null,
  copies: Copies,
  payloads: boolean,
): DumpedEntry {
  if (payload === null) return { entryId: entryId.toString(), bytes: 0, copies, records: [] }
  try {
    const records = decodeRecords(openEnvelope(payload)).map((record): DumpedRecord => {
      const kind = record.endOfStream ? 'end-of-stream' : record.control ? 'control' : 'user'
      const sequenceId =
        kind === 'user' ? (row.startSequenceId + BigInt(record.position) - 1n).toString() : null
      const { slot, txid } = record
      return {
        slot,
        txid: txid.toString(),
        sequenceId,
        kind,
        bytes: record.payload.byteLength,
        payload: payloads ? record.payload : null,
      }
    })
    return { entryId: entryId.toString(), bytes: payload.byteLength, copies, records }
  } catch (error) {
    // The digest is right and the content is not: the writer's fault, and worth seeing.
    const told = copies.map((copy) =>
      copy.state === 'ok' ? { ...copy, state: 'bad' as const, error: messageOf(error) } : copy,
    )
    return { entryId: entryId.toString(), bytes: payload.byteLength, copies: told, records: [] }
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
