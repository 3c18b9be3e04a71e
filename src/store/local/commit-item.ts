import type { StratalogError } from '../../model/errors.js'
import { type FrameToWrite, frameBytes } from './group.js'
import type { Ledger } from './ledger.js'

/** A frame on its way to the disk, and who waits for it. */
export class CommitItem implements FrameToWrite {
  readonly kind: FrameToWrite['kind']
  readonly ledger: Ledger | null
  readonly ledgerId: bigint
  readonly entryId: bigint
  readonly bornGeneration: bigint | null
  readonly body: Uint8Array
  readonly bodyCrc32c: number
  /** A plain add: a fence that comes before its group takes it back. */
  readonly fenceable: boolean
  readonly #resolve: () => void
  readonly #reject: (error: StratalogError) => void
  #watchers: (() => void)[] | null = null

  constructor(
    frame: FrameToWrite,
    ledger: Ledger | null,
    fenceable: boolean,
    resolve: () => void,
    reject: (error: StratalogError) => void,
  ) {
    this.kind = frame.kind
    this.ledger = ledger
    this.ledgerId = frame.ledgerId
    this.entryId = frame.entryId
    this.bornGeneration = frame.bornGeneration
    this.body = frame.body
    this.bodyCrc32c = frame.bodyCrc32c
    this.fenceable = fenceable
    this.#resolve = resolve
    this.#reject = reject
  }

  get bytes(): number {
    return frameBytes(this)
  }

  /**
   * Entries and new ledgers need space that is really free; what ends and frees things may use the reserve.
   */
  get usesReserve(): boolean {
    return this.kind !== 'entry' && !(this.kind === 'ledger' && this.bornGeneration === null)
  }

  /** Calls `settled` when it has become durable or failed. */
  watch(settled: () => void): void {
    this.#watchers ??= []
    this.#watchers.push(settled)
  }

  succeed(): void {
    this.#resolve()
    this.#settled()
  }

  fail(error: StratalogError): void {
    this.#reject(error)
    this.#settled()
  }

  #settled(): void {
    for (const watcher of this.#watchers ?? []) watcher()
    this.#watchers = null
  }
}
