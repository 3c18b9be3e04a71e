import { type ErrorCode, StratalogError } from '../../model/errors.js'

/** The statuses that are asked about by number. */
export const STATUS = { ok: 0, noLedger: 402, noEntry: 403, unauthorized: 502 } as const

/** What a bookie's status means here, and what to do about it. */
interface Meaning {
  readonly code: ErrorCode
  readonly retryable: boolean
  readonly says: string
}

/**
 * Statuses of the protocol (FORMATS.md §1.2). For reads `noLedger` and `noEntry` are answers, not errors (`missing`);
 * nothing else ever is: what is not in this table is unknown.
 */
const MEANINGS: ReadonlyMap<number, Meaning> = new Map([
  [402, { code: 'ledger_not_found', retryable: false, says: 'it has no such ledger, or it was deleted' }],
  [403, { code: 'entry_missing', retryable: false, says: 'it has no such entry' }],
  [404, { code: 'unsupported', retryable: false, says: 'it does not know this request (EBADREQ)' }],
  [501, { code: 'io_failed', retryable: true, says: 'it could not read or write its disks: see its log' }],
  [
    502,
    {
      code: 'access_denied',
      retryable: false,
      says: 'it refused the key: the password is not that of the ledger, or it demands authentication',
    },
  ],
  [
    503,
    { code: 'version_unsupported', retryable: false, says: 'it does not speak version 3 of the protocol' },
  ],
  [504, { code: 'fenced', retryable: false, says: 'the ledger is fenced: another writer took it over' }],
  [505, { code: 'store_full', retryable: true, says: 'it is read-only: look at the space on its disks' }],
  [506, { code: 'backpressure', retryable: true, says: 'it has too much to do now' }],
  [
    507,
    {
      code: 'store_unavailable',
      retryable: true,
      says: 'it lost data and does not know what it had of this ledger: recover the bookie',
    },
  ],
])

/** The error that a status stands for. */
export function statusError(status: number, bookie: string, what: string): StratalogError {
  const meaning = MEANINGS.get(status) ?? {
    code: 'store_unavailable' as const,
    retryable: true,
    says: 'with a status that is unknown here',
  }
  return new StratalogError(meaning.code, `bookie ${bookie} refused ${what}: ${meaning.says}`, {
    retryable: meaning.retryable,
    details: { status },
  })
}
