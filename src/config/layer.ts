import { checkZone, parseCronHours } from '../model/cron.js'
import { isStratalogError } from '../model/errors.js'
import type { ArchiveDown, CopyWindow, Policy, PolicyField } from '../model/policy.js'
import { parseBytes, parseDuration } from '../model/units.js'
import { checkPattern } from './pattern.js'
import { type Checked, type ConfigPath, pathText, quoted, type Report } from './problems.js'
import { kebabKey, LATER_SECTIONS } from './schema.js'

/**
 * A value with who said it: `stratalog.yaml:28  policies[1]`, `env STRATALOG_ROLL__AGE`, `code`, `built-in`.
 */
export interface Sourced<T> {
  readonly value: T
  readonly origin: string
}

/** The type of each policy field. Times in milliseconds, sizes in bytes, null: no limit. */
export interface PolicyFieldValues {
  create: 'allow' | 'refuse'
  'quorum.ensemble': number | null
  'quorum.copies': number
  'quorum.ack': number
  'quorum.min': number | null
  'roll.size': number
  'roll.age': number
  'roll.idle': number
  'copy.after': number
  'copy.window': CopyWindow | null
  'hot.for': number | null
  'hot.max': number | null
  'evict.lag': number
  'keep.for': number | null
  'keep.max': number | null
  'keep.by': 'completion' | 'event'
  'archive-down': ArchiveDown
  'scrub.full-pass': number
}

/** What one place says about a policy; fields it says nothing about are absent. */
export type PolicyFields = { [F in PolicyField]?: Sourced<PolicyFieldValues[F]> }

/** A value of a section that has no effect in this version: `limits.upload`. */
export interface LaterSetting extends Sourced<unknown> {
  readonly field: string
}

/** What one place (defaults, one policy, one override) says. */
export interface PolicyLayer {
  readonly fields: PolicyFields
  readonly later: readonly LaterSetting[]
}

/** A policy for the streams whose names match. */
export interface MatchedPolicy extends PolicyLayer {
  readonly match: string
  readonly archive: Sourced<string | null> | null
}

/**
 * All that one source (the file, the environment, the program) says. `archive` null inside: none is wanted.
 */
export interface ConfigLayer {
  readonly archive: Sourced<string | null> | null
  readonly stores: Sourced<readonly string[]> | null
  /** Nearest first: what `defaults` says, then what the top level says. */
  readonly defaults: readonly PolicyLayer[]
  readonly policies: readonly MatchedPolicy[]
  /** Settings of the whole log that have no effect in this version. */
  readonly later: readonly LaterSetting[]
}

/** Says where a value at that path was written. */
export type Locate = (path: ConfigPath) => string

/** What reading needs to know of its source: where values are, and where problems go. */
export interface LayerSource {
  readonly locate: Locate
  readonly report: Report
}

const bytes = (raw: unknown): number => parseBytes(raw as string | number)
const ms = (raw: unknown): number => parseDuration(raw as string | number)
const orNone = (word: string, read: (raw: unknown) => number) => (raw: unknown) =>
  raw === word ? null : read(raw)
const asIs = <T>(raw: unknown): T => raw as T

/** Below these a log would do nothing but roll, or keep nothing at all: surely a slip of the pen. */
const LEAST: Readonly<Partial<Record<PolicyField, readonly [least: number, text: string]>>> = {
  'roll.size': [1024, '1 KiB'],
  'roll.age': [1, '1ms'],
  'roll.idle': [1, '1ms'],
  'keep.for': [1, '1ms'],
  'keep.max': [1, '1 B'],
  'scrub.full-pass': [1_000, '1s'],
}

function windowOf(raw: unknown): CopyWindow | null {
  if (raw === 'always') return null
  const { cron, zone = 'UTC' } = raw as { cron: string; zone?: string }
  parseCronHours(cron)
  return { cron, zone: checkZone(zone) }
}

