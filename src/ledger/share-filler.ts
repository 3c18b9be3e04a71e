import { Buffer } from 'node:buffer'
import { openEntry } from '../format/ledger-digest.js'
import { PackagedEntry } from '../format/packaged-entry.js'
import { present } from '../model/assert.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import { ensembleAt, type LedgerMetadata } from '../model/ledger.js'
import { writeSet } from '../model/quorum.js'
import type { LedgerHeader, LedgerSummary, SegmentStore } from '../ports/segment-store.js'
import { ask, type LedgerContext } from './context.js'
import { emptyReport, isComplete, type ShareReport } from './share-report.js'
import { firstEnsembleWith, membersOf, shareOf } from './shares.js'

/** Read, written and read back at a time: enough for one sync, little beside what the writers of the store have waiting. */
const RUN_BYTES = 2 * 2 ** 20
/** Bad copies in a row before more than one is taken at once. */
const HOLE_ENTRIES = 16
/** Unrepairable entries that are named; the others of a report are counted. */
const NAMED_MAX = 100
/** While a store says `backpressure`. */
const PAUSE_MS = 5
const PAUSE_MS_MAX = 100
const PATIENCE_MS = 30_000

/** Entries from elsewhere than the stores: the archive. */
export interface ColdCopies {
  /**
   * Packaged entries from `first` to at most `last`, about `bytesMax`, in order. Empty: there is no copy of that
   * ledger. What can't be told now is thrown.
   */
  entries(
    ledgerId: bigint,
    metadata: LedgerMetadata,
    range: { readonly first: bigint; readonly last: bigint; readonly bytesMax: number },
    signal?: AbortSignal,
  ): Promise<Uint8Array[]>
  /** What segment the ledger stores; null where nobody knows. */
  segment(ledgerId: bigint): Promise<LedgerHeader['segment']>
}

export interface FillOptions {
  /** Null or absent: there is no archive. */
  readonly cold?: ColdCopies | null
  /** Waits until so many bytes more may be read or written. */
  readonly pace?: (sizeBytes: number, signal?: AbortSignal) => Promise<void>
  readonly signal?: AbortSignal
}

/** What one store is to hold of a closed ledger, and which store that is. */
export interface Share {
  readonly ledgerId: bigint
  readonly metadata: LedgerMetadata
  /** Whose entries these are by the metadata. */
  readonly member: string
  /** Where they are to be: that member itself, or the store that takes its place. */
  readonly target: string
}

/**
 * Sees to it that a store holds its share of a closed ledger: what it gives with a right digest stays, the rest is
 * taken from another store or the archive, checked (invariant 9), written as a recovery add, and read back. At the
 * end the store is told where the ledger ends. Nothing is ever deleted, and a store that does not answer is not
 * taken for damaged.
 */
export function fillShare(context: LedgerContext, share: Share, options: FillOptions): Promise<ShareReport> {
  return new ShareFiller(context, share, options).run()
}

/** What a store said of one entry or run. */
type Found =
  | { readonly kind: 'valid'; readonly run: Uint8Array[] }
  | { readonly kind: 'bad'; readonly reason: unknown }
  | { readonly kind: 'unknown'; readonly reason: unknown }

/** The target does not answer: the rest of its share waits. */
class TargetLost extends Error {
  readonly reason: unknown
  constructor(reason: unknown) {
    super(messageOf(reason))
    this.reason = reason
  }
}

class ShareFiller {
  readonly #context: LedgerContext
  readonly #share: Share
  readonly #options: FillOptions
  readonly #report: ShareReport = emptyReport()
  /** Sources that failed once are not asked again, entry by entry. */
  readonly #silent = new Set<string>()
  #opened = false
  /** Bad entries in a row up to here; null: the target has nothing of this ledger, whole runs are taken. */
  #bad: number | null = 0
  /** Turns over the sources, so that all disks share the reading. */
  #turn: number

  constructor(context: LedgerContext, share: Share, options: FillOptions) {
    this.#context = context
    this.#share = share
    this.#options = options
    this.#turn = Number(share.ledgerId % 97n)
  }

