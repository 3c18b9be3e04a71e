import { packageEntry } from '../format/ledger-digest.js'
import { PackagedEntry } from '../format/packaged-entry.js'
import { present } from '../model/assert.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import { type Ensemble, ensembleAt, type LedgerMetadata, lastEnsemble } from '../model/ledger.js'
import { writeSet } from '../model/quorum.js'
import type { VersionedLedgerMetadata } from '../ports/ledger-metadata.js'
import type { LedgerHeader, LedgerSeal, SegmentStore } from '../ports/segment-store.js'
import { type CheckedAnswer, checked, covered, digestKey, type LedgerEntry } from './answers.js'
import { ask, type LedgerContext } from './context.js'
import { allMembers, withEnsemble } from './ensembles.js'
import { spareStores } from './placement.js'
import { sealOnStores } from './sealing.js'

/** Compare-and-set races with other recoverers; each round one of them advances the state. */
const ROUNDS_MAX = 16
/** A store that says `backpressure` to a recovery add is asked again this often and this long. */
const BACKPRESSURE_PAUSE_MS = 20
const BACKPRESSURE_MS_MAX = 10_000

/**
 * Closes a ledger whose writer is gone, fencing it first (FORMATS.md §4.5). Any number of recoverers may run at
 * once: the result is the same. Rejects with `ledger_recovering` (retryable) where too few stores answer to know the
 * end: it is never guessed. Invariants 1 and 3.
 */
export async function recoverLedger(context: LedgerContext, ledgerId: bigint): Promise<LedgerSeal> {
  for (let round = 0; round < ROUNDS_MAX; round += 1) {
    const current = await context.metadata.read(ledgerId)
    if (current.metadata.state === 'CLOSED') return sealOf(current.metadata)
    const claimed = await claim(context, current)
    if (claimed === null) continue
    const end = await recoverUnlessClosed(context, claimed)
    if (await close(context, claimed, end)) return end.seal
  }
  throw new StratalogError('conflict', `recovery of ledger ${ledgerId} lost ${ROUNDS_MAX} races: try again`, {
    retryable: true,
  })
}

/** Where a ledger ends, and the ensembles that its entries are on then. */
interface RecoveredEnd {
  readonly seal: LedgerSeal
  readonly ensembles: readonly Ensemble[]
}

/** Another recoverer may close and seal the ledger under this one, which fails then: its result is this one's too. */
async function recoverUnlessClosed(
  context: LedgerContext,
  claimed: VersionedLedgerMetadata,
): Promise<RecoveredEnd> {
  const { ledgerId, metadata } = claimed
  try {
    const recovery = { context, ledgerId, metadata, ensembles: metadata.ensembles, silent: new Map() }
    return { seal: await recoverClaimed(recovery), ensembles: recovery.ensembles }
  } catch (error) {
    const fresh = await context.metadata.read(ledgerId)
    if (fresh.metadata.state === 'CLOSED') {
      return { seal: sealOf(fresh.metadata), ensembles: fresh.metadata.ensembles }
    }
    throw error
  }
}

/** One recovery under way. */
interface Recovery {
  readonly context: LedgerContext
  readonly ledgerId: bigint
  /** As it was claimed: where the writer put its entries, and so where they are looked for. */
  readonly metadata: LedgerMetadata
  /** Where entries are written again: a store that takes none is replaced here, for all to see at closing. */
  ensembles: readonly Ensemble[]
  /** Stores that hung once are not waited for again, entry by entry: they stay unknown to this recovery. */
  readonly silent: Map<string, unknown>
}

async function askOnce<T>(
  recovery: Recovery,
  id: string,
  work: (store: SegmentStore) => Promise<T>,
): Promise<T> {
  if (recovery.silent.has(id)) throw recovery.silent.get(id)
  try {
    return await ask(recovery.context, id, work)
  } catch (error) {
    if (isStratalogError(error, 'timeout')) recovery.silent.set(id, error)
    throw error
  }
}

async function claim(
  context: LedgerContext,
  current: VersionedLedgerMetadata,
): Promise<VersionedLedgerMetadata | null> {
  if (current.metadata.state === 'IN_RECOVERY') return current
  try {
    return await context.metadata.compareAndSet(current.ledgerId, current.version, {
      ...current.metadata,
      state: 'IN_RECOVERY',
      cToken: 0n,
    })
  } catch (error) {
    if (isStratalogError(error, 'conflict')) return null
    throw error
  }
}

async function close(
  context: LedgerContext,
  claimed: VersionedLedgerMetadata,
  { seal, ensembles }: RecoveredEnd,
): Promise<boolean> {
  const metadata = {
    ...claimed.metadata,
    ensembles,
    state: 'CLOSED' as const,
    lastEntryId: seal.lastEntryId,
    lengthBytes: BigInt(seal.lengthBytes),
  }
  try {
    await context.metadata.compareAndSet(claimed.ledgerId, claimed.version, metadata)
  } catch (error) {
    if (isStratalogError(error, 'conflict')) return false
    throw error
  }
  await sealOnStores(context, claimed.ledgerId, metadata, seal)
  return true
}

