import { macKey, type OpenedEntry, openEntry } from '../format/ledger-digest.js'
import type { LedgerMetadata } from '../model/ledger.js'
import type { EntryAnswer } from '../ports/segment-store.js'

/** A verified entry. */
export interface LedgerEntry {
  readonly entryId: bigint
  readonly lac: bigint
  /** Payload bytes of the ledger up to and with this entry. */
  readonly lengthBytes: bigint
  readonly payload: Uint8Array
}

/**
 * What one store's answer says once its digest is checked. `unknown` stands for every error and for a copy that does
 * not match its digest: it is never taken for `missing` (FORMATS.md §8, trap 5).
 */
export type CheckedAnswer =
  | { readonly kind: 'valid'; readonly entry: LedgerEntry; readonly bytes: Uint8Array }
  | { readonly kind: 'missing' }
  | { readonly kind: 'suspect' }
  | { readonly kind: 'unknown'; readonly error: unknown }

/** Opens an entry as its ledger's metadata have it. */
export function openLedgerEntry(
  bytes: Uint8Array,
  metadata: Pick<LedgerMetadata, 'digestType' | 'password'>,
  ledgerId: bigint,
  entryId: bigint | null,
): OpenedEntry {
  return openEntry(bytes, metadata.digestType, ledgerId, entryId, digestKey(metadata))
}

/** The key of a ledger's digest; only HMAC has one. Nothing of ours writes it: Java's ledgers may have it. */
export function digestKey(metadata: Pick<LedgerMetadata, 'digestType' | 'password'>): Uint8Array | undefined {
  return metadata.digestType === 'HMAC' ? macKey(metadata.password ?? '') : undefined
}

/** Waits for a store's answer and checks it. `entryId` null: any entry of the ledger (the last one). Never rejects. */
export async function checked(
  answer: Promise<EntryAnswer>,
  metadata: LedgerMetadata,
  ledgerId: bigint,
  entryId: bigint | null,
): Promise<CheckedAnswer> {
  try {
    const found = await answer
    if (found.kind !== 'entry') return found
    const { bytes } = found
    return { kind: 'valid', entry: openLedgerEntry(bytes, metadata, ledgerId, entryId), bytes }
  } catch (error) {
    return { kind: 'unknown', error }
  }
}

/**
 * Quorum coverage (FORMATS.md §4.5): whether no entry can have been acknowledged by silent stores alone, that is, in
 * each write set fewer than Qa answers are unknown.
 */
export function covered(known: readonly boolean[], writeQuorum: number, ackQuorum: number): boolean {
  return known.every((_, first) => {
    let unknown = 0
    for (let i = 0; i < writeQuorum; i += 1) if (!known[(first + i) % known.length]) unknown += 1
    return unknown < ackQuorum
  })
}
