import { StratalogError } from '../../src/model/errors.js'

/** How an S3 archive `s3://bucket/prefix` is reached; what is not set has a default. Never a credential. */
export interface S3Settings {
  /** Where the store is, if it is not AWS: `https://s3.example.org`. @default `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, AWS */
  readonly endpoint?: string
  /** @default what the SDK finds (`AWS_REGION`, the profile); with an endpoint else `us-east-1` */
  readonly region?: string
  /** `https://host/bucket/key` instead of `https://bucket.host/key`. @default true where the endpoint is not AWS */
  readonly pathStyle?: boolean
  /** Profile of the shared AWS configuration that names the credentials. @default the SDK's credential chain */
  readonly profile?: string
  /**
   * What the store encrypts objects with: its own keys (`s3`), a key of its key service (`kms`), or the key of
   * `customerKeyFile` (`customer`). @default `kms` with a `kmsKey`, `customer` with a `customerKeyFile`, else the bucket's
   */
  readonly sse?: 's3' | 'kms' | 'customer'
  /** Id or alias of the key of `sse: kms`. A policy's own key goes before it. @default the store's key for this */
  readonly kmsKey?: string
  /** File with the 32 bytes of a customer key, raw or as base64. What was stored with it is read only with it. */
  readonly customerKeyFile?: string
  /** File with certificates (PEM) to trust besides the well-known ones. */
  readonly caFile?: string
  /** `http://host:port` of a proxy that tunnels (CONNECT). */
  readonly proxy?: string
  /** Objects up to this size are stored in one request, from one buffer. @default 75497472, 72 MiB: a segment of 64 MiB */
  readonly putMaxBytes?: number
  /** Of larger ones: bytes of a part, more where there would be over 10,000. At least 5 MiB. @default 16777216 */
  readonly partBytes?: number
  /** Memory for objects on their way out. @default twice `putMaxBytes` */
  readonly bufferBytesMax?: number
  /** Requests under way at once; fewer while the store asks for it. @default 16 */
  readonly concurrency?: number
  /** A connection that moved nothing for so long is given up. @default 30000 */
  readonly idleTimeoutMs?: number
  /** Time for a request; one with many bytes is given four seconds for each MiB on top. @default 60000 */
  readonly totalTimeoutMs?: number
  /** Lets the endpoint have a link-local address (169.254.0.0/16, fe80::/10), where clouds keep credentials. @default false */
  readonly allowLinkLocal?: boolean
  /** How soon thawing is to be done, and at which price. @default 'standard' */
  readonly thawTier?: 'expedited' | 'standard' | 'bulk'
}

/** Settings with every default, and where the archive is. */
export interface S3Place {
  /** `s3://bucket/prefix`, for people. */
  readonly location: string
  readonly bucket: string
  /** What stands before every key: `prefix/`, or nothing. */
  readonly base: string
  readonly endpoint: URL | null
  readonly region: string | null
  readonly pathStyle: boolean
  readonly profile: string | null
  readonly sse: 's3' | 'kms' | 'customer' | null
  readonly kmsKey: string | null
  readonly customerKeyFile: string | null
  readonly caFile: string | null
  readonly proxy: URL | null
  readonly putMaxBytes: number
  readonly partBytes: number
  readonly bufferBytesMax: number
  readonly concurrency: number
  readonly idleTimeoutMs: number
  readonly totalTimeoutMs: number
  readonly allowLinkLocal: boolean
  readonly thawTier: 'expedited' | 'standard' | 'bulk'
}

const MIB = 1024 * 1024
/** What S3 takes in one request. */
const PUT_BYTES_MAX = 5 * 1024 * MIB
const PREFIX_BYTES_MAX = 700

const KNOWN: readonly (keyof S3Settings)[] = [
  'endpoint',
  'region',
  'pathStyle',
  'profile',
  'sse',
  'kmsKey',
  'customerKeyFile',
  'caFile',
  'proxy',
  'putMaxBytes',
  'partBytes',
  'bufferBytesMax',
  'concurrency',
  'idleTimeoutMs',
  'totalTimeoutMs',
  'allowLinkLocal',
  'thawTier',
]

/** Checks location and settings and fills in the defaults: the one place that does. `config_invalid`. */
export function s3Place(
  location: string,
  settings: S3Settings,
  environment: Readonly<Record<string, string | undefined>> = {},
): S3Place {
  for (const name of Object.keys(settings)) {
    if (!KNOWN.some((known) => known === name))
      throw invalid(name, `is no setting of an S3 archive; there are ${KNOWN.join(', ')}`)
  }
  const where = parseLocation(location)
  const endpoint = endpointOf(settings, environment)
  const putMaxBytes = whole(settings, 'putMaxBytes', 72 * MIB, 0, PUT_BYTES_MAX)
  const region = settings.region ?? environment.AWS_REGION ?? environment.AWS_DEFAULT_REGION ?? null
  return {
    ...where,
    endpoint,
    // The SDK finds AWS's own; a store elsewhere mostly does not care.
    region: region ?? (endpoint === null || settings.profile !== undefined ? null : 'us-east-1'),
    pathStyle: settings.pathStyle ?? (endpoint !== null && !isAws(endpoint)),
    profile: settings.profile ?? null,
    ...encryptionOf(settings),
    caFile: settings.caFile ?? null,
    proxy: proxyOf(settings.proxy),
    putMaxBytes,
    partBytes: whole(settings, 'partBytes', 16 * MIB, 5 * MIB, PUT_BYTES_MAX),
    bufferBytesMax: whole(settings, 'bufferBytesMax', Math.max(2 * putMaxBytes, 32 * MIB), 5 * MIB),
    concurrency: whole(settings, 'concurrency', 16, 1, 1024),
    idleTimeoutMs: whole(settings, 'idleTimeoutMs', 30_000, 100),
    totalTimeoutMs: whole(settings, 'totalTimeoutMs', 60_000, 100),
    allowLinkLocal: settings.allowLinkLocal ?? false,
    thawTier: oneOf(settings, 'thawTier', ['expedited', 'standard', 'bulk']) ?? 'standard',
  }
}

