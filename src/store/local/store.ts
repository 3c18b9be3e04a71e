import { crc32c } from '../../format/checksum.js'
import type { PackagedEntry } from '../../format/packaged-entry.js'
import { isStratalogError, StratalogError } from '../../model/errors.js'
import type {
  ControlFrame,
  EntryAnswer,
  LastEntryAnswer,
  LedgerHeader,
  LedgerSeal,
  LedgerSummary,
  SegmentStore,
  StoreStatus,
} from '../../ports/segment-store.js'
import { Answers } from './answers.js'
import type { MarkFrame } from './carried-marks.js'
import { checkEntryId, checkLedgerId, checkSameHeader, checkSeal, fencedError, notFound } from './checks.js'
import { CommitItem } from './commit-item.js'
import { Damage } from './damage.js'
import { DiskLook } from './disk-look.js'
import { Doubt } from './doubt.js'
import { EntrySearch } from './entry-search.js'
import { FileHandles } from './file-handles.js'
import { lacOf } from './frame.js'
import { GroupCommit } from './group-commit.js'
import { StoreHealth } from './health.js'
import { IndexRows } from './index-rows.js'
import { LacWaiters } from './lac-waiters.js'
import type { Ledger } from './ledger.js'
import type { TableEvents } from './ledger-table.js'
import type { LogFile } from './log-file.js'
import { encodeControl, encodeLedgerHeader, encodeSealLength, NO_BODY } from './mark-body.js'
import { type LocalStoreOptions, localStoreOptions } from './options.js'
import { EntryReader } from './reader.js'
import { Reclaimer } from './reclaim.js'
import { Rewriter } from './rewrite.js'
import { Space } from './space.js'
import { type Started, startStore } from './start.js'

/**
 * Opens, or makes, the segment store of one directory (docs/formats/local-store.md). The directory must
 * belong to this process alone. Fails with `file_not_found`, `refused` (another log's),
 * `version_unsupported`, `corrupt` (superblock), `access_denied`, `invalid_argument`.
 */
export async function openLocalStore(options: LocalStoreOptions): Promise<SegmentStore> {
  const filled = localStoreOptions(options)
  // The table tells the store what happens; while it is filled at start nobody listens yet.
  let store: LocalStore | null = null
  const started = await startStore(filled, {
    lacAdvanced: (ledger) => store?.lacAdvanced(ledger),
    ledgerEnded: (ledger) => store?.ledgerEnded(ledger),
    fileShrunk: () => store?.fileShrunk(),
  })
  store = new LocalStore(filled, started)
  await store.begin()
  return store
}

/** What is called for each entry and done at once: the same promise for all. */
const DONE = Promise.resolve()

/** One directory as a segment store: checks, the rules of fences, seals and deletes, and what is answered. */
class LocalStore implements SegmentStore, TableEvents {
  readonly id: string
  readonly #options: Required<LocalStoreOptions>
  readonly #started: Started
  readonly #health: StoreHealth
  readonly #handles: FileHandles
  readonly #space: Space
  readonly #commit: GroupCommit
  readonly #answers: Answers
  readonly #reclaimer: Reclaimer
  readonly #rewriter: Rewriter
  readonly #waiters: LacWaiters
  readonly #doubt: Doubt
  readonly #look: DiskLook
  readonly #damage: Damage
  /** Marks on their way, so that the same call again waits for the same frame. */
  readonly #underWay = new Map<string, Promise<void>>()
  #closing: Promise<void> | null = null

