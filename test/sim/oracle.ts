import { ArchiveKeys, attachKeys, type KeyRings } from '../../archive/keys.js'
import { openSegmentObject } from '../../archive/segment-reader.js'
import { present } from '../../src/model/assert.js'
import type { Dlsn } from '../../src/model/dlsn.js'
import type { LedgerMetadata } from '../../src/model/ledger.js'
import type { Ack, Gap, LogRecord } from '../../src/model/record.js'
import type { SegmentRow, StreamRow } from '../../src/model/segment.js'
import type { ArchiveStore } from '../../src/ports/archive-store.js'
import type { SegmentPatch } from '../../src/ports/segment-index.js'
import { userRecords } from '../../src/read/source.js'
import { Copies } from './copies.js'
import type { SimDisk } from './disk.js'
import { simulatedRings } from './key-ring.js'
import type { SimOptions } from './options.js'
import type { Scheduler } from './scheduler.js'
import { ARCHIVE_ROOT, TieringOracle } from './tiering-oracle.js'
import type { Trace, Work } from './trace.js'

/** Bytes that every longer record has. */
const CLEAR = 'abcdefghijkl'

/** What is known to be true of one stream, from acknowledgements and from what readers were shown. */
class StreamTruth {
  /** Number of the record at a DLSN, and the other way round. */
  readonly at: Map<string, number> = new Map()
  readonly places: Map<number, Dlsn> = new Map()
  readonly acked: Set<number> = new Set()
  readonly sent: Set<number> = new Set()
  trimmed = false
}

/** Where a reader is: what comes next has to follow on it. */
export interface ReaderPlace {
  dlsn: Dlsn | null
  sequenceId: bigint | null
}

/** The model that a run is compared with. It sees every promise that the log makes, and believes all of them. */
export class Oracle {
  readonly #trace: Trace
  readonly #options: SimOptions
  /** Keys of what is encrypted. */
  readonly rings: KeyRings
  readonly tiering: TieringOracle
  readonly #streams = new Map<string, StreamTruth>()
  /** Incarnation/segment → its ledger, and a closed ledger's last entry. */
  readonly #ledgers = new Map<string, bigint>()
  readonly #closed = new Map<bigint, bigint>()
  /** Segments whose state lets their ledger go. */
  readonly #freed = new Set<string>()
  #archive: SimDisk | null = null
  readonly copies: Copies
  /** Called at each acknowledgement. */
  onAck: () => void = () => {}
  ackedCount = 0
  evictions = 0
  trims = 0
  reads = 0
  /** Retries that were told that the record is there, and appends that said where the stream has to end. */
  duplicates = 0
  conditional = 0

  constructor(scheduler: Scheduler, trace: Trace, options: SimOptions) {
    this.#trace = trace
    this.#options = options
    this.rings = simulatedRings()
    this.tiering = new TieringOracle(scheduler, trace, options)
    this.copies = new Copies(trace)
  }

  watchArchive(disk: SimDisk): void {
    this.#archive = disk
    this.tiering.watch(disk)
  }

  /** What record `n` of a stream holds, of a length that is known from its number. */
  payload(stream: string, n: number): string {
    return `${stream}/${n}/`.padEnd(20 + ((n * 37) % 300), 'abcdefghijklmnopqrstuvwxyz')
  }

  sent(incarnation: string, n: number): void {
    this.#truth(incarnation).sent.add(n)
  }

  /** Invariants 1 and 3: what is acknowledged lies at its place and not behind a closed end. */
  acked(incarnation: string, n: number, ack: Ack): void {
    const { dlsn } = ack
    this.#trace.note(`acked ${n} at ${dlsn}`)
    this.ackedCount += 1
    this.onAck()
    const truth = this.#truth(incarnation)
    truth.acked.add(n)
    // Of a record that was there already it may say where the producer's last one is.
    if (ack.duplicate) {
      const place = truth.places.get(n)
      if (place !== undefined && dlsn.compare(place) < 0)
        this.#trace.violate(2, `record ${n} is at ${place} and a retry was told ${dlsn}`)
      return
    }
    this.#place(incarnation, truth, n, dlsn)
    const ledgerId = this.#ledgers.get(`${incarnation}/${dlsn.segment}`)
    if (ledgerId === undefined) {
      this.#trace.violate(3, `record ${n} was acknowledged at ${dlsn}, in a segment that is gone`)
      return
    }
    this.copies.acked(ledgerId, dlsn.entry)
    const end = this.#closed.get(ledgerId)
    if (end !== undefined && dlsn.entry > end)
      this.#trace.violate(3, `record ${n} was acknowledged at ${dlsn}, ledger ${ledgerId} ended at ${end}`)
  }

