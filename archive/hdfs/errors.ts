import { AssertionFailed } from '../../src/model/assert.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { Judgement } from '../engine/retry.js'

/** What HDFS, or what stands in its way, answered or failed to answer. Never leaves the engine: see {@link archiveError}. */
export class HdfsFailure extends Error {
  override readonly name = 'HdfsFailure'
  /** Status of the answer, null where there was none. */
  readonly status: number | null
  /** Name of the Java exception, where the answer told one. */
  readonly exception: string | null

  constructor(message: string, told: { status?: number; exception?: string; cause?: unknown } = {}) {
    super(message, told.cause === undefined ? undefined : { cause: told.cause })
    this.status = told.status ?? null
    this.exception = told.exception ?? null
  }
}

/** The NameNode sent us to a host that is not allowed. */
export class RedirectRefused extends Error {
  override readonly name = 'RedirectRefused'
}

/** The caller's body failed, not HDFS: passed on as it is, and no reason to try again. */
export class BodyFailure extends Error {
  override readonly name = 'BodyFailure'
}

const BUSY = new Set([429, 503])
/** Asking again would be answered the same. */
const LASTING = new Set([
  'AccessControlException',
  'AuthenticationException',
  'AuthorizationException',
  'SecurityException',
  'InvalidToken',
  'FileNotFoundException',
  'FileAlreadyExistsException',
  'ParentNotDirectoryException',
  'PathIsNotEmptyDirectoryException',
  'IllegalArgumentException',
  'InvalidPathException',
  'HadoopIllegalArgumentException',
  'UnsupportedOperationException',
  'NSQuotaExceededException',
  'DSQuotaExceededException',
  'QuotaExceededException',
  'QuotaByStorageTypeExceededException',
  'SafeModeException',
  'PathComponentTooLongException',
  'MaxDirectoryItemsExceededException',
])
const DENIED = new Set([
  'AccessControlException',
  'AuthenticationException',
  'AuthorizationException',
  'SecurityException',
  'InvalidToken',
])

/** The NameNode is not the active one, or not yet. */
export function isStandby(error: unknown): boolean {
  if (!(error instanceof HdfsFailure)) return false
  return (
    error.exception === 'StandbyException' ||
    error.exception === 'ObserverRetryOnActiveException' ||
    // HttpFS and routers wrap it.
    (error.exception !== null && /StandbyException|in state standby/.test(error.message))
  )
}

/** Whether the path is not there, as the NameNode tells it; a 404 of anything else tells nothing. */
export function isAbsent(error: unknown): boolean {
  return error instanceof HdfsFailure && error.exception === 'FileNotFoundException'
}

/** Whether who we are, or what shows it, was not accepted. */
export function isDenied(error: unknown): boolean {
  if (!(error instanceof HdfsFailure)) return false
  if (error.exception === null) return error.status === 401
  return DENIED.has(error.exception)
}

/** Failures of calls that were made as often as that is right. */
const spent = new WeakSet<HdfsFailure | StratalogError>()

/** This is what is left of a call after all its tries: whoever made it as a part of another does not try again too. */
export function markSpent(error: unknown): void {
  if (error instanceof HdfsFailure || isStratalogError(error, 'timeout')) spent.add(error)
}

/** What to do about a failed request. */
export function judgeFailure(error: unknown): Judgement {
  if ((error instanceof HdfsFailure || isStratalogError(error)) && spent.has(error))
    return { verdict: 'throw' }
  if (error instanceof BodyFailure || error instanceof AssertionFailed || error instanceof RedirectRefused) {
    return { verdict: 'throw' }
  }
  if (isStratalogError(error)) return { verdict: error.code === 'timeout' ? 'again' : 'throw' }
  if (!(error instanceof HdfsFailure)) return { verdict: 'throw' }
  const { status, exception } = error
  if (exception !== null) return { verdict: LASTING.has(exception) ? 'throw' : 'again' }
  if (status === null || status < 300) return { verdict: 'again' }
  if (BUSY.has(status)) return { verdict: 'slower' }
  return { verdict: status >= 500 || status === 408 ? 'again' : 'throw' }
}

