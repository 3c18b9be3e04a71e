import type { TSchema } from 'typebox'
import { StratalogError } from '../model/errors.js'
import type { PolicyInput } from '../model/policy-input.js'
import { type ConfigLayer, type PolicyLayer, readLayer, readPolicy } from './layer.js'
import {
  type Checked,
  type ConfigPath,
  checkShape,
  configError,
  type Problem,
  pathText,
  type Report,
  withoutProblems,
} from './problems.js'
import { CODE_SCHEMA, POLICY_INPUT_SCHEMA } from './schema.js'

/** What a program says when it opens a log: policy keys beside where the log is. */
export interface CodeConfig extends PolicyInput {
  /** A directory, `s3://…`, `hdfs://…`; null or `none`: no archive. */
  readonly archive?: string | null
  readonly metadata?: string
  readonly stores?: readonly string[] | 'bookkeeper'
  /** Settings of engines, as they take them. */
  readonly s3?: object
  readonly hdfs?: object
  readonly zookeeper?: object
  readonly bookkeeper?: object
  /** Before those of the file. */
  readonly policies?: readonly (PolicyInput & { readonly match: string; readonly archive?: string })[]
}

/** Reads what a program says; origins are `code` and `code  policies[0]`. Throws `invalid_argument`. */
export function readCode(input: CodeConfig): ConfigLayer {
  const raw = plain(input, 'options')
  // JSON schema has no null for a key that may be left out; to a program null is the natural way to say none.
  const schemaView = raw.archive === null ? { ...raw, archive: 'none' } : raw
  const locate = (path: ConfigPath) => (path[0] === 'policies' ? `code  policies[${path[1]}]` : 'code')
  return checked(schemaView, CODE_SCHEMA, 'options', (good, report) =>
    readLayer(good, { locate, report }, true),
  )
}

/**
 * Checks a policy a program gave and returns a frozen copy. `what` begins the message: `setPolicy`. Throws
 * `invalid_argument` with all problems.
 */
export function checkPolicyInput(input: unknown, what = 'policy'): PolicyInput {
  const raw = plain(input, what)
  checked(raw, POLICY_INPUT_SCHEMA, what, (good, report) =>
    readPolicy(good, [], { locate: () => '', report }),
  )
  return freeze(raw) as PolicyInput
}

/** Reads a policy a program gave as a layer, all of `origin`. Throws `invalid_argument`. */
export function readPolicyInput(input: PolicyInput, origin: string): PolicyLayer {
  const raw = plain(input, origin)
  return checked(raw, POLICY_INPUT_SCHEMA, origin, (good, report) =>
    readPolicy(good, [], { locate: () => origin, report }),
  )
}

/** A stream's own policy as it is stored. Throws `invalid_argument`. */
export function encodePolicyOverride(input: PolicyInput): string {
  return JSON.stringify(checkPolicyInput(input, 'stream override'))
}

/** Reads what `encodePolicyOverride` wrote. Throws `config_invalid`, naming the stream. */
export function decodePolicyOverride(text: string, streamName: string): PolicyInput {
  const what = `stream override of ${streamName}`
  const again = 'set it again with a policy of this version'
  let raw: unknown
  try {
    raw = JSON.parse(text)
  } catch (cause) {
    throw new StratalogError('config_invalid', `${what} is not JSON: ${again}`, {
      cause,
      found: text.slice(0, 200),
    })
  }
  try {
    return checkPolicyInput(raw, what)
  } catch (cause) {
    if (!(cause instanceof StratalogError)) throw cause
    throw new StratalogError('config_invalid', `${cause.message}; ${again}`, {
      cause,
      details: cause.details,
    })
  }
}

function checked<T>(
  raw: Checked,
  schema: TSchema,
  what: string,
  read: (raw: Checked, report: Report) => T,
): T {
  const problems: Problem[] = []
  const report = (path: ConfigPath, message: string) => problems.push({ path, message })
  checkShape(schema, raw, report)
  const value = read(withoutProblems(raw, problems), report)
  if (problems.length === 0) return value
  throw configError(
    'invalid_argument',
    problems.map(({ path, message }) => ({ where: what, message: placed(path, message) })),
  )
}

/** Problems of a file have a line; of code, the path to the group an unknown key stands in. */
function placed(path: ConfigPath, message: string): string {
  const group = pathText(path.slice(0, -1))
  return message.startsWith('unknown key') && group !== '' ? `${message} (in ${group})` : message
}

/** A copy without undefined values; refuses what JSON has no form for. */
function plain(input: unknown, what: string): Checked {
  const refuse = (why: string) =>
    new StratalogError('invalid_argument', `${what}: ${why}`, { found: typeof input })
  if (typeof input !== 'object' || input === null || Array.isArray(input)) {
    throw refuse('give an object, as { hot: { for: "1h" }, keep: { for: "7 years" } }')
  }
  try {
    return JSON.parse(JSON.stringify(input, finite)) as Checked
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause)
    throw new StratalogError('invalid_argument', `${what}: give plain values: ${why}`, { cause })
  }
}

/** JSON would quietly turn NaN and Infinity into null, and leave functions out. */
function finite(key: string, value: unknown): unknown {
  if (
    typeof value === 'function' ||
    typeof value === 'symbol' ||
    (typeof value === 'number' && !Number.isFinite(value))
  ) {
    throw new TypeError(`${key} is ${typeof value === 'number' ? String(value) : `a ${typeof value}`}`)
  }
  return value
}

function freeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) {
    for (const inner of Object.values(value)) freeze(inner)
    Object.freeze(value)
  }
  return value
}