async function recoverClaimed(recovery: Recovery): Promise<LedgerSeal> {
  const lac = await fenceAll(recovery)
  let last: LedgerEntry | null = null
  for (let entryId = lac + 1n; ; entryId += 1n) {
    const found = await recoveryRead(recovery, entryId, recovery.metadata.ackQuorum - 1)
    if (found === null) break
    await readd(recovery, found, lac)
    last = found
  }
  if (last === null && lac >= 0n) {
    // Nothing beyond the LAC: the length stands in the entry at the LAC. It was acknowledged, so it is lost only if
    // every store denies it; one that can't be reached may still bring it back.
    last = await recoveryRead(recovery, lac, 0)
    if (last === null) {
      const lost = `entry ${lac} of ledger ${recovery.ledgerId} was acknowledged and no store has it`
      throw new StratalogError('entry_missing', lost, { expected: lac })
    }
  }
  return { lastEntryId: last?.entryId ?? -1n, lengthBytes: Number(last?.lengthBytes ?? 0n) }
}

/** Fences the last ensemble and returns the highest LAC anybody there knows. */
async function fenceAll(recovery: Recovery): Promise<bigint> {
  const { ledgerId, metadata } = recovery
  const ensemble = lastEnsemble(metadata)
  const errors: unknown[] = []
  const answers = await Promise.all(
    ensemble.members.map((id) =>
      askOnce(recovery, id, (store) => store.fence(ledgerId)).catch((error: unknown) => {
        errors.push(error)
        return null
      }),
    ),
  )
  const known = answers.map((answer) => answer !== null)
  if (!covered(known, metadata.writeQuorum, metadata.ackQuorum)) {
    const why = `${errors.length} of its ${ensemble.members.length} stores did not answer the fence`
    throw stillRecovering(ledgerId, why, errors)
  }
  let lac = ensemble.firstEntryId - 1n
  for (const answer of answers) {
    if (answer === null) continue
    if (answer.explicitLac > lac) lac = answer.explicitLac
    const last = await checked(Promise.resolve(answer.last), metadata, ledgerId, null)
    if (last.kind === 'valid' && last.entry.lac > lac) lac = last.entry.lac
  }
  return lac
}

/**
 * The entry if any store has a valid copy; null where none has and at most `unknownMax` of them can't tell; an error
 * where more can't.
 */
async function recoveryRead(
  recovery: Recovery,
  entryId: bigint,
  unknownMax: number,
): Promise<LedgerEntry | null> {
  const { ledgerId, metadata } = recovery
  const members = ensembleAt(metadata, entryId)
  const answers = await Promise.all(
    writeSet(entryId, metadata.ensembleSize, metadata.writeQuorum).map((index): Promise<CheckedAnswer> => {
      const id = present(members[index], `member ${index}`)
      const read = askOnce(recovery, id, (store) => store.readEntry(ledgerId, entryId, { fence: true }))
      return checked(read, metadata, ledgerId, entryId)
    }),
  )
  for (const answer of answers) if (answer.kind === 'valid') return answer.entry
  const unknown = answers.flatMap((answer) => (answer.kind === 'unknown' ? [answer.error] : []))
  // DESIGN.md §5: the end is where no reachable store has a valid copy and at most Qa−1 are unreachable. An entry that
  // was acknowledged is on Qa stores, so one of those that answered would have it. Only here a suspect tail counts
  // as an answer: what it lost was not durable and so was not acknowledged by that store.
  if (unknown.length <= unknownMax) return null
  throw stillRecovering(
    ledgerId,
    `${unknown.length} stores can't tell whether they hold entry ${entryId}`,
    unknown,
  )
}

/**
 * Writes a found entry to its whole write set again, so that it is on Qa stores before the ledger ends behind it. A
 * store that does not take it is replaced from this entry on, while there are others; that counts once the ledger is
 * closed with it (FORMATS.md §4.5), so another recoverer may choose differently. That is why the copies carry the LAC
 * that was found and not one that grows with what this recovery writes (Java's does): if this one fails, the next would
 * begin above entries whose copies only this one's ensembles know of, and leave them on fewer than Qa stores
 * (invariant 1).
 */
