import { packageEntry } from '../format/ledger-digest.js'
import { PackagedEntry } from '../format/packaged-entry.js'
import { assert, present } from '../model/assert.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import { ensembleAt, type LedgerMetadata, lastEnsemble } from '../model/ledger.js'
import { writeSet } from '../model/quorum.js'
import type { VersionedLedgerMetadata } from '../ports/ledger-metadata.js'
import type { LedgerSeal } from '../ports/segment-store.js'
import { type CheckedAnswer, checked, covered, type LedgerEntry } from './answers.js'
import { type LedgerContext, member } from './context.js'
import { sealOnStores } from './writer.js'

/** Compare-and-set races with other recoverers; each round one of them advances the state. */
const ROUNDS_MAX = 16

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
    const seal = await recoverClaimed(context, claimed)
    if (await close(context, claimed, seal)) return seal
  }
  throw new StratalogError('conflict', `recovery of ledger ${ledgerId} lost ${ROUNDS_MAX} races: try again`, { retryable: true })
}

async function claim(context: LedgerContext, current: VersionedLedgerMetadata): Promise<VersionedLedgerMetadata | null> {
  if (current.metadata.state === 'IN_RECOVERY') return current
  try {
    return await context.metadata.compareAndSet(current.ledgerId, current.version, { ...current.metadata, state: 'IN_RECOVERY', cToken: 0n })
  } catch (error) {
    if (isStratalogError(error, 'conflict')) return null
    throw error
  }
}

async function close(context: LedgerContext, claimed: VersionedLedgerMetadata, seal: LedgerSeal): Promise<boolean> {
  try {
    await context.metadata.compareAndSet(claimed.ledgerId, claimed.version, {
      ...claimed.metadata,
      state: 'CLOSED',
      lastEntryId: seal.lastEntryId,
      lengthBytes: BigInt(seal.lengthBytes),
    })
  } catch (error) {
    if (isStratalogError(error, 'conflict')) return false
    throw error
  }
  const stores = lastEnsemble(claimed.metadata).members.flatMap((id) => context.stores.get(id) ?? [])
  await sealOnStores(context, stores, claimed.ledgerId, seal)
  return true
}

async function recoverClaimed(context: LedgerContext, claimed: VersionedLedgerMetadata): Promise<LedgerSeal> {
  const { ledgerId, metadata } = claimed
  const lac = await fenceAll(context, ledgerId, metadata)
  let last: LedgerEntry | null = null
  for (let entryId = lac + 1n; ; entryId += 1n) {
    const found = await recoveryRead(context, ledgerId, metadata, entryId)
    if (found === null) break
    await readd(context, ledgerId, metadata, found, last?.entryId ?? lac)
    last = found
  }
  if (last === null && lac >= 0n) {
    // Nothing beyond the LAC: the length stands in the entry at the LAC, which must be readable: it was acknowledged.
    last = await recoveryRead(context, ledgerId, metadata, lac)
    if (last === null) {
      throw new StratalogError('entry_missing', `entry ${lac} of ledger ${ledgerId} was acknowledged and no store has it`, { expected: lac })
    }
  }
  return { lastEntryId: last?.entryId ?? -1n, lengthBytes: Number(last?.lengthBytes ?? 0n) }
}

/** Fences the last ensemble and returns the highest LAC anybody there knows. */
async function fenceAll(context: LedgerContext, ledgerId: bigint, metadata: LedgerMetadata): Promise<bigint> {
  const ensemble = lastEnsemble(metadata)
  const errors: unknown[] = []
  const answers = await Promise.all(
    ensemble.members.map(async (id) => {
      try {
        return await member(context, id).fence(ledgerId)
      } catch (error) {
        errors.push(error)
        return null
      }
    }),
  )
  if (!covered(answers.map((answer) => answer !== null), metadata.writeQuorum, metadata.ackQuorum)) {
    throw stillRecovering(ledgerId, `${errors.length} of its ${ensemble.members.length} stores did not answer the fence`, errors)
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

/** The entry if any store has a valid copy, null at the end of the ledger; an error where nobody can tell. */
async function recoveryRead(context: LedgerContext, ledgerId: bigint, metadata: LedgerMetadata, entryId: bigint): Promise<LedgerEntry | null> {
  const members = ensembleAt(metadata, entryId)
  const answers = await Promise.all(
    writeSet(entryId, metadata.ensembleSize, metadata.writeQuorum).map((index): Promise<CheckedAnswer> => {
      const id = present(members[index], `member ${index}`)
      const read = async () => member(context, id).readEntry(ledgerId, entryId, { fence: true })
      return checked(read(), metadata, ledgerId, entryId)
    }),
  )
  for (const answer of answers) if (answer.kind === 'valid') return answer.entry
  const unknown = answers.flatMap((answer) => (answer.kind === 'unknown' ? [answer.error] : []))
  // DESIGN.md §5: the end is where no reachable store has a valid copy and at most Qa−1 are unreachable. An entry that
  // was acknowledged is on Qa stores, so one of those that answered would have it. Only here a suspect tail counts
  // as an answer: what it lost was not durable and so was not acknowledged by that store.
  if (unknown.length <= metadata.ackQuorum - 1) return null
  throw stillRecovering(ledgerId, `${unknown.length} stores can't tell whether they hold entry ${entryId}`, unknown)
}

/** Writes a found entry to its whole write set again, so that it is on Qa stores before the ledger ends behind it. */
async function readd(context: LedgerContext, ledgerId: bigint, metadata: LedgerMetadata, entry: LedgerEntry, lac: bigint): Promise<void> {
  const packaged = new PackagedEntry(packageEntry(entry.payload, metadata.digestType, ledgerId, entry.entryId, lac, entry.lengthBytes))
  const members = ensembleAt(metadata, entry.entryId)
  const errors: unknown[] = []
  let copies = 0
  await Promise.all(
    writeSet(entry.entryId, metadata.ensembleSize, metadata.writeQuorum).map(async (index) => {
      try {
        await member(context, present(members[index], `member ${index}`)).addEntry(ledgerId, entry.entryId, packaged, { recovery: true })
        copies += 1
      } catch (error) {
        errors.push(error)
      }
    }),
  )
  assert(copies + errors.length === metadata.writeQuorum, 'each store answers once')
  if (copies < metadata.ackQuorum) throw stillRecovering(ledgerId, `entry ${entry.entryId} could be written to ${copies} stores`, errors)
}

function stillRecovering(ledgerId: bigint, why: string, errors: readonly unknown[]): StratalogError {
  const first = errors[0] instanceof Error ? `: ${errors[0].message}` : ''
  return new StratalogError('ledger_recovering', `ledger ${ledgerId} can't be recovered yet, ${why}${first}. Bring the stores back and try again`, {
    cause: errors[0],
    retryable: true,
  })
}

function sealOf(metadata: LedgerMetadata): LedgerSeal {
  return { lastEntryId: metadata.lastEntryId, lengthBytes: Number(metadata.lengthBytes) }
}