function parseLocation(location: string): Pick<S3Place, 'location' | 'bucket' | 'base'> {
  const match = /^s3:\/\/([^/?#@]+)((?:\/[^?#]*)?)$/.exec(location)
  // What stands before an @ may be a secret: then the location is not repeated.
  const shown = location.includes('@') ? 's3://…' : location
  if (match === null) {
    throw new StratalogError(
      'config_invalid',
      `"${shown}" is not s3://bucket/prefix: credentials come from the environment or a profile, the endpoint from the setting`,
    )
  }
  const bucket = match[1] ?? ''
  const prefix = (match[2] ?? '').replace(/^\/+|\/+$/g, '')
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$/.test(bucket)) {
    throw new StratalogError('config_invalid', `"${bucket}" can't be the name of a bucket`, { found: bucket })
  }
  const parts = prefix.split('/')
  const plain = parts.every(
    (part) => /^[A-Za-z0-9!_.*'()~=@+-]+$/.test(part) && part !== '.' && part !== '..',
  )
  if (prefix !== '' && (!plain || prefix.length > PREFIX_BYTES_MAX)) {
    throw new StratalogError(
      'config_invalid',
      `"${prefix}" can't be the prefix of an archive: letters, digits and !_.*'()~=@+- in parts divided by one /, at most ${PREFIX_BYTES_MAX}`,
      { found: prefix },
    )
  }
  const base = prefix === '' ? '' : `${prefix}/`
  return { location: `s3://${bucket}${prefix === '' ? '' : `/${prefix}`}`, bucket, base }
}

function endpointOf(
  settings: S3Settings,
  environment: Readonly<Record<string, string | undefined>>,
): URL | null {
  const value = settings.endpoint ?? environment.AWS_ENDPOINT_URL_S3 ?? environment.AWS_ENDPOINT_URL
  if (value === undefined || value === '') return null
  const url = webAddress('endpoint', value)
  if (url.username !== '' || url.password !== '')
    throw invalid('endpoint', 'must hold no credentials: they come from the environment or a profile')
  if (url.search !== '' || url.hash !== '') throw invalid('endpoint', 'is https://host:port')
  return url
}

/** Whether the endpoint is one of AWS, which wants the bucket in the name of the host. */
export function isAws(endpoint: URL): boolean {
  return /(^|\.)amazonaws\.com(\.cn)?$/.test(endpoint.hostname)
}

function proxyOf(value: string | undefined): URL | null {
  if (value === undefined) return null
  const url = webAddress('proxy', value)
  if (url.protocol !== 'http:') throw invalid('proxy', 'is http://host:port')
  return url
}

/** The value itself is not told: there may be a password in it. */
function webAddress(name: string, value: string): URL {
  const url = URL.canParse(value) ? new URL(value) : null
  if (url === null || !/^https?:$/.test(url.protocol))
    throw invalid(name, 'is http://host:port or https://host:port')
  return url
}

function encryptionOf(settings: S3Settings): Pick<S3Place, 'sse' | 'kmsKey' | 'customerKeyFile'> {
  const { kmsKey, customerKeyFile } = settings
  const implied = customerKeyFile !== undefined ? 'customer' : kmsKey !== undefined ? 'kms' : null
  const sse = oneOf(settings, 'sse', ['s3', 'kms', 'customer']) ?? implied
  if (sse === 'customer' && customerKeyFile === undefined)
    throw invalid('sse', '"customer" needs customerKeyFile, the file with the key')
  if (sse !== 'customer' && customerKeyFile !== undefined)
    throw invalid('customerKeyFile', `does not go together with sse: ${sse}`)
  if (sse !== 'kms' && kmsKey !== undefined) throw invalid('kmsKey', `does not go together with sse: ${sse}`)
  return { sse, kmsKey: kmsKey ?? null, customerKeyFile: customerKeyFile ?? null }
}

function oneOf<K extends 'sse' | 'thawTier'>(
  settings: S3Settings,
  name: K,
  values: readonly NonNullable<S3Settings[K]>[],
): NonNullable<S3Settings[K]> | null {
  const value = settings[name]
  if (value === undefined) return null
  const found = values.find((one) => one === value)
  if (found === undefined) throw invalid(name, `is one of ${values.join(', ')}, not "${value}"`)
  return found
}

function whole(
  settings: S3Settings,
  name: keyof S3Settings,
  defaultValue: number,
  least: number,
  most: number = Number.MAX_SAFE_INTEGER,
): number {
  const value = settings[name] ?? defaultValue
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < least || value > most)
    throw invalid(name, `is a whole number from ${least} to ${most}`)
  return value
}

function invalid(name: string, why: string): StratalogError {
  return new StratalogError('config_invalid', `s3: ${name} ${why}`, { found: name })
}