  /** What a producer's record came to; for the counts. */
  produced(ack: Ack, conditional: boolean): void {
    if (ack.duplicate) this.duplicates += 1
    if (conditional) this.conditional += 1
  }

  /** Invariants 2 and 9: each record a reader is shown is one that was sent, whole, and follows on the last. */
  observed(stream: StreamRow, record: LogRecord, place: ReaderPlace): void {
    this.reads += 1
    const truth = this.#truth(stream.incarnation)
    const text = Buffer.from(record.payload).toString('latin1')
    const n = Number(text.split('/')[1])
    if (!truth.sent.has(n) || text !== this.payload(stream.name, n)) {
      this.#trace.violate(
        9,
        `a reader of ${stream.name} was shown other bytes at ${record.dlsn}: ${text.slice(0, 40)}`,
      )
      return
    }
    this.#place(stream.incarnation, truth, n, record.dlsn)
    if (place.dlsn !== null && record.dlsn.compare(place.dlsn) <= 0)
      this.#trace.violate(2, `${record.dlsn} of ${stream.name} was read after ${place.dlsn}`)
    if (place.sequenceId !== null && record.sequenceId !== place.sequenceId + 1n)
      this.#trace.violate(
        2,
        `record ${record.dlsn} of ${stream.name} has sequenceId ${record.sequenceId} after ${place.sequenceId}`,
      )
    place.dlsn = record.dlsn
    place.sequenceId = record.sequenceId
  }

  gap(stream: StreamRow, gap: Gap, place: ReaderPlace): void {
    this.#trace.note(`gap ${gap.gap} in ${stream.name} from ${gap.from} until ${gap.until}`)
    const { incarnation } = stream
    if (gap.gap === 'dropped' && this.#allDropped(incarnation, gap)) this.#trace.worked('gaps read')
    else if (gap.gap !== 'trimmed' || !this.#truth(incarnation).trimmed)
      this.#trace.violate(1, `${stream.name} has a gap (${gap.gap}) and nothing was given up`)
    place.sequenceId = null
  }

  #allDropped(incarnation: string, { from, until }: Gap): boolean {
    for (let { segment } = from; segment < until.segment; segment += 1n)
      if (!this.tiering.isDropped(incarnation, segment)) return false
    return true
  }

  #place(incarnation: string, truth: StreamTruth, n: number, dlsn: Dlsn): void {
    const there = truth.at.get(`${dlsn}`)
    const before = truth.places.get(n)
    const again = before !== undefined && !before.equals(dlsn) && this.#whyAgain(incarnation, before, dlsn)
    if (before !== undefined && again) {
      // Idempotence lasts as long as the history that shows it: of a record that is gone nothing tells any more.
      this.#trace.worked(again)
      truth.at.set(`${dlsn}`, n)
      if (before.compare(dlsn) < 0) truth.places.set(n, dlsn)
      return
    }
    if (there !== undefined && there !== n)
      this.#trace.violate(2, `${dlsn} holds record ${n} and record ${there}`)
    if (before !== undefined && !before.equals(dlsn))
      this.#trace.violate(2, `record ${n} is at ${before} and ${dlsn}`)
    truth.at.set(`${dlsn}`, n)
    truth.places.set(n, dlsn)
  }

  /** Why a record may have two places: nobody can be shown the older one any more. */
  #whyAgain(incarnation: string, one: Dlsn, other: Dlsn): Work | null {
    const older = one.compare(other) < 0 ? one : other
    if (this.tiering.hasEnded(incarnation, older)) return 'records again after a trim'
    return this.tiering.isDropped(incarnation, older.segment) ? 'records again after a gap' : null
  }

  // What the metadata service is told.

  /** History ends below, perhaps in the middle of a segment that stays as it is. */
  streamTrimmed(incarnation: string, below: Dlsn): void {
    this.#trace.note(`history begins at ${below}`)
    this.tiering.streamTrimmed(incarnation, below)
    this.#truth(incarnation).trimmed = true
  }

  segmentBegun(row: SegmentRow): void {
    this.#ledgers.set(`${row.incarnation}/${row.segment}`, present(row.ledgerId, 'ledger of an open segment'))
    this.tiering.rowChanged(row)
    this.#trace.note(`segment ${row.segment} begins in ledger ${row.ledgerId}, epoch ${row.epoch}`)
  }

  segmentRemoved(row: SegmentRow): void {
    const trimmed = this.#truth(row.incarnation).trimmed
    if (!trimmed) this.#checkEnd(row.incarnation, row.segment, -1n)
    this.#ledgers.delete(`${row.incarnation}/${row.segment}`)
    this.tiering.rowRemoved(row)
  }

  /** A ledger that closes below what was acknowledged loses it (invariant 1). */
  ledgerChanged(ledgerId: bigint, metadata: unknown): void {
    this.copies.changed(ledgerId, metadata as LedgerMetadata)
    const { state, lastEntryId } = metadata as LedgerMetadata
    if (state !== 'CLOSED') return
    this.#trace.note(`ledger ${ledgerId} closes at ${lastEntryId}`)
    const known = this.#closed.get(ledgerId)
    if (known !== undefined && known !== lastEntryId)
      this.#trace.violate(3, `ledger ${ledgerId} was closed at ${known} and at ${lastEntryId}`)
    this.#closed.set(ledgerId, lastEntryId)
    for (const [key, id] of this.#ledgers) {
      const [incarnation, segment] = key.split('/')
      if (id === ledgerId) this.#checkEnd(`${incarnation}`, BigInt(`${segment}`), lastEntryId)
    }
  }

  #checkEnd(incarnation: string, segment: bigint, end: bigint): void {
    for (const [n, dlsn] of this.#truth(incarnation).places) {
      if (dlsn.segment === segment && dlsn.entry > end)
        this.#trace.violate(
          1,
          `segment ${segment} ends at entry ${end}, record ${n} was confirmed at ${dlsn}`,
        )
    }
  }

  beforeUpdate(row: SegmentRow, patch: SegmentPatch): void {
    if (patch.state === undefined) return
    this.tiering.checkCommit(row, patch)
    if (patch.state === row.state) return
    this.#trace.note(`segment ${row.segment} ${row.state} → ${patch.state}`)
    if (patch.state === 'archived') void this.#checkObject({ ...row, ...patch }, 'committed')
    if (patch.state === 'cold') {
      this.evictions += 1
      void this.#checkObject(row, 'evicted')
    }
    if (patch.state === 'gap') this.tiering.checkGap(row, patch)
    if (patch.state !== 'trimmed') return
    this.trims += 1
    this.tiering.checkTrim(row)
    this.#truth(row.incarnation).trimmed = true
  }

  /** Only a ledger whose records are in the archive or trimmed may go (invariant 4); one nobody refers to may not. */
  beforeLedgerDelete(ledgerId: bigint): void {
    for (const [key, id] of this.#ledgers) {
      if (id !== ledgerId || this.#freed.has(key)) continue
      this.#trace.violate(4, `ledger ${ledgerId} is deleted while segment ${key} needs it`)
    }
  }

  /** Marks what a row's state allows to be deleted. Told by the metadata service after each change of a row. */
  rowChanged(row: SegmentRow): void {
    this.tiering.rowChanged(row)
    const key = `${row.incarnation}/${row.segment}`
    // One that is recalled has a ledger of its own from then on.
    if (row.ledgerId !== null) this.#ledgers.set(key, row.ledgerId)
    if (row.state === 'archived') this.#freed.delete(key)
    if (row.state !== 'cold' && row.state !== 'trimmed' && row.state !== 'gap') return
    this.#freed.add(key)
    const ledgerId = this.#ledgers.get(key)
    if (ledgerId !== undefined) this.copies.freed(ledgerId)
  }

  /** The object that a row names, as a power cut would leave it, holds what was acknowledged (4, 6). */
  async #checkObject(row: SegmentRow, what: string): Promise<void> {
    try {
      await this.checkArchived(row)
    } catch (error) {
      this.#trace.violate(
        4,
        `segment ${row.segment} is ${what}, and its object: ${String(error).slice(0, 160)}`,
      )
    }
  }

  /** Reads a segment's object past every process and cache, and compares it with what is true. */
  async checkArchived(row: SegmentRow): Promise<void> {
    const object = present(row.object, 'object of an archived segment')
    const bytes = this.#archive?.platter.durableBytes(`${ARCHIVE_ROOT}/${object.key}`) ?? null
    if (bytes === null) throw new Error(`${object.key} is not durable`)
    if (this.#options.encrypted) {
      this.#trace.worked('encrypted objects read')
      if (bytes.includes(CLEAR)) this.#trace.violate(0, `${object.key} holds records in clear`)
    }
    const reader = await openSegmentObject(this.#durableArchive(), object)
    const found = new Set<string>()
    for (let next = 0n; next <= row.lastEntryId; ) {
      const entries = await reader.readEntries(next, 1 << 20)
      for (const { entryId, payload } of entries)
        for (const { slot, payload: record } of userRecords(payload))
          found.add(
            `${row.segment}:${entryId}:${slot}=${Buffer.from(record).toString('latin1').split('/')[1]}`,
          )
      next = present(entries.at(-1), 'an entry').entryId + 1n
    }
    for (const [n, dlsn] of this.#truth(row.incarnation).places)
      if (dlsn.segment === row.segment && !found.has(`${dlsn}=${n}`))
        this.#trace.violate(4, `record ${n} at ${dlsn} is not in ${object.key}`)
  }

  /** The archive as a power cut would leave it, past every process and cache, with the keys to it. */
  #durableArchive(): ArchiveStore {
    const { platter } = present(this.#archive, 'archive')
    const bytesOf = (key: string) => platter.durableBytes(`${ARCHIVE_ROOT}/${key}`) ?? Buffer.alloc(0)
    const store = {
      location: 'the disk of the archive',
      readRange: async (key: string, from: number, length: number) =>
        bytesOf(key).subarray(from, from + length),
      listFrom: async (prefix: string, after: string, limit: number) =>
        platter
          .durableNames()
          .map((path) => path.slice(ARCHIVE_ROOT.length + 1))
          .filter((key) => key.startsWith(prefix) && key > after)
          .slice(0, limit)
          .map((key) => ({ key, sizeBytes: bytesOf(key).length })),
    } satisfies Partial<ArchiveStore> as Partial<ArchiveStore> as ArchiveStore
    attachKeys(store, new ArchiveKeys({ store, rings: this.rings, random: null, clock: null }))
    return store
  }

  /** At the end, everything healed: what was ever confirmed is there, once, in order, or was trimmed. */
  checkHistory(stream: StreamRow, records: readonly LogRecord[]): void {
    const truth = this.#truth(stream.incarnation)
    const read = new Map(records.map((record) => [`${record.dlsn}`, record]))
    for (const [n, dlsn] of truth.places) {
      if (stream.trimmedBelow !== null && dlsn.compare(stream.trimmedBelow) < 0) continue
      if (this.tiering.isDropped(stream.incarnation, dlsn.segment)) continue
      if (!read.has(`${dlsn}`))
        this.#trace.violate(
          1,
          `record ${n}, ${truth.acked.has(n) ? 'acknowledged' : 'read'} at ${dlsn}, is lost`,
        )
    }
    for (const n of truth.acked)
      if (!truth.places.has(n) && !truth.trimmed)
        this.#trace.violate(1, `record ${n} is nowhere, and a retry was told that it is there already`)
    const first = records[0]
    const begins = !truth.trimmed && !this.tiering.isDropped(stream.incarnation, 1n)
    if (first !== undefined && begins && first.sequenceId !== 0n)
      this.#trace.violate(2, `${stream.name} begins with sequenceId ${first.sequenceId}`)
  }

  #truth(incarnation: string): StreamTruth {
    const known = this.#streams.get(incarnation)
    if (known !== undefined) return known
    const truth = new StreamTruth()
    this.#streams.set(incarnation, truth)
    return truth
  }
}
