import { listOwners, type NumberedOwner } from '../archive/control-objects.js'
import { attachKeys, keysOf } from '../archive/keys.js'
import { emptyTally, verifyArchivedStream } from '../archive/verify-archive.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import { rowsOf, streamsOf } from './all-rows.js'
import { belongsIn } from './archives.js'
import type { TieringContext } from './context.js'
import { CopyRoom } from './copy-room.js'
import { arrive, markArriving, markMoved, ownerKey } from './migrate-moves.js'
import { lossesFound, type MigrationFinding, ObjectMover } from './migrate-objects.js'
import { begunBefore, sourceOwner } from './migrate-places.js'
import { type MigrationState, migrationOf, noteMigration } from './migrate-state.js'
import type { MovableArchive } from './migrate-store.js'
import { type CompareOptions, compareArchives, type Difference, weighArchives } from './migrate-sweep.js'
import { confirmOwner } from './ownership.js'
import { Pace } from './pace.js'

/** Objects whose keys are noted together before any of them is written, and how many of them go side by side. */
const NOTED_AT_ONCE = 64
const OBJECTS_AT_ONCE = 8
/** What a round may have brought for the next one to be the last: that one keeps copies waiting. */
const LAST_OBJECTS_MAX = 32
const LAST_BYTES_MAX = 256 * 2 ** 20
/** Rounds after which an archive that grows faster than it is copied is not chased any more. */
const ROUNDS_MAX = 100
/** How long uploads into the old place may take to end when it is to be held still, and how often that is tried. */
const DRAIN_MS = 30_000
const HOLDS_MAX = 10
const LATER_MS = 1_000
/** How often the switch is tried to be finished before whoever asked for it is told. */
const SETTLES_MAX = 5
const SETTLE_AGAIN_MS = 1_000

/** How a migration goes about it. */
export interface MigrateOptions {
  readonly signal: AbortSignal
  /** @default as fast as it goes */
  readonly bytesPerSecond?: number | null
  /** Take damaged objects as they are, and go on without missing ones. @default false */
  readonly allowDamaged?: boolean
  readonly found?: (finding: MigrationFinding) => void
}

/** How far a migration is; changes while it runs. */
export interface MigrationProgress {
  phase: 'listing' | 'copying' | 'checking' | 'switching'
  round: number
  /** Of what there was when it began. */
  totalObjects: number
  totalBytes: number
  /** There, and read back: also what an earlier run brought. */
  doneObjects: number
  doneBytes: number
  /** By this run. */
  copiedObjects: number
  copiedBytes: number
}

/** What a migration came to. */
export interface MigrationReport {
  readonly from: string
  readonly to: string
  readonly epoch: bigint
  readonly copiedObjects: number
  readonly copiedBytes: number
  /** Objects that are in the archive now. */
  readonly objects: number
  readonly damaged: number
  readonly mended: number
}

/** A progress of nothing. */
export function noProgress(): MigrationProgress {
  return {
    phase: 'listing',
    round: 0,
    totalObjects: 0,
    totalBytes: 0,
    doneObjects: 0,
    doneBytes: 0,
    copiedObjects: 0,
    copiedBytes: 0,
  }
}

/** Moves the archive of a log to another place while the log runs. Decision 0029. */
export class Migration {
  readonly progress: MigrationProgress = noProgress()
  readonly #context: TieringContext
  readonly #archive: MovableArchive
  readonly #source: ArchiveStore
  readonly #target: ArchiveStore
  readonly #options: MigrateOptions
  readonly #mover: ObjectMover
  readonly #room = new CopyRoom()
  #state: MigrationState
  /** Keys in the new place of which nobody knows whether they are whole; null: none was ever read back. */
  #unread: Set<string> | null = null
  #damaged = 0
  #mended = 0
  #handedOver = false
  #refused: unknown = null