  constructor(options: Required<LocalStoreOptions>, started: Started) {
    const { disk, clock, directory, logger } = options
    const { files, table, superblock } = started
    this.id = superblock.storeId
    this.#options = options
    this.#started = started
    this.#doubt = new Doubt(superblock, directory)
    this.#health = new StoreHealth(directory, clock, logger)
    this.#handles = new FileHandles(disk)
    this.#look = new DiskLook(directory, clock, this.id, async () => {
      await this.#probeSpace()
      return disk.space(directory)
    })
    this.#space = new Space({ ...options, ...started, handles: this.#handles, health: this.#health })
    this.#commit = new GroupCommit({
      ...options,
      health: this.#health,
      space: this.#space,
      events: {
        durable: (item, file, offset) => this.#apply(item, file, offset),
        fileClosed: () => this.#reclaimer.want(),
      },
    })
    const rows = new IndexRows(disk, this.#handles, options.indexBytesMax)
    const search = new EntrySearch(rows)
    this.#damage = new Damage(started.corruptBytes, logger)
    const reader = new EntryReader(search, this.#handles, this.#damage)
    this.#answers = new Answers(table, this.#commit, search, reader, this.#doubt)
    this.#waiters = new LacWaiters(clock)
    this.#rewriter = new Rewriter({
      ...options,
      files,
      table,
      search,
      handles: this.#handles,
      damage: this.#damage,
      health: this.#health,
      space: this.#space,
      look: this.#look,
      isBusy: () => this.#commit.pendingBytes > 0,
    })
    this.#reclaimer = new Reclaimer({
      rewriter: this.#rewriter,
      disk,
      files,
      table,
      space: this.#space,
      commit: this.#commit,
      health: this.#health,
      logger,
      append: (mark) => this.#append(mark, null),
    })
  }

  /** Writes down what the start found out, which also shows whether the directory can be written. */
  async begin(): Promise<void> {
    try {
      await this.#space.save({})
    } catch (error) {
      // A full disk can be read and freed; the same is found out at the next start.
      if (!isStratalogError(error, 'disk_full')) throw error
      this.#options.logger.warn({ error, directory: this.#options.directory }, 'the disk is full at start')
    }
    // What this start had to scan the next one need not, if it is only read now.
    await this.#reclaimer.indexClosed()
  }

  // What the table tells.

  lacAdvanced(ledger: Ledger): void {
    this.#waiters.advanced(ledger.id, ledger.knownLac)
  }

  ledgerEnded(ledger: Ledger): void {
    this.#waiters.ended(ledger.id, ledger.knownLac)
  }

  fileShrunk(): void {
    this.#reclaimer.want()
  }

  // Writing.

  async openLedger(header: LedgerHeader): Promise<void> {
    this.#health.checkWritable()
    checkLedgerId(header.ledgerId)
    const { table } = this.#started
    const known = table.find(header.ledgerId)
    if (known?.deleteAsked) throw notFound(header.ledgerId, 'was deleted')
    if (known !== null && known.headerAsked !== null) checkSameHeader(known.headerAsked, header)
    if (known !== null && known.header !== null) return
    if (known === null) this.#health.checkSpace()
    const body = encodeLedgerHeader(header)
    const ledger = known ?? table.obtain(header.ledgerId)
    // New where it begins: nothing of it can be lost here. A store that joins it later may have been a member before and
    // have lost all that said so; a ledger that is known without a header is old.
    const isNew = header.firstEntryId === 0n || !this.#doubt.exists
    if (known === null && isNew) ledger.bornGeneration = this.#doubt.firstFreeOf
    const bornGeneration = ledger.bornGeneration === this.#doubt.firstFreeOf ? null : 0n
    ledger.headerAsked = header
    try {
      await this.#once(`ledger ${ledger.id}`, {
        kind: 'ledger',
        ledgerId: ledger.id,
        entryId: 0n,
        bornGeneration,
        body,
      })
    } catch (error) {
      if (ledger.header === null) ledger.headerAsked = null
      table.forgetIfEmpty(ledger)
      throw error
    }
  }

  addEntry(
    ledgerId: bigint,
    entryId: bigint,
    entry: PackagedEntry,
    options?: { readonly recovery?: boolean },
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#health.checkWritable()
      this.#health.checkSpace()
      checkEntryId(entryId)
      const recovery = options?.recovery ?? false
      const ledger = this.#ledgerForAdd(ledgerId, entryId, recovery)
      const bodyCrc32c = entry.crc32c
      const frame = {
        kind: 'entry',
        ledgerId,
        entryId,
        bornGeneration: 0n,
        body: entry.bytes,
        bodyCrc32c,
      } as const
      const item = new CommitItem(frame, ledger, !recovery, resolve, reject)
      this.#commit.enqueue(item)
    })
  }

  #ledgerForAdd(ledgerId: bigint, entryId: bigint, recovery: boolean): Ledger {
    const ledger = this.#started.table.find(ledgerId)
    if (ledger === null) throw notFound(ledgerId, 'was never opened')
    if (ledger.deleteAsked) throw notFound(ledgerId, 'was deleted')
    const seal = ledger.sealAsked
    if (recovery) {
      if (seal === null || entryId <= seal.lastEntryId) return ledger
      const message = `entry ${entryId} of ledger ${ledgerId} lies above its seal at ${seal.lastEntryId}`
      throw new StratalogError('conflict', message, { expected: seal.lastEntryId, found: entryId })
    }
    if (ledger.fenceAsked || seal !== null) throw fencedError(ledgerId)
    if (ledger.headerAsked === null) throw notFound(ledgerId, 'was never opened')
    // Among what was lost may be a fence of this ledger (invariant 3).
    this.#doubt.checkNothingLost(ledgerId, ledger)
    return ledger
  }

  async #fenceDurably(ledgerId: bigint): Promise<void> {
    this.#health.checkOpen()
    checkLedgerId(ledgerId)
    const known = this.#started.table.find(ledgerId)
    if (known?.fenced || known?.deleted) return
    this.#health.checkWritable()
    const ledger = known ?? this.#started.table.obtain(ledgerId)
    ledger.fenceAsked = true
    this.#commit.takeBackPlainAdds(ledger, fencedError(ledgerId))
    await this.#once(`fence ${ledgerId}`, mark('fence', ledgerId, NO_BODY))
  }

  async fence(ledgerId: bigint): Promise<LastEntryAnswer> {
    await this.#fenceDurably(ledgerId)
    return this.#answers.last(ledgerId)
  }

  async sealLedger(ledgerId: bigint, seal: LedgerSeal): Promise<void> {
    this.#health.checkOpen()
    checkLedgerId(ledgerId)
    checkSeal(seal)
    const known = this.#started.table.find(ledgerId)
    if (known?.deleteAsked) throw notFound(ledgerId, 'was deleted')
    const asked = known?.sealAsked ?? null
    if (
      asked !== null &&
      (asked.lastEntryId !== seal.lastEntryId || asked.lengthBytes !== seal.lengthBytes)
    ) {
      throw new StratalogError(
        'conflict',
        `ledger ${ledgerId} is sealed elsewhere, at ${asked.lastEntryId}`,
        {
          expected: asked,
          found: seal,
        },
      )
    }
    if (known !== null && known.seal !== null) return
    this.#health.checkWritable()
    const ledger = known ?? this.#started.table.obtain(ledgerId)
    ledger.sealAsked = { ...seal }
    try {
      const frame = mark('seal', ledgerId, encodeSealLength(seal), seal.lastEntryId)
      const bornGeneration = this.#doubt.mayHaveLostTail(known) ? 0n : frame.bornGeneration
      await this.#once(`seal ${ledgerId}`, { ...frame, bornGeneration })
    } catch (error) {
      ledger.sealAsked = ledger.seal
      throw error
    }
  }

  async deleteLedger(ledgerId: bigint): Promise<void> {
    this.#health.checkOpen()
    checkLedgerId(ledgerId)
    const ledger = this.#started.table.find(ledgerId)
    if (ledger === null || ledger.deleted) return
    this.#health.checkWritable()
    ledger.deleteAsked = true
    try {
      await this.#once(`delete ${ledgerId}`, mark('delete', ledgerId, NO_BODY))
    } catch (error) {
      ledger.deleteAsked = ledger.deleted
      throw error
    }
  }

  async putControl(frame: ControlFrame): Promise<void> {
    this.#health.checkOpen()
    if (this.#started.table.control(frame.id) !== null) return
    this.#health.checkWritable()
    await this.#once(`control ${frame.id}`, mark('control', 0n, encodeControl(frame)))
  }

  #once(key: string, frame: MarkFrame): Promise<void> {
    const running = this.#underWay.get(key)
    if (running !== undefined) return running
    const begun = this.#append(frame, this.#started.table.find(frame.ledgerId)).finally(() => {
      this.#underWay.delete(key)
    })
    this.#underWay.set(key, begun)
    return begun
  }

  #append(frame: MarkFrame, ledger: Ledger | null): Promise<void> {
    return new Promise((resolve, reject) => {
      const { poisoned } = this.#health
      if (poisoned !== null) throw poisoned
      const item = new CommitItem(
        { ...frame, bodyCrc32c: crc32c(frame.body) },
        ledger,
        false,
        resolve,
        reject,
      )
      this.#commit.enqueue(item)
    })
  }

  /** Takes a frame that has become durable into the index. */
  #apply(item: CommitItem, file: LogFile, offset: number): void {
    const { table } = this.#started
    if (item.kind !== 'entry') {
      const { kind, ledgerId, entryId, body } = item
      table.applyMark(
        { kind, ledgerId, entryId, body, bornGeneration: item.bornGeneration ?? file.generation },
        file,
      )
    } else if (item.ledger !== null) {
      const place = { offset, bodyBytes: item.body.byteLength }
      table.applyEntry(item.ledger, Number(item.entryId), lacOf(item.body), file, place)
    }
    this.#reclaimer.proceed()
  }

  // Reading. Goes on while the store is poisoned.

  async readEntry(
    ledgerId: bigint,
    entryId: bigint,
    options?: { readonly fence?: boolean; readonly signal?: AbortSignal },
  ): Promise<EntryAnswer> {
    this.#health.checkOpen()
    options?.signal?.throwIfAborted()
    checkEntryId(entryId)
    if (options?.fence) await this.#fenceDurably(ledgerId)
    return this.#answers.entry(ledgerId, entryId, options?.signal)
  }

  async readEntries(
    ledgerId: bigint,
    first: bigint,
    last: bigint,
    bytesMax: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array[]> {
    this.#health.checkOpen()
    signal?.throwIfAborted()
    checkEntryId(first)
    return this.#answers.run(ledgerId, first, last, bytesMax)
  }

  async readLac(ledgerId: bigint): Promise<LastEntryAnswer> {
    this.#health.checkOpen()
    checkLedgerId(ledgerId)
    return this.#answers.last(ledgerId)
  }

  writeLac(ledgerId: bigint, lac: bigint): Promise<void> {
    if (this.#health.closed) return Promise.reject(this.#health.closedError())
    const ledger = this.#started.table.find(ledgerId)
    if (ledger === null) return Promise.reject(notFound(ledgerId, 'was never opened'))
    if (ledger.deleteAsked) return Promise.reject(notFound(ledgerId, 'was deleted'))
    if (lac > ledger.explicitLac) ledger.explicitLac = lac
    this.#started.table.raiseLac(ledger, lac)
    return DONE
  }

  async waitForLac(
    ledgerId: bigint,
    above: bigint,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<bigint> {
    this.#health.checkOpen()
    signal?.throwIfAborted()
    const ledger = this.#started.table.find(ledgerId)
    if (ledger !== null && (ledger.knownLac > above || ledger.seal !== null || ledger.deleted))
      return ledger.knownLac
    const known = (): bigint => this.#started.table.find(ledgerId)?.knownLac ?? -1n
    return this.#waiters.wait(ledgerId, above, timeoutMs, signal, known)
  }

  async listLedgers(after: bigint, limit: number): Promise<LedgerSummary[]> {
    this.#health.checkOpen()
    return this.#answers.summaries(after, limit)
  }

  async listControls(): Promise<ControlFrame[]> {
    this.#health.checkOpen()
    return this.#started.table.controls()
  }

  async status(): Promise<StoreStatus> {
    const { space, failure } = await this.#look.take()
    const { closed, poisoned, full } = this.#health
    const state = closed ? 'closed' : poisoned ? 'poisoned' : failure ? 'unreachable' : full ? 'full' : null
    return {
      id: this.id,
      location: this.#options.directory,
      state: state ?? 'writable',
      reason: (poisoned ?? failure ?? full)?.message ?? null,
      usedBytes: [...this.#started.files].reduce((sum, file) => sum + file.sizeBytes, 0),
      freeBytes: failure === null ? space.freeBytes + this.#space.spareBytes : 0,
      totalBytes: space.totalBytes,
      device: space.device,
      pendingBytes: this.#commit.pendingBytes,
      corruptBytes: this.#damage.bytes,
    }
  }

  /** A full store gets no appends that could find out that there is space again: who asks for its state does. */
  async #probeSpace(): Promise<void> {
    const { closed, poisoned, full } = this.#health
    if (full === null || closed || poisoned !== null || !this.#health.mayProbe()) return
    try {
      await this.#space.replenish()
      this.#health.noteSpace()
    } catch (error) {
      if (isStratalogError(error, 'disk_full')) this.#health.noteFull(error)
      else this.#health.poison(error)
    }
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    this.#health.close()
    this.#waiters.failAll(this.#health.closedError())
    this.#rewriter.stop()
    await this.#reclaimer.settled()
    await this.#commit.drain()
    if (this.#health.poisoned !== null) {
      await this.#space.closeAhead()
    } else {
      try {
        await this.#reclaimer.indexClosed()
        // Before the mark: a file that is listed after it would look like one whose frames are lost.
        await this.#space.putAheadBack()
      } catch (error) {
        this.#options.logger.warn(
          { error, directory: this.#options.directory },
          'an unused file stays in the log',
        )
      }
    }
    try {
      await this.#commit.finish()
    } finally {
      await this.#space.settled()
      await this.#handles.closeAll()
    }
  }
}

function mark(kind: MarkFrame['kind'], ledgerId: bigint, body: Uint8Array, entryId = 0n): MarkFrame {
  return { kind, ledgerId, entryId, bornGeneration: null, body }
}
