import { checkZone, parseCronHours } from '../model/cron.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { ArchiveDown, CopyWindow, Policy, PolicyField, PolicyHold } from '../model/policy.js'
import { parseBytes, parseDuration } from '../model/units.js'
import { ENGINE_SETTINGS, type EngineName } from './engine-settings.js'
import { readHolds } from './holds.js'
import { checkPattern } from './pattern.js'
import { type Checked, type ConfigPath, pathText, quoted, type Report } from './problems.js'
import { BOOKKEEPER, kebabKey } from './schema.js'

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
  'quorum.group': string | null
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
  archive: string | null
  'storage.class': string | null
  'storage.kms-key': string | null
  'storage.tags': Readonly<Record<string, string>>
  holds: readonly PolicyHold[]
  'limits.upload': number | null
  'limits.cold-read': number | null
  'limits.replica-lag': number | null
  'encryption.ring': string | null
  'encryption.key': string | null
}

/** What one place says about a policy; fields it says nothing about are absent. */
export type PolicyFields = { [F in PolicyField]?: Sourced<PolicyFieldValues[F]> }

/** What one place (defaults, one policy, one override) says. */
export interface PolicyLayer {
  readonly fields: PolicyFields
}

/** A policy for the streams whose names match. */
export interface MatchedPolicy extends PolicyLayer {
  readonly match: string
}

/** Sizes of the caches of the whole log, in bytes. */
export interface CacheSettings {
  readonly disk: Sourced<number> | null
  readonly index: Sourced<number> | null
}

/** Where the hot tier is: directories, or the bookies of a cluster. */
export type StoresSetting = readonly string[] | typeof BOOKKEEPER

/** What one source says of engines, by the names of their settings. */
export type EngineLayer = Readonly<Record<EngineName, Readonly<Record<string, Sourced<unknown>>>>>

/**
 * All that one source (the file, the environment, the program) says. `archive` null inside: none is wanted.
 */
export interface ConfigLayer {
  readonly archive: Sourced<string | null> | null
  readonly metadata: Sourced<string> | null
  /** `bookkeeper`: the bookies of a cluster. */
  readonly stores: Sourced<StoresSetting> | null
  /** Nearest first: what `defaults` says, then what the top level says. */
  readonly defaults: readonly PolicyLayer[]
  readonly policies: readonly MatchedPolicy[]
  readonly cache: CacheSettings
  readonly engines: EngineLayer
}

/** Says where a value at that path was written. */
export type Locate = (path: ConfigPath) => string

/** What reading needs to know of its source: where values are, and where problems go. */
export interface LayerSource {
  readonly locate: Locate
  readonly report: Report
}

/** What is written where there is to be no archive. */
const NO_ARCHIVE = 'none'

const bytes = (raw: unknown): number => parseBytes(raw as string | number)
const ms = (raw: unknown): number => parseDuration(raw as string | number)
const orNone = (word: string, read: (raw: unknown) => number) => (raw: unknown) =>
  raw === word ? null : read(raw)
const asIs = <T>(raw: unknown): T => raw as T
const named = (word: string) => (raw: unknown) => (raw === word ? null : String(raw))
const rate = (raw: unknown): number => parseBytes(String(raw).replace(/\/s$/, ''))

/** Below these a log would do nothing but roll, or keep nothing at all: surely a slip of the pen. */
const LEAST: Readonly<Partial<Record<PolicyField, readonly [least: number, text: string]>>> = {
  'roll.size': [1024, '1 KiB'],
  'roll.age': [1, '1ms'],
  'roll.idle': [1, '1ms'],
  'keep.for': [1, '1ms'],
  'keep.max': [1, '1 B'],
  'scrub.full-pass': [1_000, '1s'],
  'limits.upload': [1024, '1 KiB/s'],
  'limits.cold-read': [1024, '1 KiB/s'],
  'limits.replica-lag': [1024, '1 KiB'],
}

/** Classes in which an object can't be read when it was just written. */
const NOT_READ_AT_ONCE = ['GLACIER', 'DEEP_ARCHIVE']