  async run(): Promise<ShareReport> {
    const { metadata, member, target, ledgerId } = this.#share
    try {
      let last = -1n
      for (const run of shareOf(metadata, member)) {
        for (let at = run.first; at <= run.last; ) at = await this.#step(at, run.last)
        last = run.last
      }
      // Only a store that has entries of it, or takes a member's place, need know where the ledger ends.
      if (isComplete(this.#report) && (last >= 0n || target !== member)) await this.#seal()
    } catch (error) {
      if (!(error instanceof TargetLost)) throw error
      this.#report.unreachable.push({ storeId: target, reason: messageOf(error.reason) })
      const fields = { err: error.reason, ledger: ledgerId.toString(), store: target }
      this.#context.logger.debug(fields, 'a store could not be looked at or mended now')
    }
    return this.#report
  }

  /** Deals with what begins at `at`; returns where to go on. */
  async #step(at: bigint, last: bigint): Promise<bigint> {
    this.#options.signal?.throwIfAborted()
    const found = await this.#read(this.#share.target, at, last)
    if (found.kind === 'unknown') throw new TargetLost(found.reason)
    if (found.kind === 'valid') {
      this.#bad = 0
      return at + this.#checked(found.run)
    }
    if (this.#report.checkedEntries === 0 && (await this.#summaryOn(this.#share.target))?.entries === 0)
      this.#bad = null
    const copies = await this.#copies(at, this.#until(at, last), found.reason)
    if (copies === null) {
      this.#report.checkedEntries += 1
      return at + 1n
    }
    await this.#write(at, copies)
    if (this.#bad !== null) this.#bad += copies.length
    this.#report.repairedEntries += copies.length
    this.#report.repairedBytes += bytesOf(copies)
    return at + this.#checked(copies)
  }

  /** A single copy is mended alone, so that good ones beside it stay; the longer a hole is, the more is taken at once. */
  #until(at: bigint, last: bigint): bigint {
    if (this.#bad === null) return last
    const until = at + BigInt(this.#bad < HOLE_ENTRIES ? 0 : this.#bad)
    return until < last ? until : last
  }

  #checked(run: readonly Uint8Array[]): bigint {
    this.#report.checkedEntries += run.length
    this.#report.checkedBytes += bytesOf(run)
    return BigInt(run.length)
  }

  /** The valid entries from `at` on that a store gives in one call: at least one, or why there is none. */
  async #read(id: string, at: bigint, last: bigint): Promise<Found> {
    const { ledgerId } = this.#share
    const { signal } = this.#options
    let reason: unknown = null
    try {
      const given = await ask(this.#context, id, (store) =>
        store.readEntries(ledgerId, at, last, RUN_BYTES, signal),
      )
      await this.#options.pace?.(bytesOf(given), signal)
      const run = this.#validPrefix(given, at)
      if (run.length > 0) return { kind: 'valid', run }
      if (given.length > 0) return { kind: 'bad', reason: this.#wrongDigest(given, at) }
    } catch (error) {
      signal?.throwIfAborted()
      if (!isDamage(error)) return { kind: 'unknown', reason: error }
      reason = error
    }
    return this.#readOne(id, at, reason)
  }

  /** A run that gives nothing does not say why: one entry does. */
  async #readOne(id: string, at: bigint, reason: unknown): Promise<Found> {
    const { ledgerId, metadata } = this.#share
    const { signal } = this.#options
    try {
      const answer = await ask(this.#context, id, (store) =>
        store.readEntry(ledgerId, at, signal === undefined ? {} : { signal }),
      )
      if (answer.kind !== 'entry') return { kind: 'bad', reason: reason ?? answer.kind }
      openEntry(answer.bytes, metadata.digestType, ledgerId, at)
      return { kind: 'valid', run: [answer.bytes] }
    } catch (error) {
      signal?.throwIfAborted()
      return isDamage(error) ? { kind: 'bad', reason: error } : { kind: 'unknown', reason: error }
    }
  }

  #validPrefix(given: readonly Uint8Array[], at: bigint): Uint8Array[] {
    const run: Uint8Array[] = []
    for (const bytes of given) {
      if (!this.#isValid(bytes, at + BigInt(run.length))) break
      run.push(bytes)
    }
    return run
  }

  #isValid(bytes: Uint8Array, entryId: bigint): boolean {
    try {
      openEntry(bytes, this.#share.metadata.digestType, this.#share.ledgerId, entryId)
      return true
    } catch (error) {
      if (!isStratalogError(error, 'corrupt')) throw error
      return false
    }
  }

  #wrongDigest(given: readonly Uint8Array[], at: bigint): string {
    const bytes = given[0]?.byteLength ?? 0
    return `entry ${at} has ${bytes} bytes that do not match its digest`
  }

  /** Valid copies from `at` on from another store, else from the archive; null, and noted, where none has one. */
  async #copies(at: bigint, until: bigint, why: unknown): Promise<Uint8Array[] | null> {
    const { metadata, member, target } = this.#share
    let unknown = false
    const members = ensembleAt(metadata, at)
    const holders = writeSet(at, metadata.ensembleSize, metadata.writeQuorum).map((index) =>
      present(members[index], `member ${index}`),
    )
    this.#turn += 1
    for (let turn = 0; turn < holders.length; turn += 1) {
      const id = present(holders[(this.#turn + turn) % holders.length], 'a holder')
      if (id === target) continue
      // Whose place is taken and who is not there is lost: an operator said so.
      if (id === member && this.#context.stores.get(id) === null) continue
      const found = this.#silent.has(id) ? null : await this.#read(id, at, until)
      if (found?.kind === 'valid') return found.run
      if (found?.kind === 'unknown') this.#silent.add(id)
      if (found === null || found.kind === 'unknown') unknown = true
    }
    const cold = await this.#coldCopies(at, until)
    if (cold === 'unknown') unknown = true
    else if (cold.length > 0) return cold
    this.#note(at, unknown, why)
    return null
  }

  async #coldCopies(at: bigint, until: bigint): Promise<Uint8Array[] | 'unknown'> {
    const { cold, signal } = this.#options
    if (cold === undefined || cold === null || this.#silent.has('archive')) return cold ? 'unknown' : []
    const { ledgerId, metadata } = this.#share
    try {
      const range = { first: at, last: until, bytesMax: RUN_BYTES }
      const given = await cold.entries(ledgerId, metadata, range, signal)
      await this.#options.pace?.(bytesOf(given), signal)
      return this.#validPrefix(given, at)
    } catch (error) {
      signal?.throwIfAborted()
      // A damaged object gives nothing now; whether another one does, the archive's own check finds out.
      if (isDamage(error)) return []
      this.#silent.add('archive')
      const fields = { err: error, ledger: ledgerId.toString() }
      this.#context.logger.warn(fields, 'the archive could not be asked for a copy')
      return 'unknown'
    }
  }

  #note(entryId: bigint, unknown: boolean, why: unknown): void {
    if (unknown) {
      this.#report.waitingEntries += 1
      return
    }
    const { ledgerId, target } = this.#share
    this.#report.unrepairableEntries += 1
    const entry = { ledgerId, entryId, storeId: target, reason: messageOf(why) }
    if (this.#report.unrepairable.length < NAMED_MAX) this.#report.unrepairable.push(entry)
  }

  /** Writes copies to the target, all on their way at once, and reads them back. */
  async #write(at: bigint, copies: readonly Uint8Array[]): Promise<void> {
    await this.#options.pace?.(bytesOf(copies), this.#options.signal)
    await this.#open()
    try {
      await Promise.all(copies.map((bytes, i) => this.#add(at + BigInt(i), new PackagedEntry(bytes))))
      await this.#readBack(at, copies)
    } catch (error) {
      this.#options.signal?.throwIfAborted()
      throw new TargetLost(error)
    }
  }

  /** Backpressure is no failure: the writers of the store come first. */
  async #add(entryId: bigint, entry: PackagedEntry): Promise<void> {
    const { clock } = this.#context
    const sinceMs = clock.monotonicMs()
    for (let pauseMs = PAUSE_MS; ; pauseMs = Math.min(PAUSE_MS_MAX, 2 * pauseMs)) {
      try {
        const add = (store: SegmentStore) =>
          store.addEntry(this.#share.ledgerId, entryId, entry, { recovery: true })
        return await ask(this.#context, this.#share.target, add)
      } catch (error) {
        const wait = isStratalogError(error, 'backpressure') && clock.monotonicMs() - sinceMs < PATIENCE_MS
        if (!wait) throw error
        await clock.sleep(pauseMs, this.#options.signal)
      }
    }
  }

  /** What a store said it has it must give: a write that never reached the disk is found out here, not by a reader. */
  async #readBack(at: bigint, copies: readonly Uint8Array[]): Promise<void> {
    const { ledgerId, target } = this.#share
    const last = at + BigInt(copies.length) - 1n
    for (let done = 0; done < copies.length; ) {
      const first = at + BigInt(done)
      const given = await ask(this.#context, target, (store) =>
        store.readEntries(ledgerId, first, last, RUN_BYTES),
      )
      const same = given.every((bytes, i) => {
        const copy = present(copies[done + i], 'copy')
        return Buffer.from(copy.buffer, copy.byteOffset, copy.byteLength).equals(bytes)
      })
      if (given.length === 0 || !same) {
        throw new StratalogError(
          'corrupt',
          `segment store ${target} does not give entry ${first} of ledger ${ledgerId} back as it was written: check its disk`,
        )
      }
      done += given.length
    }
  }

  /** Makes the ledger known to the target, with the header another store has of it. */
  async #open(): Promise<void> {
    if (this.#opened) return
    const header = await this.#header()
    try {
      // Evicted meanwhile: a store that has forgotten it already must not learn of it anew.
      await this.#context.metadata.read(this.#share.ledgerId)
      await this.#fence()
      await ask(this.#context, this.#share.target, (store) => store.openLedger(header))
    } catch (error) {
      this.#options.signal?.throwIfAborted()
      // It knows the ledger already, by a header of its own.
      if (!isStratalogError(error, 'ledger_exists')) throw new TargetLost(error)
    }
    this.#opened = true
  }

  /**
   * A closed ledger takes no plain adds. And a store that lost all it had of this one would take it for a new one, of
   * which nothing can be lost, and say *missing* of entries it once acknowledged: one it knows by a fence is old.
   */
  async #fence(): Promise<void> {
    try {
      await ask(this.#context, this.#share.target, (store) => store.fence(this.#share.ledgerId))
    } catch (error) {
      // Fenced all the same; what else it holds can't be told, which is why it is mended.
      if (!isDamage(error)) throw error
    }
  }

  /** The header names the ensemble as it is going to be: an index rebuilt from stores reads it there. */
  async #header(): Promise<LedgerHeader> {
    const { ledgerId, metadata, member, target } = this.#share
    const { firstEntryId, members } = firstEnsembleWith(metadata, member)
    const found = await this.#foundHeader()
    const { digestType, ensembleSize, writeQuorum, ackQuorum } = metadata
    return {
      ledgerId,
      digestType,
      ensembleSize,
      writeQuorum,
      ackQuorum,
      members: members.map((id) => (id === member ? target : id)),
      firstEntryId,
      segment: found?.segment ?? (await this.#coldSegment()),
      preceding: found?.preceding ?? null,
    }
  }

  async #foundHeader(): Promise<LedgerHeader | null> {
    for (const id of membersOf(this.#share.metadata)) {
      const summary = await this.#summaryOn(id)
      if (summary !== null && summary.header !== null) return summary.header
    }
    return null
  }

  /** What a store says of the ledger as a whole; `entries` 0 for one it does not know, null where it can't be asked. */
  async #summaryOn(id: string): Promise<Pick<LedgerSummary, 'entries' | 'header'> | null> {
    const { ledgerId } = this.#share
    try {
      const [summary] = await ask(this.#context, id, (store) => store.listLedgers(ledgerId - 1n, 1))
      return summary?.ledgerId === ledgerId ? summary : { entries: 0, header: null }
    } catch (error) {
      const fields = { err: error, ledger: ledgerId.toString(), store: id }
      this.#context.logger.debug(fields, 'a store could not be asked for a ledger')
      return null
    }
  }

  async #coldSegment(): Promise<LedgerHeader['segment']> {
    return (await this.#options.cold?.segment(this.#share.ledgerId)) ?? null
  }

  async #seal(): Promise<void> {
    const { ledgerId, metadata, target } = this.#share
    const seal = { lastEntryId: metadata.lastEntryId, lengthBytes: Number(metadata.lengthBytes) }
    if (target !== this.#share.member) await this.#open()
    try {
      await ask(this.#context, target, (store) => store.sealLedger(ledgerId, seal))
    } catch (error) {
      throw new TargetLost(error)
    }
  }
}

/** Whether an error says that a copy is bad, not that nobody knows. A sector that can't be read is written anew. */
function isDamage(error: unknown): boolean {
  return isStratalogError(error, 'corrupt') || isStratalogError(error, 'io_failed')
}

function bytesOf(run: readonly Uint8Array[]): number {
  return run.reduce((sum, bytes) => sum + bytes.byteLength, 0)
}

function messageOf(reason: unknown): string {
  return reason instanceof Error ? reason.message : String(reason)
}