  /** `archive` has nothing left to settle. */
  constructor(
    context: TieringContext,
    archive: MovableArchive,
    target: ArchiveStore,
    options: MigrateOptions,
  ) {
    const { clock } = context.ledger
    this.#context = context
    this.#archive = archive
    this.#source = archive.current
    this.#target = target
    this.#options = options
    this.#state = {
      from: this.#source.location,
      to: target.location,
      beganMs: clock.nowMs(),
      unread: null,
    }
    // The keys of streams are the same objects in both; they may come over after what they encrypt.
    attachKeys(target, keysOf(archive))
    const moving = {
      source: this.#source,
      target,
      pace: new Pace(clock, () => options.bytesPerSecond ?? null, true),
      signal: options.signal,
      onBytes: (bytes: number) => {
        this.progress.copiedBytes += bytes
      },
    }
    const found = (finding: MigrationFinding) => this.#found(finding)
    this.#mover = new ObjectMover({ context, moving, allowDamaged: options.allowDamaged ?? false, found })
  }

  /** Whether the new place is the log's to use and to close; until then it is closed by who opened it. */
  get handedOver(): boolean {
    return this.#handedOver
  }

  /**
   * Copies until both places hold the same, then switches. Interrupted anywhere it is gone on with by the same call in
   * any later process; until it resolves the old place counts, or the mark in it says that the new one does.
   */
  async run(): Promise<MigrationReport> {
    const { signal } = this.#options
    const owner = await this.#begin()
    await this.#follow(owner)
    this.progress.phase = 'checking'
    await this.#checkRows()
    const losses = this.#mover.damaged
    if (losses.size > 0 && this.#options.allowDamaged !== true) throw lossesFound(losses)
    this.progress.phase = 'switching'
    for (let holds = 1; !(await this.#switch(owner)); holds += 1) {
      if (holds === HOLDS_MAX) throw neverStill(this.#source)
      await this.#context.ledger.clock.sleep(LATER_MS, signal)
      await this.#follow(owner)
      if (losses.size > 0 && this.#options.allowDamaged !== true) throw lossesFound(losses)
    }
    await this.#settled()
    if (this.#refused !== null) throw this.#refused
    const now = (await listOwners(this.#target)).at(-1)
    const { copiedObjects, copiedBytes, doneObjects } = this.progress
    const { from, to } = this.#state
    const sums = { copiedObjects, copiedBytes, objects: doneObjects }
    return {
      from,
      to,
      epoch: now?.epoch ?? owner.epoch + 1n,
      ...sums,
      damaged: this.#damaged,
      mended: this.#mended,
    }
  }

  #found(finding: MigrationFinding): void {
    if (finding.kind === 'damaged' || finding.kind === 'missing') this.#damaged += 1
    if (finding.kind === 'mended') this.#mended += 1
    this.#options.found?.(finding)
  }

  /** The mark first: whoever comes upon the new place must not take a part of an archive for the whole. */
  async #begin(): Promise<NumberedOwner> {
    const { index, logId, ledger } = this.#context
    const { signal } = this.#options
    const { from, to } = this.#state
    const owner = await sourceOwner(this.#context, this.#source, signal)
    const begun = await begunBefore(this.#context, this.#source, this.#target, to, signal)
    const known = await migrationOf(index)
    if (begun && known !== null) {
      this.#state = known
      this.#unread = known.unread === null ? null : new Set(known.unread)
    } else {
      await noteMigration(index, this.#state)
      const mark = { log: logId, location: from, atMs: ledger.clock.nowMs() }
      if (!begun) {
        await markArriving(this.#target, owner, mark)
        await this.#note(new Set())
      }
    }
    const weighed = await weighArchives(this.#source, this.#target, this.#comparing(owner))
    this.progress.totalObjects = weighed.objects
    this.progress.totalBytes = weighed.bytes
    this.progress.doneObjects = weighed.thereObjects
    this.progress.doneBytes = weighed.thereBytes
    return owner
  }

  /** Rounds until one had little to bring. */
  async #follow(owner: NumberedOwner): Promise<void> {
    this.progress.phase = 'copying'
    for (let round = 1; round <= ROUNDS_MAX; round += 1) {
      this.progress.round += 1
      const { objects, bytes, thawing, later } = await this.#round(owner, false)
      if (thawing > 0) throw thaws(thawing, this.#source)
      if (later === 0 && objects <= LAST_OBJECTS_MAX && bytes <= LAST_BYTES_MAX) return
      if (later > 0) await this.#context.ledger.clock.sleep(LATER_MS, this.#options.signal)
    }
    throw neverStill(this.#source)
  }

  async #round(owner: NumberedOwner, still: boolean): Promise<Round> {
    const { signal } = this.#options
    await confirmOwner(this.#context, this.#source, signal)
    this.#mover.begin()
    const round = { objects: 0, bytes: 0, thawing: 0, later: 0 }
    const batch: Difference[] = []
    const flush = async () => {
      await this.#bring(batch.splice(0), still, round)
    }
    for await (const one of compareArchives(this.#source, this.#target, this.#comparing(owner))) {
      signal.throwIfAborted()
      batch.push(one)
      if (batch.length >= NOTED_AT_ONCE) await flush()
    }
    await flush()
    // Everything in the new place was looked at once, and what was in doubt read back.
    await this.#note(this.#unread ?? new Set())
    return round
  }

  /** Keys are noted before anything is put under them: a crash in between leaves nothing in doubt that is not noted. */
  async #bring(batch: readonly Difference[], still: boolean, round: Round): Promise<void> {
    if (batch.length === 0) return
    if (this.#unread !== null) {
      for (const { key } of batch) this.#unread.add(key)
      await this.#note(this.#unread)
    }
    const next = batch[Symbol.iterator]()
    const work = async () => {
      for (let one = next.next(); one.done !== true; one = next.next())
        await this.#one(one.value, still, round)
    }
    const workers = await Promise.allSettled(Array.from({ length: OBJECTS_AT_ONCE }, work))
    const failed = workers.find((worker) => worker.status === 'rejected')
    if (failed !== undefined) throw failed.reason
  }

  async #one(difference: Difference, still: boolean, round: Round): Promise<void> {
    const { signal } = this.#options
    const options = { signal, onMoved: () => undefined }
    const brought = await this.#room.with(difference.sizeBytes, options, () =>
      this.#mover.bring(difference, still),
    )
    this.#unread?.delete(difference.key)
    if (brought === 'thawing') round.thawing += 1
    if (brought === 'later') round.later += 1
    if (brought !== 'whole') return
    round.objects += 1
    round.bytes += difference.sizeBytes
    this.progress.copiedObjects += 1
    this.progress.doneObjects += 1
    this.progress.doneBytes += difference.sizeBytes
  }

  async #note(unread: Set<string>): Promise<void> {
    this.#unread = unread
    this.#state = { ...this.#state, unread: [...unread] }
    await noteMigration(this.#context.index, this.#state)
  }

  #comparing(owner: NumberedOwner): CompareOptions {
    const mark = ownerKey(owner.number + 1n)
    return {
      signal: this.#options.signal,
      ignored: (key) => key === mark || this.#mover.isLeft(key),
      unread: (key) => this.#unread?.has(key) ?? true,
    }
  }

  /** Whatever the index names must be in the new place, but for streams that have an archive to themselves. */
  async #checkRows(): Promise<void> {
    const { index } = this.#context
    const { signal, allowDamaged } = this.#options
    const lost = new Map<string, string>()
    for await (const { incarnation, name } of streamsOf(index)) {
      if (!(await belongsIn(this.#context, incarnation, null))) continue
      const fresh = (segment: bigint) => index.segment(incarnation, segment)
      const checked = { incarnation, name, rows: rowsOf(index, incarnation), fresh }
      for await (const part of verifyArchivedStream(this.#target, checked, emptyTally(), { signal })) {
        if (part.type !== 'finding' || part.finding.problem !== 'missing') continue
        const { key, text } = part.finding
        // What was stored behind the last round is no loss: the next one has it.
        if (key === null || (await this.#source.head(key, signal)) !== null) continue
        lost.set(key, text)
        this.#found({ kind: 'missing', key, text })
      }
    }
    if (lost.size > 0 && allowDamaged !== true) throw lossesFound(lost)
  }

  /** False: something came between, and another round is needed. */
  async #switch(owner: NumberedOwner): Promise<boolean> {
    const { logId, index, ledger } = this.#context
    let ready = false
    await this.#archive.holdStill(DRAIN_MS, this.#options.signal, async () => {
      // Nobody writes, so that one comparison more finds all there is: both places hold the same after it.
      const { thawing, later } = await this.#round(owner, true)
      if (thawing > 0 || later > 0) return null
      ready = true
      const { from, to } = this.#state
      const atMs = ledger.clock.nowMs()
      this.#handedOver = true
      let moved = false
      return {
        settle: async () => {
          // The one step that decides. While its outcome is not known nothing is written to either place.
          if (!moved) {
            const refused = await this.#decide(owner, atMs)
            if (refused !== null) return this.#stay(refused)
          }
          moved = true
          await arrive({ logId, index }, this.#target, { from, to, atMs })
          return this.#target
        },
      }
    })
    return ready
  }

  /** Null: it moved. An error: the old place said no to the mark, and is what counts. */
  async #decide(owner: NumberedOwner, atMs: number): Promise<unknown> {
    const { logId } = this.#context
    try {
      await markMoved(this.#source, logId, owner, this.#state.to, atMs)
      return null
    } catch (error) {
      if (!isStratalogError(error, 'archive_full') && !isStratalogError(error, 'access_denied')) throw error
      // It did not take the mark, and whether an earlier try stored it is looked up: only what is known opens it again.
      const found = (await listOwners(this.#source)).at(-1)
      if (found?.number !== owner.number) throw error
      return error
    }
  }

  #stay(refused: unknown): ArchiveStore {
    this.#refused = refused
    this.#handedOver = false
    return this.#source
  }

  async #settled(): Promise<void> {
    for (let tries = 1; ; tries += 1) {
      try {
        await this.#archive.settle()
        return
      } catch (error) {
        if (tries === SETTLES_MAX || !isStratalogError(error) || !error.retryable) throw error
        await this.#context.ledger.clock.sleep(SETTLE_AGAIN_MS, this.#options.signal)
      }
    }
  }
}

function neverStill(source: ArchiveStore): StratalogError {
  return new StratalogError(
    'timeout',
    `so much goes into ${source.location} that the copy never caught up: run the command again when there is less to do, or pause the agent meanwhile (stratalog tier pause)`,
    { retryable: true },
  )
}

function thaws(objects: number, source: ArchiveStore): StratalogError {
  return new StratalogError(
    'thawing',
    `${objects} objects in ${source.location} lie in a storage class that is not read at once; they are being made readable, all others are copied: run the command again later`,
    { retryable: true, found: objects },
  )
}

interface Round {
  objects: number
  bytes: number
  thawing: number
  /** What could not be brought this time. */
  later: number
}