const READERS: { readonly [F in PolicyField]: (raw: unknown) => PolicyFieldValues[F] } = {
  create: asIs,
  'quorum.ensemble': asIs,
  'quorum.copies': asIs,
  'quorum.ack': asIs,
  'quorum.min': asIs,
  'roll.size': bytes,
  'roll.age': ms,
  'roll.idle': ms,
  'copy.after': ms,
  'copy.window': windowOf,
  'hot.for': orNone('forever', ms),
  'hot.max': orNone('unlimited', bytes),
  'evict.lag': ms,
  'keep.for': orNone('forever', ms),
  'keep.max': orNone('unlimited', bytes),
  'keep.by': asIs,
  'archive-down': asIs,
  'scrub.full-pass': ms,
}

/** Every policy field, in the order people see them. */
export const POLICY_FIELDS: readonly PolicyField[] = Object.keys(READERS) as PolicyField[]

/**
 * Reads a policy whose shape was checked, with kebab-case or camelCase keys. What can't be read is reported.
 */
export function readPolicy(raw: Checked, path: ConfigPath, source: LayerSource): PolicyLayer {
  const fields: PolicyFields = {}
  const later: LaterSetting[] = []
  for (const [key, value] of Object.entries(raw)) {
    const name = kebabKey(key)
    const at = [...path, key]
    if (LATER_SECTIONS.includes(name)) later.push(...readLater(name, value, at, source))
    else if (name === 'keep' && value === 'forever') {
      // Without `max` here a limit from further away would still trim what is to be kept for ever.
      for (const field of ['keep.for', 'keep.max'] as const)
        fields[field] = { value: null, origin: source.locate(at) }
    } else if (isObject(value)) {
      for (const [inner, part] of Object.entries(value))
        readField(`${name}.${inner}`, part, [...at, inner], source, fields)
    } else readField(name, value, at, source, fields)
  }
  return { fields, later }
}

function readField(
  name: string,
  raw: unknown,
  path: ConfigPath,
  source: LayerSource,
  into: PolicyFields,
): void {
  const field = POLICY_FIELDS.find((known) => known === name)
  if (field === undefined) return
  const set = <F extends PolicyField>(key: F) => {
    const value = READERS[key](raw)
    const least = LEAST[key]
    if (least !== undefined && typeof value === 'number' && value < least[0]) {
      source.report(path, `${pathText(path)}: ${quoted(raw)} is too small: write at least ${least[1]}`)
    }
    const target: { [K in F]?: Sourced<PolicyFieldValues[K]> } = into
    target[key] = { value, origin: source.locate(path) }
  }
  attempt(path, source.report, () => set(field))
}

/** Runs what throws for bad values and reports what it throws at `path`. */
function attempt(path: ConfigPath, report: Report, read: () => void): void {
  try {
    read()
  } catch (error) {
    if (!isStratalogError(error)) throw error
    report(path, `${pathText(path)}: ${error.message}`)
  }
}

function readLater(section: string, value: unknown, path: ConfigPath, source: LayerSource): LaterSetting[] {
  if (!isObject(value)) return [{ field: section, value, origin: source.locate(path) }]
  return Object.entries(value).map(([key, inner]) => ({
    field: `${section}.${kebabKey(key)}`,
    value: inner,
    origin: source.locate([...path, key]),
  }))
}

/**
 * Reads a whole source whose shape was checked. `flat`: policy keys stand at the top, as programs write them.
 */
export function readLayer(raw: Checked, source: LayerSource, flat: boolean): ConfigLayer {
  const { archive, stores, policies, defaults, quorum, cache, version: _, ...rest } = raw
  const layers: PolicyLayer[] = []
  if (isObject(defaults)) layers.push(readPolicy(defaults, ['defaults'], source))
  if (flat) layers.push(readPolicy({ ...rest, ...(isObject(quorum) ? { quorum } : {}) }, [], source))
  else if (isObject(quorum)) layers.push(readPolicy({ quorum }, [], source))
  return {
    archive: readArchive(archive, ['archive'], source),
    stores: Array.isArray(stores) ? { value: stores.map(String), origin: source.locate(['stores']) } : null,
    defaults: layers,
    policies: (Array.isArray(policies) ? policies : []).map((policy: Checked, index) =>
      readMatched(policy, ['policies', index], source),
    ),
    later: isObject(cache) ? readLater('cache', cache, ['cache'], source) : [],
  }
}

