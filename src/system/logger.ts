import process from 'node:process'
import { destination, type Logger as PinoLogger, pino, stdSerializers } from 'pino'
import { StratalogError } from '../model/errors.js'
import type { Logger } from '../ports/logger.js'

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const
const SECRETS = [
  'password',
  'passphrase',
  'secret',
  'token',
  'authorization',
  'accessKeyId',
  'secretAccessKey',
  'sessionToken',
]
/** `a`, `*.a`, `*.*.a`, `*.*.*.a`: a secret's name at the top and down to three levels below. */
const REDACTED = SECRETS.flatMap((name) => [name, `*.${name}`, `*.*.${name}`, `*.*.*.${name}`])

export type LogLevel = (typeof LEVELS)[number]

/**
 * JSON lines on stderr, written at once so that the last one before a crash is there. The level is, nearest
 * first, the variable STRATALOG_LOG, `level`, 'warn'.
 */
export function createLogger(options: { level?: LogLevel; name?: string } = {}): Logger {
  const asked = process.env.STRATALOG_LOG
  const level = asked === undefined || asked === '' ? (options.level ?? 'warn') : asked
  if (!LEVELS.some((known) => known === level)) {
    throw new StratalogError(
      'config_invalid',
      `STRATALOG_LOG=${level} is no log level: use one of ${LEVELS.join(', ')}`,
      { expected: LEVELS, found: level },
    )
  }
  const base = options.name === undefined ? {} : { name: options.name }
  const serializers = { error: stdSerializers.err, err: stdSerializers.err, cause: stdSerializers.err }
  return adapted(
    pino(
      { level, base, serializers, redact: { paths: REDACTED, censor: '[redacted]' } },
      destination({ fd: 2, sync: true }),
    ),
  )
}

function adapted(log: PinoLogger): Logger {
  return {
    debug: (fields, message) => log.debug(fields, message),
    info: (fields, message) => log.info(fields, message),
    warn: (fields, message) => log.warn(fields, message),
    error: (fields, message) => log.error(fields, message),
    child: (fields) => adapted(log.child(fields)),
  }
}

/** Says nothing: the library's default, and for tests. */
export function silentLogger(): Logger {
  const silent: Logger = {
    debug: () => undefined,
    info: () => undefined,
    warn: () => undefined,
    error: () => undefined,
    child: () => silent,
  }
  return silent
}
