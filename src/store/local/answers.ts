import type { EntryAnswer, LastEntryAnswer, LedgerSummary } from '../../ports/segment-store.js'
import type { CommitItem } from './commit-item.js'
import type { Doubt } from './doubt.js'
import type { EntrySearch, LoadedRows } from './entry-search.js'
import type { GroupCommit } from './group-commit.js'
import type { LedgerTable } from './ledger-table.js'
import { FileRange } from './log-file.js'
import type { EntryReader } from './reader.js'

const READ_BYTES_MAX = 64 << 20
const ENTRY_ID_MAX = BigInt(Number.MAX_SAFE_INTEGER)

/** What a store answers of what it holds, and of what it does not. */
export class Answers {
  readonly #table: LedgerTable
  readonly #commit: GroupCommit
  readonly #search: EntrySearch
  readonly #reader: EntryReader
  readonly #doubt: Doubt

  constructor(
    table: LedgerTable,
    commit: GroupCommit,
    search: EntrySearch,
    reader: EntryReader,
    doubt: Doubt,
  ) {
    this.#table = table
    this.#commit = commit
    this.#search = search
    this.#reader = reader
    this.#doubt = doubt
  }

  /** One entry; for one that is on its way to the disk the answer waits. */
  async entry(ledgerId: bigint, entryId: bigint, signal: AbortSignal | undefined): Promise<EntryAnswer> {
    const loaded: LoadedRows = new Map()
    let waited = false
    for (;;) {
      const ledger = this.#table.find(ledgerId)
      const found = ledger === null ? null : this.#search.now(ledger, Number(entryId), loaded)
      if (found instanceof FileRange) {
        await this.#search.load(found, loaded)
        continue
      }
      if (found !== null) return { kind: 'entry', bytes: await this.#reader.one(found) }
      // In the turn of the search, or an add that became durable between the two would be called missing.
      const pending = waited ? null : this.#commit.pendingEntry(ledgerId, entryId)
      if (pending === null) return this.#doubt.absent(ledgerId, ledger, entryId)
      await settled(pending, signal)
      waited = true
    }
  }

  async run(ledgerId: bigint, first: bigint, last: bigint, bytesMax: number): Promise<Uint8Array[]> {
    const ledger = this.#table.find(ledgerId)
    if (ledger === null || last < first) return []
    const to = Number(last < ENTRY_ID_MAX ? last : ENTRY_ID_MAX)
    return this.#reader.consecutive(ledger, Number(first), to, Math.min(bytesMax, READ_BYTES_MAX))
  }

  async last(ledgerId: bigint): Promise<LastEntryAnswer> {
    for (;;) {
      const ledger = this.#table.find(ledgerId)
      const lastId = ledger === null ? -1 : await this.#search.lastId(ledger)
      const explicitLac = ledger?.explicitLac ?? -1n
      if (lastId < 0) return { last: this.#doubt.absent(ledgerId, ledger, 0n), explicitLac }
      const last = await this.entry(ledgerId, BigInt(lastId), undefined)
      // Deleted or sealed below it meanwhile: what is the last one has changed.
      if (last.kind === 'entry') return { last, explicitLac }
    }
  }

  async summaries(after: bigint, limit: number): Promise<LedgerSummary[]> {
    const listed: LedgerSummary[] = []
    for (const ledger of this.#table.listed(after, limit)) {
      const { entries, sizeBytes } = await this.#search.count(ledger)
      const lastEntryId = BigInt(await this.#search.lastIdListed(ledger))
      const { id: ledgerId, header, seal, fenced } = ledger
      listed.push({ ledgerId, header, seal, fenced, entries, lastEntryId, sizeBytes })
    }
    return listed
  }
}

/** Resolves when the add has become durable or failed; rejects when aborted. */
function settled(item: CommitItem, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const aborted = (): void => reject(signal?.reason)
    signal?.addEventListener('abort', aborted, { once: true })
    item.watch(() => {
      signal?.removeEventListener('abort', aborted)
      resolve()
    })
  })
}