async function readd(recovery: Recovery, entry: LedgerEntry, lac: bigint): Promise<void> {
  const { ledgerId, metadata } = recovery
  const { entryId, payload, lengthBytes } = entry
  const key = digestKey(metadata)
  const bytes = packageEntry(payload, metadata.digestType, ledgerId, entryId, lac, lengthBytes, key)
  const packaged = new PackagedEntry(bytes)
  const indexes = writeSet(entryId, metadata.ensembleSize, metadata.writeQuorum)
  const held = new Set<string>()
  const refusals = new Map<string, unknown>()
  for (;;) {
    const members = ensembleAt(recovery, entryId)
    const asked = indexes.map((index) => present(members[index], `member ${index}`))
    const add = async (id: string) => {
      if (held.has(id) || refusals.has(id)) return
      try {
        await askOnce(recovery, id, (store) => addPatiently(recovery, store, entryId, packaged))
        held.add(id)
      } catch (error) {
        refusals.set(id, error)
      }
    }
    await Promise.all(asked.map(add))
    const failed = indexes.filter((_, at) => !held.has(present(asked[at], 'a member')))
    if (failed.length > 0 && (await replaceMembers(recovery, entryId, failed, refusals))) continue
    const copies = indexes.length - failed.length
    if (copies >= metadata.ackQuorum) return
    const why = `entry ${entryId} could be written to ${copies} stores`
    throw stillRecovering(ledgerId, why, [...refusals.values()])
  }
}

/** A recovery add. A store that has too much to do for other ledgers now is waited for: that is no failure. */
async function addPatiently(
  { context, ledgerId }: Recovery,
  store: SegmentStore,
  entryId: bigint,
  entry: PackagedEntry,
): Promise<void> {
  const untilMs = context.clock.monotonicMs() + BACKPRESSURE_MS_MAX
  for (;;) {
    try {
      return await store.addEntry(ledgerId, entryId, entry, { recovery: true })
    } catch (error) {
      if (!isStratalogError(error, 'backpressure') || context.clock.monotonicMs() >= untilMs) throw error
    }
    await context.clock.sleep(BACKPRESSURE_PAUSE_MS)
  }
}

/**
 * Puts stores that never were members of the ledger in the places of those that failed, from this entry on. False
 * where there are none. Each is told of the ledger first, or it would take no entry of it.
 */
async function replaceMembers(
  recovery: Recovery,
  entryId: bigint,
  places: readonly number[],
  refusals: ReadonlyMap<string, unknown>,
): Promise<boolean> {
  const { context, metadata } = recovery
  const taken = new Set([
    ...allMembers(metadata.ensembles),
    ...allMembers(recovery.ensembles),
    ...refusals.keys(),
  ])
  const members = [...ensembleAt(recovery, entryId)]
  const beside = members.filter((_, place) => !places.includes(place))
  const spare = await spareStores(context, taken, places.length, { beside })
  const header = spare.length > 0 ? await headerOf(recovery) : null
  if (header === null) return false
  spare.forEach((store, at) => {
    members[present(places[at], 'a place')] = store.id
  })
  const next = { firstEntryId: entryId, members }
  await Promise.all(
    spare.map((store) =>
      askOnce(recovery, store.id, () => store.openLedger({ ...header, ...next })).catch((error: unknown) => {
        // Another recoverer told it already. Any other failure shows again when it refuses the entry.
        const fields = { err: error, ledger: recovery.ledgerId.toString(), store: store.id }
        context.logger.debug(fields, 'a store was not told of a ledger in recovery')
      }),
    ),
  )
  recovery.ensembles = withEnsemble(recovery.ensembles, next)
  return true
}

/**
 * What the ledger's stores were told when it began; null where none of them can say. Bookies keep no headers and need
 * none: there it is made of the metadata.
 */
async function headerOf({ context, ledgerId, metadata }: Recovery): Promise<LedgerHeader | null> {
  let needed = true
  const found = await Promise.all(
    lastEnsemble(metadata).members.map(async (id) => {
      try {
        const [ledger] = await ask(context, id, (store) => store.listLedgers(ledgerId - 1n, 1))
        return ledger?.ledgerId === ledgerId ? ledger.header : null
      } catch (error) {
        if (isStratalogError(error, 'unsupported')) needed = false
        context.logger.debug({ err: error, ledger: ledgerId.toString(), store: id }, 'store can not be asked')
        return null
      }
    }),
  )
  return found.find((header) => header !== null) ?? (needed ? null : bareHeader(ledgerId, metadata))
}

function bareHeader(ledgerId: bigint, metadata: LedgerMetadata): LedgerHeader {
  const { digestType, ensembleSize, writeQuorum, ackQuorum } = metadata
  const shape = { digestType, ensembleSize, writeQuorum, ackQuorum }
  return { ...shape, ledgerId, ...lastEnsemble(metadata), segment: null, preceding: null }
}

function stillRecovering(ledgerId: bigint, why: string, errors: readonly unknown[]): StratalogError {
  const first = errors[0] instanceof Error ? `: ${errors[0].message}` : ''
  return new StratalogError(
    'ledger_recovering',
    `ledger ${ledgerId} can't be recovered yet, ${why}${first}. Bring the stores back and try again`,
    {
      cause: errors[0],
      retryable: true,
    },
  )
}

function sealOf(metadata: LedgerMetadata): LedgerSeal {
  return { lastEntryId: metadata.lastEntryId, lengthBytes: Number(metadata.lengthBytes) }
}
