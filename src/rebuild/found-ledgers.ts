import { ask, type LedgerContext } from '../ledger/context.js'
import type { Ensemble, LedgerMetadata } from '../model/ledger.js'
import type { LedgerHeader, LedgerSeal, LedgerSummary } from '../ports/segment-store.js'

/** Ledgers a store lists at once. */
const STORE_PAGE = 10_000

/** A ledger as all readable stores together tell of it. */
export interface FoundLedger {
  readonly ledgerId: bigint
  /** Null: only fences or seals of it are left. */
  readonly header: LedgerHeader | null
  /** By first entry; where the first ensemble is not told any more the next one stands for it. */
  readonly ensembles: readonly Ensemble[]
  readonly seal: LedgerSeal | null
  /** Stores that list it, with the entries each has. */
  readonly copies: ReadonlyMap<string, number>
}

/** What the stores hold. */
export interface FoundLedgers {
  readonly ledgers: ReadonlyMap<bigint, FoundLedger>
  readonly unread: readonly { readonly store: string; readonly error: unknown }[]
  /** The highest id any header or seal names; 0n: none. */
  readonly highestId: bigint
}

/** Lists every ledger of every store; a store that can't be read is named, never taken for empty (invariant 8). */
export async function findLedgers(context: LedgerContext, signal?: AbortSignal): Promise<FoundLedgers> {
  const copies = new Map<bigint, { store: string; summary: LedgerSummary }[]>()
  const unread: { store: string; error: unknown }[] = []
  for (const { id } of context.stores.all()) {
    try {
      await listStore(context, id, signal, (summary) => {
        const of = copies.get(summary.ledgerId) ?? []
        of.push({ store: id, summary })
        copies.set(summary.ledgerId, of)
      })
    } catch (error) {
      signal?.throwIfAborted()
      unread.push({ store: id, error })
    }
  }
  const ledgers = new Map<bigint, FoundLedger>()
  let highestId = 0n
  for (const [ledgerId, of] of [...copies].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const ledger = merge(ledgerId, of)
    ledgers.set(ledgerId, ledger)
    for (const id of [ledgerId, ledger.header?.preceding?.ledgerId ?? 0n]) if (id > highestId) highestId = id
  }
  return { ledgers, unread, highestId }
}

async function listStore(
  context: LedgerContext,
  store: string,
  signal: AbortSignal | undefined,
  found: (summary: LedgerSummary) => void,
): Promise<void> {
  for (let after = -1n; ; ) {
    signal?.throwIfAborted()
    const page = await ask(context, store, (one) => one.listLedgers(after, STORE_PAGE))
    for (const summary of page) found(summary)
    const last = page.at(-1)
    if (last === undefined || page.length < STORE_PAGE) return
    after = last.ledgerId
  }
}

function merge(ledgerId: bigint, copies: readonly { store: string; summary: LedgerSummary }[]): FoundLedger {
  const headers = copies.flatMap(({ summary }) => (summary.header === null ? [] : [summary.header]))
  const seal = copies.find(({ summary }) => summary.seal !== null)?.summary.seal ?? null
  return {
    ledgerId,
    header: headers[0] ?? null,
    ensembles: ensemblesOf(headers, new Set(copies.map(({ store }) => store))),
    seal,
    copies: new Map(copies.map(({ store, summary }) => [store, summary.entries])),
  }
}

/** Each store's first frame of a ledger names the ensemble it came in with; together they name all of them. */
function ensemblesOf(headers: readonly LedgerHeader[], holders: ReadonlySet<string>): Ensemble[] {
  const byFirst = new Map<bigint, readonly string[]>()
  const held = (members: readonly string[] | undefined) =>
    members?.filter((id) => holders.has(id)).length ?? -1
  // A store that took a lost one's place names itself where the others still name the lost one: the header whose
  // members hold most copies is the later one.
  for (const { firstEntryId, members } of headers)
    if (held(members) > held(byFirst.get(firstEntryId))) byFirst.set(firstEntryId, members)
  const ensembles = [...byFirst].map(([firstEntryId, members]) => ({ firstEntryId, members }))
  ensembles.sort((a, b) => (a.firstEntryId < b.firstEntryId ? -1 : 1))
  const [first, ...rest] = ensembles
  // Entries below are on stores of which none answers: those that came in later stand for them and say "missing" or not.
  return first === undefined ? [] : [{ ...first, firstEntryId: 0n }, ...rest]
}

/** Metadata as the ledger's writer made it, closed where its end is known. Null: no header says what it was. */
export function metadataOf(ledger: FoundLedger, end: LedgerSeal | null): LedgerMetadata | null {
  const { header, ensembles } = ledger
  if (header === null) return null
  return {
    formatVersion: 3,
    ensembleSize: header.ensembleSize,
    writeQuorum: header.writeQuorum,
    ackQuorum: header.ackQuorum,
    // Never OPEN: its writer is gone, and whoever takes it on fences it first.
    state: end === null ? 'IN_RECOVERY' : 'CLOSED',
    lengthBytes: end === null ? 0n : BigInt(end.lengthBytes),
    lastEntryId: end === null ? -1n : end.lastEntryId,
    ensembles,
    digestType: header.digestType,
    password: new Uint8Array(0),
    ctimeMs: header.segment === null ? null : BigInt(header.segment.openedMs),
    customMetadata: new Map(),
    cToken: 0n,
  }
}
