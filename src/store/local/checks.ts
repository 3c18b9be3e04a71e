import { StratalogError } from '../../model/errors.js'
import type { LedgerHeader, LedgerSeal } from '../../ports/segment-store.js'
import { ledgerIdentity } from './mark-body.js'

/** A plain add to a ledger that is fenced or sealed. */
export function fencedError(ledgerId: bigint): StratalogError {
  return new StratalogError(
    'fenced',
    `ledger ${ledgerId} is fenced: another writer took it over or closed it`,
  )
}

/** `why`: was deleted, was never opened. */
export function notFound(ledgerId: bigint, why: string): StratalogError {
  return new StratalogError('ledger_not_found', `ledger ${ledgerId} ${why} on this store`)
}

/** Throws `invalid_argument`. */
export function checkLedgerId(ledgerId: bigint): void {
  if (ledgerId >= 0n && ledgerId < 2n ** 63n) return
  throw new StratalogError('invalid_argument', `${ledgerId} is no ledger id: ids go from 0 to 2^63 - 1`)
}

/** Throws `invalid_argument`. Ids above 2^53 - 1 are not supported: the index keeps them as numbers. */
export function checkEntryId(entryId: bigint): void {
  if (entryId >= 0n && entryId <= BigInt(Number.MAX_SAFE_INTEGER)) return
  throw new StratalogError('invalid_argument', `${entryId} is no entry id: ids go from 0 to 2^53 - 1`)
}

/** Throws `invalid_argument`. */
export function checkSeal(seal: LedgerSeal): void {
  const fits = Number.isSafeInteger(seal.lengthBytes) && seal.lengthBytes >= 0
  if (fits && seal.lastEntryId >= -1n && seal.lastEntryId <= BigInt(Number.MAX_SAFE_INTEGER)) return
  throw new StratalogError(
    'invalid_argument',
    `no seal: entry ${seal.lastEntryId}, ${seal.lengthBytes} bytes`,
  )
}

/** Throws `ledger_exists`. */
export function checkSameHeader(known: LedgerHeader, asked: LedgerHeader): void {
  const expected = ledgerIdentity(known)
  const found = ledgerIdentity(asked)
  if (expected === found) return
  const message = `ledger ${asked.ledgerId} was opened here with another header`
  throw new StratalogError('ledger_exists', message, { expected, found })
}