/** Every copy is read back before a hot copy may go (invariant 4): in some classes that would never succeed. */
function storageClass(raw: unknown): string | null {
  const name = named('default')(raw)
  if (name === null || !NOT_READ_AT_ONCE.includes(name.toUpperCase())) return name
  throw new StratalogError(
    'config_invalid',
    `objects of class ${name} are not read at once, and each copy is read back before a hot copy may go: write GLACIER_IR, or default, and let a lifecycle rule of the bucket move objects later`,
    { found: name },
  )
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
  'quorum.group': named('any'),
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
  archive: asIs,
  'storage.class': storageClass,
  'storage.kms-key': named('default'),
  'storage.tags': asIs,
  holds: (raw) => readHolds(raw as readonly Checked[]),
  'limits.upload': orNone('unlimited', rate),
  'limits.cold-read': orNone('unlimited', rate),
  'limits.replica-lag': orNone('unlimited', bytes),
  'encryption.ring': asIs,
  'encryption.key': asIs,
}

/** Words that stand for all fields of a group: without the second one a value from further away would stay. */
const WORDS: Readonly<Record<string, readonly [word: string, ...fields: PolicyField[]]>> = {
  keep: ['forever', 'keep.for', 'keep.max'],
  encryption: ['none', 'encryption.ring', 'encryption.key'],
}

/** Every policy field, in the order people see them. */
export const POLICY_FIELDS: readonly PolicyField[] = Object.keys(READERS) as PolicyField[]

/**
 * Reads a policy whose shape was checked, with kebab-case or camelCase keys. What can't be read is reported.
 */
export function readPolicy(raw: Checked, path: ConfigPath, source: LayerSource): PolicyLayer {
  const fields: PolicyFields = {}
  for (const [key, value] of Object.entries(raw)) {
    const name = kebabKey(key)
    const at = [...path, key]
    const [word, ...all] = WORDS[name] ?? []
    if (word !== undefined && value === word) lift(all, source.locate(at), fields)
    else if (isObject(value)) {
      for (const [inner, part] of Object.entries(value))
        readField(`${name}.${kebabKey(inner)}`, part, [...at, inner], source, fields)
    } else readField(name, value, at, source, fields)
  }
  return { fields }
}

