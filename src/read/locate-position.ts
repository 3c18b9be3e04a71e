import { present } from '../model/assert.js'
import type { LocatedPosition } from '../model/control-read.js'
import type { Dlsn } from '../model/dlsn.js'
import { isStratalogError } from '../model/errors.js'
import type { Position } from '../model/position.js'
import { isClosed, isHot, type SegmentRow, type StreamRow } from '../model/segment.js'
import { checkInRange } from './bounds.js'
import { ColdSource } from './cold.js'
import type { ReadContext } from './context.js'
import { locate } from './locate.js'
import { locating, openSource } from './open-source.js'
import { type SegmentSource, userRecords } from './source.js'

/** Where the first record at or beyond a position lies: segment, ledger, object, entry and block. Reads one entry. */
export async function locatePosition(
  read: ReadContext,
  stream: StreamRow,
  position: Position,
): Promise<LocatedPosition> {
  const dlsn = await locate(locating(read, undefined), stream, position, false)
  await checkInRange(read, stream, position, dlsn, false)
  const [row] = await read.index.listSegments(stream.incarnation, dlsn.segment, 1)
  const nowhere = { stream: stream.name, dlsn: dlsn.toString(), ...NOWHERE }
  if (row === undefined || row.segment !== dlsn.segment) return nowhere
  const place = {
    ...nowhere,
    segment: row.segment.toString(),
    state: row.state,
    ledgerId: isHot(row) ? String(row.ledgerId) : null,
    object: row.object?.key ?? null,
  }
  if (row.state === 'gap' || row.state === 'trimmed') return place
  const [record, block] = await Promise.all([recordAt(read, row, dlsn), blockAt(read, row, dlsn)])
  return { ...place, record, block }
}

const NOWHERE = { segment: null, state: null, ledgerId: null, object: null, block: null, record: null }

/** The record there, or the next one of the same entry; null at the end. */
async function recordAt(read: ReadContext, row: SegmentRow, dlsn: Dlsn): Promise<LocatedPosition['record']> {
  const source = await openSource(read, row, null)
  try {
    const last = isClosed(row.state) ? row.lastEntryId : await source.lastEntry()
    if (dlsn.entry > last) return null
    return await firstRecord(source, row, dlsn)
  } finally {
    source.close?.()
  }
}

async function firstRecord(
  source: SegmentSource,
  row: SegmentRow,
  dlsn: Dlsn,
): Promise<LocatedPosition['record']> {
  const [entry] = await source.readEntries(dlsn.entry, dlsn.entry, 1)
  const records = userRecords(present(entry, 'an entry').payload)
  const found = records.find((record) => BigInt(record.slot) >= dlsn.slot)
  if (found === undefined) return null
  const sequenceId = row.startSequenceId + BigInt(found.position) - 1n
  return { sequenceId: sequenceId.toString(), txid: found.txid.toString() }
}

async function blockAt(read: ReadContext, row: SegmentRow, dlsn: Dlsn): Promise<LocatedPosition['block']> {
  if (row.object === null || dlsn.entry > row.lastEntryId) return null
  const source = await openObject(read, row)
  try {
    if (!(source instanceof ColdSource)) return null
    const number = source.object.blockOf(dlsn.entry)
    const block = source.object.blocks[number]
    return block === undefined ? null : { number, offset: block.offset, sizeBytes: block.blockBytes }
  } finally {
    source?.close?.()
  }
}

/** Null: the record is hot, and the archive does not answer: where it lies there is not worth failing for. */
async function openObject(read: ReadContext, row: SegmentRow): Promise<SegmentSource | null> {
  try {
    return await read.openCold(row)
  } catch (error) {
    if (!isHot(row) || !isStratalogError(error) || !error.retryable) throw error
    read.logger.debug({ err: error, segment: row.segment.toString() }, 'the block of a record is not known')
    return null
  }
}