function readMatched(raw: Checked, path: ConfigPath, source: LayerSource): MatchedPolicy {
  const { match, archive, ...rest } = raw
  const pattern = String(match)
  attempt([...path, 'match'], source.report, () => checkPattern(pattern))
  const own = readArchive(archive, [...path, 'archive'], source)
  const { fields, later } = readPolicy(rest, path, source)
  // A log copies to one archive in this version, and must say so: the streams may be meant to stay apart.
  const ownLater = own === null ? [] : [{ field: 'archive', ...own }]
  return { match: pattern, archive: own, fields, later: [...ownLater, ...later] }
}

function readArchive(raw: unknown, path: ConfigPath, source: LayerSource): Sourced<string | null> | null {
  if (raw === undefined) return null
  const origin = source.locate(path)
  if (raw === null || raw === 'none') return { value: null, origin }
  const text = String(raw)
  if (/^(no|off|false|null|~)$/i.test(text))
    source.report(path, `archive: "${text}" is taken for a directory: write none`)
  const scheme = /^(s3|hdfs|webhdfs|file|https?|gs):(?!\/\/)/i.exec(text)?.[1]
  if (scheme !== undefined)
    source.report(path, `archive: ${quoted(text)} is taken for a directory: write ${scheme}://…`)
  // A password in a file ends up in version control and in every message that names the archive.
  if (/^[a-z0-9]+:\/\/[^/]*:[^/]*@/i.test(text)) {
    source.report(
      path,
      'archive: credentials do not belong in an address: leave them to the credentials chain of the SDK',
    )
  }
  return { value: text, origin }
}

function isObject(value: unknown): value is Checked {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Every field of a policy by its name. */
export function fieldsOf(policy: Policy): PolicyFieldValues {
  return {
    create: policy.create,
    'quorum.ensemble': policy.quorum.ensemble,
    'quorum.copies': policy.quorum.copies,
    'quorum.ack': policy.quorum.ack,
    'quorum.min': policy.quorum.min,
    'roll.size': policy.roll.sizeBytes,
    'roll.age': policy.roll.ageMs,
    'roll.idle': policy.roll.idleMs,
    'copy.after': policy.copy.afterMs,
    'copy.window': policy.copy.window,
    'hot.for': policy.hot.forMs,
    'hot.max': policy.hot.maxBytes,
    'evict.lag': policy.evict.lagMs,
    'keep.for': policy.keep.forMs,
    'keep.max': policy.keep.maxBytes,
    'keep.by': policy.keep.by,
    'archive-down': policy.archiveDown,
    'scrub.full-pass': policy.scrub.fullPassMs,
  }
}

/** The opposite of `fieldsOf`. */
export function policyOf(values: PolicyFieldValues): Policy {
  return {
    create: values.create,
    quorum: {
      ensemble: values['quorum.ensemble'],
      copies: values['quorum.copies'],
      ack: values['quorum.ack'],
      min: values['quorum.min'],
    },
    roll: { sizeBytes: values['roll.size'], ageMs: values['roll.age'], idleMs: values['roll.idle'] },
    copy: { afterMs: values['copy.after'], window: values['copy.window'] },
    hot: { forMs: values['hot.for'], maxBytes: values['hot.max'] },
    evict: { lagMs: values['evict.lag'] },
    keep: { forMs: values['keep.for'], maxBytes: values['keep.max'], by: values['keep.by'] },
    archiveDown: values['archive-down'],
    scrub: { fullPassMs: values['scrub.full-pass'] },
  }
}
