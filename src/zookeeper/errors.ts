import type { ErrorCode } from '../model/errors.js'
import { isStratalogError, StratalogError } from '../model/errors.js'

/** ZooKeeper's own numbers (KeeperException.Code), those that are looked at here. */
export const ZK = {
  RUNTIME_INCONSISTENCY: -2,
  CONNECTION_LOSS: -4,
  UNIMPLEMENTED: -6,
  OPERATION_TIMEOUT: -7,
  BAD_ARGUMENTS: -8,
  NO_NODE: -101,
  NO_AUTH: -102,
  BAD_VERSION: -103,
  NO_CHILDREN_FOR_EPHEMERALS: -108,
  NODE_EXISTS: -110,
  NOT_EMPTY: -111,
  SESSION_EXPIRED: -112,
  INVALID_ACL: -114,
  AUTH_FAILED: -115,
  SESSION_MOVED: -118,
  SASL_REQUIRED: -124,
  QUOTA_EXCEEDED: -125,
  THROTTLED: -127,
} as const

interface Meaning {
  readonly code: ErrorCode
  readonly says: string
  readonly retryable?: boolean
  /** Whether what was asked may have been done nevertheless. */
  readonly unknown?: boolean
}

const LOST = 'the connection was lost before the answer: whether it was done is to be read again'
const MEANINGS: ReadonlyMap<number, Meaning> = new Map<number, Meaning>([
  [ZK.CONNECTION_LOSS, { code: 'metadata_unavailable', says: LOST, retryable: true, unknown: true }],
  [ZK.OPERATION_TIMEOUT, { code: 'metadata_unavailable', says: LOST, retryable: true, unknown: true }],
  [
    ZK.UNIMPLEMENTED,
    { code: 'unsupported', says: 'this ZooKeeper does not know the operation: take a later version' },
  ],
  [
    ZK.BAD_ARGUMENTS,
    { code: 'invalid_argument', says: 'ZooKeeper refuses the path or the data: change them' },
  ],
  [ZK.NO_NODE, { code: 'not_found', says: 'there is no such node' }],
  [
    ZK.NO_AUTH,
    { code: 'access_denied', says: 'ZooKeeper refuses (NOAUTH): give the user that may, or change the ACL' },
  ],
  [ZK.BAD_VERSION, { code: 'conflict', says: 'it was changed by another: read it again' }],
  [ZK.NO_CHILDREN_FOR_EPHEMERALS, { code: 'refused', says: 'an ephemeral node has no children' }],
  [ZK.NODE_EXISTS, { code: 'conflict', says: 'the node exists already' }],
  [ZK.NOT_EMPTY, { code: 'conflict', says: 'the node has children' }],
  [
    ZK.SESSION_EXPIRED,
    {
      code: 'metadata_unavailable',
      says: 'the session has expired, with its ephemeral nodes: ask again in the next one',
      retryable: true,
    },
  ],
  [
    ZK.INVALID_ACL,
    { code: 'config_invalid', says: 'ZooKeeper takes no ACL of this user: set user and password' },
  ],
  [
    ZK.AUTH_FAILED,
    {
      code: 'access_denied',
      says: 'ZooKeeper refuses the user or the password: mend them in zookeeper.auth-file',
    },
  ],
  [
    ZK.SESSION_MOVED,
    {
      code: 'metadata_unavailable',
      says: 'the session is at another server now: ask again',
      retryable: true,
    },
  ],
  [
    ZK.SASL_REQUIRED,
    {
      code: 'access_denied',
      says: 'this ZooKeeper takes nobody without a login of another sort (SASL or a scheme it enforces): of those only "digest" is spoken here, by zookeeper.auth-file',
    },
  ],
  [ZK.QUOTA_EXCEEDED, { code: 'refused', says: 'the quota of the node is used up: raise it' }],
  [
    ZK.THROTTLED,
    { code: 'metadata_unavailable', says: 'ZooKeeper has too much to do: ask again later', retryable: true },
  ],
])

/** The error for one of ZooKeeper's numbers. `what` says what was tried, with the path. */
export function zkError(code: number, what: string, details: Record<string, unknown> = {}): StratalogError {
  const meaning = MEANINGS.get(code) ?? {
    code: 'metadata_unavailable',
    says: `ZooKeeper answers with the unknown error ${code}: whether it was done is to be read again`,
    unknown: true,
  }
  return new StratalogError(meaning.code, `${what}: ${meaning.says}`, {
    retryable: meaning.retryable ?? meaning.code === 'conflict',
    details: { ...details, zookeeper: code, ...(meaning.unknown === true ? { outcome: 'unknown' } : {}) },
  })
}

/** ZooKeeper could not be asked: nothing was sent. */
export function notSent(what: string, why: string, cause?: unknown): StratalogError {
  return new StratalogError('metadata_unavailable', `${what}: ${why}`, {
    retryable: true,
    ...(cause === undefined ? {} : { cause }),
    details: { zookeeper: ZK.CONNECTION_LOSS, outcome: 'none' },
  })
}

/** ZooKeeper's own number of an error, or null: it is none of ZooKeeper's. */
export function zkCode(error: unknown): number | null {
  const code = isStratalogError(error) ? error.details.zookeeper : undefined
  return typeof code === 'number' ? code : null
}

/** Whether a change that failed with this may have been made: it has to be read again. */
export function outcomeUnknown(error: unknown): boolean {
  return isStratalogError(error) && error.details.outcome === 'unknown'
}
