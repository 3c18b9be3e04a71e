import type { EntryAnswer, LastEntryAnswer, LedgerSummary } from '../../ports/segment-store.js'
import type { CommitItem } from './commit-item.js'
import type { Doubt } from './doubt.js'
import type { GroupCommit } from './group-commit.js'
import type { LedgerTable } from './ledger-table.js'
import type { EntryReader } from './reader.js'

const READ_BYTES_MAX = 64 << 20

/** What a store answers of what it holds, and of what it does not. */
export class Answers {
  readonly #table: LedgerTable
  readonly #commit: GroupCommit
  readonly #reader: EntryReader
  readonly #doubt: Doubt

  constructor(table: LedgerTable, commit: GroupCommit, reader: EntryReader, doubt: Doubt) {
    this.#table = table
    this.#commit = commit
    this.#reader = reader
    this.#doubt = doubt
  }

  /** One entry; for one that is on its way to the disk the answer waits. */
  async entry(ledgerId: bigint, entryId: bigint, signal: AbortSignal | undefined): Promise<EntryAnswer> {
    const found = this.#read(ledgerId, entryId)
    if (found !== null) return found
    const pending = this.#commit.pendingEntry(ledgerId, entryId)
    if (pending !== null) {
      await settled(pending, signal)
      const late = this.#read(ledgerId, entryId)
      if (late !== null) return late
    }
    return this.#doubt.absent(ledgerId, this.#table.find(ledgerId), entryId)
  }

  #read(ledgerId: bigint, entryId: bigint): Promise<EntryAnswer> | null {
    const ledger = this.#table.find(ledgerId)
    const at = ledger?.entries.find(Number(entryId)) ?? -1
    if (ledger === null || at < 0) return null
    return this.#reader.one(ledger, at).then((bytes) => ({ kind: 'entry', bytes }))
  }

  async run(ledgerId: bigint, first: bigint, last: bigint, bytesMax: number): Promise<Uint8Array[]> {
    const ledger = this.#table.find(ledgerId)
    if (ledger === null || last < first) return []
    const to = Math.min(Number(last), ledger.entries.lastId)
    return this.#reader.consecutive(ledger, Number(first), to, Math.min(bytesMax, READ_BYTES_MAX))
  }

  async last(ledgerId: bigint): Promise<LastEntryAnswer> {
    const ledger = this.#table.find(ledgerId)
    const explicitLac = ledger?.explicitLac ?? -1n
    const lastId = ledger?.entries.lastId ?? -1
    const found = lastId < 0 ? null : this.#read(ledgerId, BigInt(lastId))
    return { last: found === null ? this.#doubt.absent(ledgerId, ledger, 0n) : await found, explicitLac }
  }

  summaries(after: bigint, limit: number): LedgerSummary[] {
    const listed = [...this.#table.ledgers()].filter(
      (ledger) => ledger.id > after && !ledger.deleted && ledger.files.size > 0,
    )
    listed.sort((a, b) => (a.id < b.id ? -1 : 1))
    return listed.slice(0, limit).map((ledger) => ({
      ledgerId: ledger.id,
      header: ledger.header,
      seal: ledger.seal,
      fenced: ledger.fenced,
      entries: ledger.entries.count,
      lastEntryId: BigInt(ledger.entries.lastId),
      sizeBytes: ledger.sizeBytes,
    }))
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
