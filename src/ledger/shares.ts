import { assert, present } from '../model/assert.js'
import type { LedgerMetadata } from '../model/ledger.js'
import { writeSet } from '../model/quorum.js'

/** Consecutive entries, both ends included. */
export interface EntryRun {
  readonly first: bigint
  readonly last: bigint
}

/** Every store that some entry of the ledger is to be on, each once. */
export function membersOf(metadata: LedgerMetadata): string[] {
  return [...new Set(metadata.ensembles.flatMap(({ members }) => members))]
}

/** The entries of a closed ledger that a member is to hold, as runs in order: its share. */
export function* shareOf(metadata: LedgerMetadata, member: string): Generator<EntryRun, void, undefined> {
  assert(metadata.state === 'CLOSED', 'the share of a store is known once the ledger is closed')
  const { ensembles, ensembleSize, writeQuorum, lastEntryId } = metadata
  for (const [at, { firstEntryId, members }] of ensembles.entries()) {
    const index = members.indexOf(member)
    if (index < 0) continue
    const next = ensembles[at + 1]?.firstEntryId ?? lastEntryId + 1n
    const last = next - 1n < lastEntryId ? next - 1n : lastEntryId
    if (last < firstEntryId) continue
    if (ensembleSize === writeQuorum) yield { first: firstEntryId, last }
    else
      yield* striped(firstEntryId, last, (entry) =>
        writeSet(entry, ensembleSize, writeQuorum).includes(index),
      )
  }
}

/** How many entries a member is to hold. */
export function shareEntries(metadata: LedgerMetadata, member: string): bigint {
  let entries = 0n
  for (const { first, last } of shareOf(metadata, member)) entries += last - first + 1n
  return entries
}

function* striped(
  from: bigint,
  to: bigint,
  holds: (entryId: bigint) => boolean,
): Generator<EntryRun, void, undefined> {
  let first: bigint | null = null
  for (let entry = from; entry <= to; entry += 1n) {
    if (holds(entry)) first ??= entry
    else if (first !== null) {
      yield { first, last: entry - 1n }
      first = null
    }
  }
  if (first !== null) yield { first, last: to }
}

/** The metadata with one store in the place of another, in every ensemble. */
export function withMember(metadata: LedgerMetadata, from: string, to: string): LedgerMetadata {
  return {
    ...metadata,
    ensembles: metadata.ensembles.map(({ firstEntryId, members }) => ({
      firstEntryId,
      members: members.map((id) => (id === from ? to : id)),
    })),
  }
}

/** The first ensemble a store is a member of. */
export function firstEnsembleWith(
  metadata: LedgerMetadata,
  member: string,
): LedgerMetadata['ensembles'][number] {
  return present(
    metadata.ensembles.find(({ members }) => members.includes(member)),
    `ensemble with ${member}`,
  )
}
