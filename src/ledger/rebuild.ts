import { isStratalogError } from '../model/errors.js'
import type { LedgerMetadata } from '../model/ledger.js'
import type { LedgerContext } from './context.js'
import { type FillOptions, fillShare } from './share-filler.js'
import { emptyReport, isComplete, type ShareReport } from './share-report.js'
import { membersOf, withMember } from './shares.js'

/** Compare-and-set races with other changes of one closed ledger. */
const ROUNDS_MAX = 8

/**
 * What became of a ledger whose member was to be replaced.
 * - `replaced`: the new store holds the whole share, and the metadata name it. Also where that was so before.
 * - `open`: not closed; its writer or recovery come first, then this is tried again.
 * - `gone`: deleted meanwhile.
 * - `incomplete`: some of the share could not be had or written; the metadata still name the old store.
 */
export interface MemberReplacement extends ShareReport {
  readonly outcome: 'replaced' | 'open' | 'gone' | 'incomplete'
}

/**
 * Puts one store in the place of another in a closed ledger: first the copies, read back, then the metadata by
 * compare-and-set. So at each moment every store the metadata name holds its share as far as it ever did
 * (invariant 1), and after a crash at any point the same call goes on: what was copied is found good, and a change of
 * the metadata that was made is found made. A share that can't be had whole changes nothing: the old store may still
 * come back with it.
 */
export async function replaceMember(
  context: LedgerContext,
  ledgerId: bigint,
  change: { readonly from: string; readonly to: string },
  options: FillOptions = {},
): Promise<MemberReplacement> {
  const { from, to } = change
  let report = emptyReport()
  let copied = false
  for (let round = 0; round < ROUNDS_MAX; round += 1) {
    const current = await readOrGone(context, ledgerId)
    if (current === 'gone')
      return { outcome: 'gone', ...(await withdraw(context, ledgerId, to, copied, report)) }
    const { metadata, version } = current
    if (metadata.state !== 'CLOSED') return { outcome: 'open', ...report }
    if (!membersOf(metadata).includes(from)) return { outcome: 'replaced', ...report }
    if (together(metadata, from, to)) return { outcome: 'incomplete', ...twice(to) }
    if (!copied) {
      report = await fillShare(context, { ledgerId, metadata, member: from, target: to }, options)
      copied = true
      if (!isComplete(report)) {
        // Deleted while it was copied: the next round takes back what came to the new store so far.
        if ((await readOrGone(context, ledgerId)) === 'gone') continue
        return { outcome: 'incomplete', ...report }
      }
    }
    if (await commit(context, ledgerId, version, withMember(metadata, from, to)))
      return { outcome: 'replaced', ...report }
  }
  return { outcome: 'incomplete', ...report }
}

/**
 * Names one store in the place of another without copying anything: for a ledger that is going to be deleted, whose
 * deletion must not wait for a store that is lost for good. Nothing where it is gone, or names the new one already.
 */
export async function renameMember(
  context: LedgerContext,
  ledgerId: bigint,
  { from, to }: { readonly from: string; readonly to: string },
): Promise<void> {
  for (let round = 0; round < ROUNDS_MAX; round += 1) {
    const current = await readOrGone(context, ledgerId)
    if (current === 'gone') return
    const members = membersOf(current.metadata)
    if (!members.includes(from) || members.includes(to)) return
    if (await commit(context, ledgerId, current.version, withMember(current.metadata, from, to))) return
  }
}

async function commit(
  context: LedgerContext,
  ledgerId: bigint,
  version: number,
  metadata: LedgerMetadata,
): Promise<boolean> {
  try {
    await context.metadata.compareAndSet(ledgerId, version, metadata)
    return true
  } catch (error) {
    // Read again: it may be gone, or another member of it was replaced meanwhile.
    if (isStratalogError(error, 'conflict') || isStratalogError(error, 'ledger_not_found')) return false
    throw error
  }
}

async function readOrGone(
  context: LedgerContext,
  ledgerId: bigint,
): Promise<Awaited<ReturnType<LedgerContext['metadata']['read']>> | 'gone'> {
  try {
    return await context.metadata.read(ledgerId)
  } catch (error) {
    if (isStratalogError(error, 'ledger_not_found')) return 'gone'
    throw error
  }
}

/**
 * Whether both are in one ensemble. A writer may have put the new store into a later one of the same ledger already:
 * where a log has no other to spare, that is the rule.
 */
function together({ ensembles }: LedgerMetadata, from: string, to: string): boolean {
  return ensembles.some(({ members }) => members.includes(from) && members.includes(to))
}

/** A store twice in one ensemble would count one copy as two. */
function twice(to: string): ShareReport {
  const report = emptyReport()
  report.unreachable.push({ storeId: to, reason: 'it holds copies of this ledger already' })
  return report
}

/**
 * The ledger was deleted while it was copied, which the new store may not have been told. The copy is ours, of a
 * moment ago, no metadata ever named it, and ids are never given out twice.
 */
async function withdraw(
  context: LedgerContext,
  ledgerId: bigint,
  to: string,
  copied: boolean,
  report: ShareReport,
): Promise<ShareReport> {
  if (copied) await context.stores.get(to)?.deleteLedger(ledgerId)
  return report
}