/** Says of each field that it has no limit. */
function lift(names: readonly PolicyField[], origin: string, into: PolicyFields): void {
  const target: { [F in PolicyField]?: Sourced<unknown> } = into
  for (const name of names) target[name] = { value: null, origin }
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

/**
 * Reads a whole source whose shape was checked. `flat`: policy keys stand at the top, as programs write them.
 */
export function readLayer(raw: Checked, source: LayerSource, flat: boolean): ConfigLayer {
  const { archive, metadata, stores, policies, defaults, quorum, cache, version: _, ...others } = raw
  const { s3, hdfs, zookeeper, bookkeeper, ...rest } = others
  const layers: PolicyLayer[] = []
  if (isObject(defaults)) layers.push(readPolicy(defaults, ['defaults'], source))
  if (flat) layers.push(readPolicy({ ...rest, ...(isObject(quorum) ? { quorum } : {}) }, [], source))
  else if (isObject(quorum)) layers.push(readPolicy({ quorum }, [], source))
  return {
    archive: readArchive(archive, ['archive'], source),
    metadata: typeof metadata === 'string' ? { value: metadata, origin: source.locate(['metadata']) } : null,
    stores: readStores(stores, source),
    defaults: layers,
    policies: (Array.isArray(policies) ? policies : []).map((policy: Checked, index) =>
      readMatched(policy, ['policies', index], source),
    ),
    cache: readCache(cache, source),
    engines: {
      s3: readEngine('s3', s3, source),
      hdfs: readEngine('hdfs', hdfs, source),
      zookeeper: readEngine('zookeeper', zookeeper, source),
      bookkeeper: readEngine('bookkeeper', bookkeeper, source),
    },
  }
}

function readStores(raw: unknown, source: LayerSource): Sourced<StoresSetting> | null {
  const value = raw === BOOKKEEPER ? BOOKKEEPER : Array.isArray(raw) ? raw.map(String) : null
  return value === null ? null : { value, origin: source.locate(['stores']) }
}

/** Keys as in a file, with their units, or fields of the engine's settings as programs write them. */
function readEngine(name: EngineName, raw: unknown, source: LayerSource): Record<string, Sourced<unknown>> {
  const found: Record<string, Sourced<unknown>> = {}
  if (!isObject(raw)) return found
  for (const [key, { kind, field }] of Object.entries(ENGINE_SETTINGS[name])) {
    const written = raw[key] === undefined ? field : key
    const value = raw[written]
    if (value === undefined) continue
    const path = [name, written]
    if (typeof value === 'string' && /:\/\/[^/]*@/.test(value))
      source.report(path, `${pathText(path)}: credentials do not belong in an address: take them out`)
    attempt(path, source.report, () => {
      const read = kind === 'size' ? bytes(value) : kind === 'duration' ? ms(value) : value
      found[field] = { value: read, origin: source.locate(path) }
    })
  }
  return found
}

/** With less every look-up in a closed file would go to the disk. */
const INDEX_CACHE_BYTES_MIN = 2 ** 20

function readCache(raw: unknown, source: LayerSource): CacheSettings {
  const read = (key: 'disk' | 'index'): Sourced<number> | null => {
    if (!isObject(raw) || raw[key] === undefined) return null
    const path = ['cache', key]
    let value = 0
    attempt(path, source.report, () => {
      value = bytes(raw[key])
    })
    if (key === 'index' && value < INDEX_CACHE_BYTES_MIN)
      source.report(path, `cache.index: ${quoted(raw[key])} is too small: write at least 1 MiB`)
    return { value, origin: source.locate(path) }
  }
  return { disk: read('disk'), index: read('index') }
}

function readMatched(raw: Checked, path: ConfigPath, source: LayerSource): MatchedPolicy {
  const { match, archive, ...rest } = raw
  const pattern = String(match)
  attempt([...path, 'match'], source.report, () => checkPattern(pattern))
  const own = readArchive(archive, [...path, 'archive'], source)
  const { fields } = readPolicy(rest, path, source)
  // To a policy "none" is a word of its own: null means the archive of the log there.
  if (own !== null) fields.archive = { value: own.value ?? NO_ARCHIVE, origin: own.origin }
  return { match: pattern, fields }
}

function readArchive(raw: unknown, path: ConfigPath, source: LayerSource): Sourced<string | null> | null {
  if (raw === undefined) return null
  const origin = source.locate(path)
  if (raw === null || raw === NO_ARCHIVE) return { value: null, origin }
  const text = String(raw)
  if (/^(no|off|false|null|~)$/i.test(text))
    source.report(path, `archive: "${text}" is taken for a directory: write none`)
  const scheme = /^(s3|hdfs|webhdfs|file|https?|gs):(?!\/\/)/i.exec(text)?.[1]
  if (scheme !== undefined)
    source.report(path, `archive: ${quoted(text)} is taken for a directory: write ${scheme}://…`)
  // A password in a file ends up in version control and in every message that names the archive.
  if (/^[a-z0-9+.-]+:\/\/[^/]*@/i.test(text)) {
    source.report(
      path,
      'archive: credentials do not belong in an address: leave them to the credentials chain of the SDK; the user of HDFS is named under hdfs: user',
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
    'quorum.group': policy.quorum.group ?? null,
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
    archive: policy.archive,
    'storage.class': policy.storage.class,
    'storage.kms-key': policy.storage.kmsKey,
    'storage.tags': policy.storage.tags,
    holds: policy.holds,
    'limits.upload': policy.limits.uploadBytesPerSecond,
    'limits.cold-read': policy.limits.coldReadBytesPerSecond,
    'limits.replica-lag': policy.limits.replicaLagBytesMax,
    'encryption.ring': policy.encryption?.ring ?? null,
    'encryption.key': policy.encryption?.key ?? null,
  }
}

/** The opposite of `fieldsOf`. */
export function policyOf(values: PolicyFieldValues): Policy {
  const { 'encryption.ring': ring, 'encryption.key': key } = values
  return {
    create: values.create,
    quorum: {
      ensemble: values['quorum.ensemble'],
      copies: values['quorum.copies'],
      ack: values['quorum.ack'],
      min: values['quorum.min'],
      group: values['quorum.group'],
    },
    roll: { sizeBytes: values['roll.size'], ageMs: values['roll.age'], idleMs: values['roll.idle'] },
    copy: { afterMs: values['copy.after'], window: values['copy.window'] },
    hot: { forMs: values['hot.for'], maxBytes: values['hot.max'] },
    evict: { lagMs: values['evict.lag'] },
    keep: { forMs: values['keep.for'], maxBytes: values['keep.max'], by: values['keep.by'] },
    archiveDown: values['archive-down'],
    scrub: { fullPassMs: values['scrub.full-pass'] },
    archive: values.archive,
    storage: {
      class: values['storage.class'],
      kmsKey: values['storage.kms-key'],
      tags: values['storage.tags'],
    },
    holds: values.holds,
    limits: {
      uploadBytesPerSecond: values['limits.upload'],
      coldReadBytesPerSecond: values['limits.cold-read'],
      replicaLagBytesMax: values['limits.replica-lag'],
    },
    // A ring alone says where keys are, not that anything is to be encrypted.
    encryption: ring === null || key === null ? null : { ring, key },
  }
}
