import { AssertionFailed } from '../../src/model/assert.js'
import { type ErrorCode, isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { Judgement } from '../engine/retry.js'

/** What can be read off a failure of the SDK, of Node, or of the store, whatever its class. */
interface Failure {
  /** The store's own name for it (`SlowDown`), else Node's code or the error's name. */
  readonly name: string
  readonly message: string
  /** 0: no answer came. */
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly fields: Readonly<Record<string, unknown>>
}

/** An answer that no S3 store gives: a login page, a proxy's message, a web site. */
export class NotFromS3 extends Error {
  override readonly name = 'NotFromS3'
  readonly $metadata: { readonly httpStatusCode: number }

  constructor(status: number, what: string) {
    super(what)
    this.$metadata = { httpStatusCode: status }
  }
}

function failureOf(error: unknown): Failure {
  const fields = (typeof error === 'object' && error !== null ? error : {}) as Record<string, unknown>
  const metadata = (fields.$metadata ?? {}) as { httpStatusCode?: number }
  const response = (fields.$response ?? {}) as {
    statusCode?: number
    headers?: Record<string, string>
  }
  const named = [fields.Code, fields.code, fields.name].find((one) => typeof one === 'string')
  return {
    name: typeof named === 'string' ? named : 'unknown',
    message: error instanceof Error && error.message !== '' ? error.message : 'no further word',
    status: metadata.httpStatusCode ?? response.statusCode ?? (Number(fields.status) || 0),
    headers: response.headers ?? {},
    fields,
  }
}

/** Status of the answer a failure came with, 0 if none came. */
export function statusOf(error: unknown): number {
  return failureOf(error).status
}

/** Whether the store called the failure by this name. */
export function isNamed(error: unknown, ...names: readonly string[]): boolean {
  return names.includes(failureOf(error).name)
}

const TOO_MUCH = new Set([
  'SlowDown',
  'SlowDownRead',
  'SlowDownWrite',
  'TooManyRequests',
  'TooManyRequestsException',
  'Throttling',
  'ThrottlingException',
  'RequestThrottled',
  'RequestLimitExceeded',
  'BandwidthLimitExceeded',
])
/** The bytes or the request suffered on their way, or the moment was bad. */
const PASSING = new Set([
  'RequestTimeout',
  'IncompleteBody',
  'BadDigest',
  'XAmzContentSHA256Mismatch',
  'XAmzContentChecksumMismatch',
  'OperationAborted',
  'ConditionalRequestConflict',
  'InternalError',
])
const CERTIFICATE = /CERT|SELF_SIGNED|UNABLE_TO_(VERIFY|GET)|ERR_TLS/
/** Failures of Node that say nothing about the request itself. */
const NETWORK =
  /^(E(CONN\w+|PIPE|TIMEDOUT|HOSTUNREACH|NETUNREACH|NETDOWN|AI_AGAIN|NOTFOUND|ADDRNOTAVAIL|MFILE|NFILE)|ERR_STREAM_PREMATURE_CLOSE|HPE_\w+|TimeoutError|CutShort)$/

/** Whether a failed request is made again. */
export function judge(error: unknown): Judgement {
  if (isStratalogError(error)) return { verdict: error.code === 'timeout' ? 'again' : 'throw' }
  if (error instanceof AssertionFailed) return { verdict: 'throw' }
  const { name, status, headers, fields } = failureOf(error)
  const seconds = Number(headers['retry-after'] ?? 0)
  const afterMs = Number.isFinite(seconds) && seconds > 0 ? seconds * 1000 : 0
  if (TOO_MUCH.has(name) || status === 429 || (status === 503 && !(error instanceof NotFromS3)))
    return { verdict: 'slower', afterMs }
  if (isQuota(name, status)) return { verdict: 'throw' }
  const again =
    PASSING.has(name) ||
    NETWORK.test(name) ||
    status >= 500 ||
    status === 408 ||
    // A page in the place of an answer, or an answer that can't be read, comes from something in between.
    (status >= 200 && status < 300) ||
    // The SDK has put its clock right by the store's: signed anew the request is as good as any.
    (fields.$metadata as { clockSkewCorrected?: boolean } | undefined)?.clockSkewCorrected === true
  return { verdict: again && status !== 501 ? 'again' : 'throw', afterMs }
}

function isQuota(name: string, status: number): boolean {
  return status === 507 || /Quota|StorageFull|InsufficientStorage|DiskFull|InsufficientCapacity/i.test(name)
}

interface Said {
  readonly code: ErrorCode
  readonly retryable: boolean
  readonly advice: string
  readonly expected?: unknown
}

const said = (code: ErrorCode, retryable: boolean, advice: string, expected?: unknown): Said => ({
  code,
  retryable,
  advice,
  ...(expected === undefined ? {} : { expected }),
})

/** What happened, where, for the error's text. */
export interface Doing {
  readonly location: string
  readonly bucket: string
  /** "reading 10 bytes of x". */
  readonly doing: string
  readonly nowMs: number
}

/**
 * A failure in the words of the port: what happened, in whose words, and what to do. Ours and the caller's pass as they
 * are. Neither message nor cause holds what was signed: a session token may be part of it.
 */
export function archiveError(error: unknown, where: Doing): unknown {
  const { location, doing } = where
  if (isStratalogError(error, 'timeout')) {
    const text = `archive ${location}: ${error.message}; check the store and the line to it`
    return new StratalogError('archive_unavailable', text, { retryable: true, cause: error })
  }
  if (isStratalogError(error) || error instanceof AssertionFailed) return error
  const failure = failureOf(error)
  if (failure.name === 'unknown' || isBug(error, failure)) return error
  const { code, retryable, advice, expected } = meaning(failure, where)
  const status = failure.status === 0 ? '' : `, ${failure.status}`
  return new StratalogError(
    code,
    `archive ${location}: ${doing} failed: ${worded(failure, `${failure.name}${status}`)}; ${advice}`,
    { cause: plainCause(failure), retryable, ...(expected === undefined ? {} : { expected }) },
  )
}

/** A mistake in a program throws without an answer and without a code of the system. */
function isBug(error: unknown, { status, fields }: Failure): boolean {
  const programs =
    error instanceof TypeError || error instanceof RangeError || error instanceof ReferenceError
  return programs && status === 0 && fields.code === undefined
}

function meaning(failure: Failure, where: Doing): Said {
  const { name, status, fields } = failure
  if (/region is missing/i.test(failure.message))
    return said(
      'config_invalid',
      false,
      'set region (s3: in stratalog.yaml), AWS_REGION or the region of the profile; a store that is not AWS needs its endpoint as well',
    )
  if (name === 'NoSuchBucket')
    return said('archive_missing', true, `make the bucket ${where.bucket} first, or correct its name`)
  if (name === 'InvalidObjectState')
    return said(
      'thawing',
      true,
      'its storage class is not read at once: recall it, which takes minutes to hours',
    )
  const region = regionOf(failure)
  if (region !== null) {
    const right = region === '' ? 'the right one' : region
    return said('config_invalid', false, `the bucket is in another region: set region to ${right}`, region)
  }
  if (isQuota(name, status)) return said('archive_full', true, 'make room there, or have the quota raised')
  if (name === 'RequestTimeTooSkewed') return said('access_denied', true, skew(fields, where.nowMs))
  if (/^(InvalidStorageClass|InvalidEncryption|KMS|KmsKey)/.test(name) || name.startsWith('KMS.'))
    return said('config_invalid', false, 'correct the storage class or the key in policy and settings')
  if (status === 400 && /^Invalid(Argument|Request)$/.test(name))
    return said('config_invalid', false, 'correct storage class, key and tags in policy and settings')
  if (status === 501 || name === 'NotImplemented')
    return said('unsupported', false, 'this store can not do what was asked: leave the setting out')
  if (name === 'EPROTO')
    return said('archive_unavailable', false, 'does the endpoint speak TLS? If not, it begins with http://')
  if (CERTIFICATE.test(name)) return said('archive_unavailable', false, certificate(name))
  return access(failure) ?? unreachable(failure)
}

function certificate(name: string): string {
  if (name === 'ERR_TLS_CERT_ALTNAME_INVALID')
    return 'the certificate is that of another host: name the endpoint as the certificate does'
  if (name === 'CERT_HAS_EXPIRED') return "the store's certificate has expired: it needs a new one"
  return 'if the certificate is of an authority of your own, name it as caFile'
}

function access({ name, status }: Failure): Said | null {
  if (/^(ExpiredToken|TokenRefreshRequired|ExpiredTokenException|RequestExpired)$/.test(name))
    return said(
      'access_denied',
      true,
      'the credentials have expired: get new ones (aws sso login, a new role)',
    )
  if (/^(CredentialsProviderError|TokenProviderError|InvalidAccessKeyId|SignatureDoesNotMatch)$/.test(name))
    return said(
      'access_denied',
      false,
      'check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile, or the role of this machine',
    )
  if (status === 401 || status === 403 || /AccessDenied|InvalidToken|Forbidden/.test(name))
    return said(
      'access_denied',
      false,
      'the credentials need s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload there',
    )
  return null
}

function unreachable({ name, status }: Failure): Said {
  if (name === 'NotFromS3')
    return said(
      'archive_unavailable',
      true,
      'is the endpoint right, and is a proxy or a login page in between?',
    )
  if (/^E(NOTFOUND|AI_AGAIN|CONNREFUSED)$/.test(name))
    return said('archive_unavailable', true, 'check the endpoint, and whether the store runs')
  const asked = status >= 400 && status < 500 && status !== 429 && status !== 408
  return said('archive_unavailable', !asked, asked ? 'check the settings of the archive' : 'check the store')
}

/** The region a store says the bucket is in; '' where it says no more than that it is another one; else null. */
function regionOf({ name, status, headers, fields }: Failure): string | null {
  const told = headers['x-amz-bucket-region'] ?? fields.Region
  const wrong = /^(PermanentRedirect|IllegalLocationConstraintException|AuthorizationHeaderMalformed)$/.test(
    name,
  )
  if (status === 301 || status === 307 || wrong) return typeof told === 'string' ? told : ''
  // Asked without a body, the store has no place for the name of the error.
  return status === 400 && typeof told === 'string' && headers['x-amz-bucket-region'] !== undefined
    ? told
    : null
}

function skew(fields: Failure['fields'], nowMs: number): string {
  const serverMs = Date.parse(String(fields.ServerTime ?? ''))
  if (Number.isNaN(serverMs)) return "this machine's clock differs from the store's: set it right (NTP)"
  const seconds = Math.round((nowMs - serverMs) / 1000)
  const way = seconds < 0 ? 'behind' : 'ahead of'
  return `this machine's clock is ${Math.abs(seconds)} s ${way} the store's: set it right (NTP)`
}

/** What the store said and how it called it; some only call it something. */
function worded({ message }: Failure, called: string): string {
  if (message === 'UnknownError') return called
  // The SDK's own complaints have no name that would tell anybody more.
  return called === 'Error' ? oneLine(message) : `${oneLine(message)} (${called})`
}

function oneLine(text: string): string {
  return text
    .replace(/\s+/g, ' ')
    .slice(0, 300)
    .replace(/[.;\s]+$/, '')
}

/** The failure without request and answer: what was signed is nobody's business. */
function plainCause({ name, message, status, headers }: Failure): Error {
  const requestId = headers['x-amz-request-id']
  return Object.assign(new Error(oneLine(message)), {
    code: name,
    ...(status === 0 ? {} : { status }),
    ...(requestId === undefined ? {} : { requestId }),
  })
}