/** What a failure of HDFS means for the archive. What is no failure of HDFS passes as it is. */
export function archiveError(error: unknown, location: string, doing: string): unknown {
  if (error instanceof BodyFailure) return error.cause
  const as = (code: Code, advice: string, retryable: boolean): StratalogError =>
    new StratalogError(code, `archive ${location}: ${doing} failed: ${text(error)}; ${advice}`, {
      cause: error,
      retryable,
    })
  if (error instanceof RedirectRefused) {
    return as('access_denied', 'if that host is a DataNode of yours, name it in allowedHosts', false)
  }
  if (isStratalogError(error, 'timeout')) {
    return as('archive_unavailable', 'check NameNode, DataNodes and the network', true)
  }
  if (!(error instanceof HdfsFailure)) return error
  if (isStandby(error)) {
    return as('archive_unavailable', 'no NameNode is active: look at the pair, or name both of them', true)
  }
  if (isDenied(error)) return denied(error, as)
  return ofException(error, as)
}

type Code = 'archive_unavailable' | 'archive_full' | 'access_denied' | 'archive_missing' | 'config_invalid'
type As = (code: Code, advice: string, retryable: boolean) => StratalogError

function denied(error: HdfsFailure, as: As): StratalogError {
  if (/token/i.test(error.message)) {
    return as('access_denied', 'the delegation token expired or is another cluster’s: write a new one', false)
  }
  return error.exception === 'AccessControlException'
    ? as('access_denied', 'that user must be able to read and write there', false)
    : as('access_denied', 'the cluster wants to know who asks: set tokenFile, or a user it knows', false)
}

function ofException(error: HdfsFailure, as: As): StratalogError {
  switch (error.exception) {
    case 'SafeModeException':
      return as(
        'archive_unavailable',
        'the NameNode is in safe mode: wait until enough DataNodes report, or `hdfs dfsadmin -safemode leave`',
        true,
      )
    case 'NSQuotaExceededException':
      return as('archive_full', 'its quota of names is used up: `hdfs dfsadmin -setQuota`', true)
    case 'DSQuotaExceededException':
    case 'QuotaByStorageTypeExceededException':
    case 'QuotaExceededException':
      return as('archive_full', 'its quota of space is used up: `hdfs dfsadmin -setSpaceQuota`', true)
    case 'ParentNotDirectoryException':
      return as('archive_missing', 'a part of the path is a file: correct the path', true)
    case 'FileNotFoundException':
      return as('archive_missing', 'check the path: has the archive been moved or removed?', true)
    case 'IllegalArgumentException':
    case 'HadoopIllegalArgumentException':
    case 'UnsupportedOperationException':
    case 'InvalidPathException':
      return as('config_invalid', 'correct the location or its settings', false)
    default:
      return ofStatus(error, as)
  }
}

function ofStatus(error: HdfsFailure, as: As): StratalogError {
  if (/replicated to 0 nodes|written to 0 of the|not enough number of replicas/i.test(error.message)) {
    return as('archive_unavailable', 'no DataNode takes it: all are down, full, or excluded', true)
  }
  if (/no active nodes|Could not obtain block|BlockMissing/i.test(error.message)) {
    return as('archive_unavailable', 'no DataNode with a copy answers: are they up?', true)
  }
  if (error.exception === null && error.status === 404) {
    return as('archive_unavailable', 'this is no WebHDFS: name the NameNode’s web port (9870)', true)
  }
  return as('archive_unavailable', 'check NameNode, DataNodes and the network', true)
}

function text(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** The path is not there, or is not the archive. */
export function archiveMissing(location: string, why: string, cause?: unknown): StratalogError {
  return new StratalogError('archive_missing', `archive ${location}: ${why}`, { cause, retryable: true })
}
