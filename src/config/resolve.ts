import { StratalogError } from '../model/errors.js'
import { BUILT_IN_POLICY, type PolicyField, type PolicyHold, type ResolvedPolicy } from '../model/policy.js'
import type { PolicyInput } from '../model/policy-input.js'
import { type CodeConfig, readCode, readPolicyInput } from './code.js'
import type { EngineName } from './engine-settings.js'
import {
  type ConfigLayer,
  fieldsOf,
  type MatchedPolicy,
  POLICY_FIELDS,
  type PolicyFieldValues,
  type PolicyLayer,
  policyOf,
  type Sourced,
  type StoresSetting,
} from './layer.js'
import { matcher } from './pattern.js'

/** A source of configuration. Relative directories mean something else in each. */
export type LayerName = 'code' | 'environment' | 'file' | 'built-in'

/** A setting of the whole log with who said it. */
export interface LogSetting<T> extends Sourced<T> {
  readonly layer: LayerName
}

/** A value that something nearer outvoted. Times in milliseconds, sizes in bytes, null: no limit. */
export interface OutvotedValue {
  readonly field: PolicyField
  readonly value: unknown
  readonly origin: string
  /** Origin of the value that holds. */
  readonly by: string
}

/** Settings of engines of archives with who said them; what nobody says is not there. */
export type EngineConfig = Readonly<Record<EngineName, Readonly<Record<string, LogSetting<unknown>>>>>

/** All that code, environment and file say, with the nearest winning. */
export interface ResolvedConfig {
  /** null: no archive. */
  readonly archive: LogSetting<string | null>
  /** Namespace in ZooKeeper; null: the log is in its directory alone. */
  readonly metadata: LogSetting<string | null>
  /** null: nobody named any, so the caller decides. */
  readonly stores: LogSetting<StoresSetting | null>
  /** Archives that policies name for their streams, `none` among them. */
  readonly ownArchives: readonly Sourced<string>[]
  /** Key rings that anybody names: what an earlier policy encrypted is read with them as well. */
  readonly keyRings: readonly string[]
  /** Bytes of the caches of the log; null: what is built in. */
  readonly cache: {
    readonly diskBytes: LogSetting<number | null>
    readonly indexBytes: LogSetting<number | null>
  }
  /** What is said of engines of archives, by the names of their settings. */
  readonly engines: EngineConfig
  /**
   * Throws `config_invalid` if the values of several places do not fit together, `invalid_argument` for a bad
   * override.
   */
  policyFor(streamName: string, override?: PolicyInput | null): ResolvedPolicy
  /** What else was said about this stream, nearest first; built-in values are left out. */
  losers(streamName: string, override?: PolicyInput | null): readonly OutvotedValue[]
}

/**
 * Where configuration may come from; `file` and `env` are what `parseConfig` and `parseEnvironment` return.
 */
export interface ConfigLayers {
  readonly file?: ConfigLayer | null | undefined
  readonly env?: ConfigLayer | null | undefined
  readonly code?: CodeConfig | null | undefined
}

/**
 * Makes an archive named by a policy a place of its own: a relative directory means another one in each layer. Not
 * asked for `none`.
 */
export type PlaceArchive = (value: string, layer: LayerName) => string

/** Policies kept as they were resolved, each for streams that match the same patterns. */
const RESOLVED_MAX = 1_000

type Said = { [F in PolicyField]: Sourced<PolicyFieldValues[F]> }
interface NamedLayer {
  readonly name: LayerName
  readonly layer: ConfigLayer
}

/**
 * Puts the layers together. A stream's policy is decided field by field: its own override, the first policy
 * that matches and says it (code before file), the defaults of code, environment and file, what is built in.
 * Throws `invalid_argument` for bad `code`, `config_invalid` where values of several places do not fit
 * together.
 */
export function resolveConfig(layers: ConfigLayers, place: PlaceArchive = (value) => value): ResolvedConfig {
  const named: NamedLayer[] = []
  if (layers.code) named.push({ name: 'code', layer: readCode(layers.code) })
  if (layers.env) named.push({ name: 'environment', layer: layers.env })
  if (layers.file) named.push({ name: 'file', layer: layers.file })
  const defaults = named.flatMap(({ layer }) => layer.defaults)
  const policies = named
    .flatMap(({ name, layer }) => layer.policies.map((policy) => placed(policy, name, place)))
    .map((policy) => ({ ...policy, test: matcher(policy.match) }))

  const matching = (streamName: string) => policies.filter((policy) => policy.test(streamName))
  const said = (streamName: string, override: PolicyInput | null | undefined): PolicyLayer[] => [
    ...(override ? [readPolicyInput(override, 'stream override')] : []),
    ...matching(streamName),
    ...defaults,
  ]
  const resolved = new Map<string, ResolvedPolicy>()
  const archive = nearestSetting<string | null>(named, (layer) => layer.archive, null)
  // Each alone over the defaults: faults that need no two patterns to match one stream are told at once.
  combine(defaults)
  for (const policy of policies) combine([policy, ...defaults])

  return {
    archive,
    metadata: nearestSetting<string | null>(named, (layer) => layer.metadata, null),
    stores: nearestSetting<StoresSetting | null>(named, (layer) => layer.stores, null),
    ownArchives: policies.flatMap(({ fields: { archive: own } }) =>
      own === undefined || own.value === null ? [] : [{ value: own.value, origin: own.origin }],
    ),
    keyRings: [...policies, ...defaults].flatMap(
      ({ fields: { 'encryption.ring': ring } }) => ring?.value ?? [],
    ),
    cache: {
      diskBytes: nearestSetting<number | null>(named, (layer) => layer.cache.disk, null),
      indexBytes: nearestSetting<number | null>(named, (layer) => layer.cache.index, null),
    },
    engines: {
      s3: nearestOf(named, 's3'),
      hdfs: nearestOf(named, 'hdfs'),
      zookeeper: nearestOf(named, 'zookeeper'),
      bookkeeper: nearestOf(named, 'bookkeeper'),
    },
    policyFor: (streamName, override) => {
      if (override) return combine(said(streamName, override))
      // Ten thousand streams share few policies: one object for all that match the same patterns.
      const key = matching(streamName)
        .map((policy) => policies.indexOf(policy))
        .join()
      const known = resolved.get(key)
      if (known !== undefined) return known
      if (resolved.size >= RESOLVED_MAX) resolved.clear()
      const policy = combine(said(streamName, null))
      resolved.set(key, policy)
      return policy
    },
    losers: (streamName, override) => outvoted(said(streamName, override)),
  }
}

function placed(policy: MatchedPolicy, name: LayerName, place: PlaceArchive): MatchedPolicy {
  const { archive } = policy.fields
  if (archive === undefined || archive.value === null || archive.value === 'none') return policy
  const value = place(archive.value, name)
  return { ...policy, fields: { ...policy.fields, archive: { ...archive, value } } }
}

function nearestSetting<T>(
  named: readonly NamedLayer[],
  pick: (layer: ConfigLayer) => Sourced<T> | null,
  builtIn: T,
): LogSetting<T> {
  for (const { name, layer } of named) {
    const found = pick(layer)
    if (found !== null) return { ...found, layer: name }
  }
  return { value: builtIn, origin: 'built-in', layer: 'built-in' }
}

/** Setting by setting: one place may name the endpoint, another the region. */
function nearestOf(named: readonly NamedLayer[], engine: EngineName): Record<string, LogSetting<unknown>> {
  const found: Record<string, LogSetting<unknown>> = {}
  for (const { name, layer } of [...named].reverse()) {
    for (const [field, said] of Object.entries(layer.engines[engine])) found[field] = { ...said, layer: name }
  }
  return found
}

/** The nearest value of each field; what nobody says is built in. */
function combine(layers: readonly PolicyLayer[]): ResolvedPolicy {
  const builtIn = fieldsOf(BUILT_IN_POLICY)
  const said: Partial<Said> = {}
  const take = <F extends PolicyField>(field: F) => {
    const nearest = layers.find((layer) => layer.fields[field] !== undefined)?.fields[field]
    const target: { [K in F]?: Sourced<PolicyFieldValues[K]> } = said
    target[field] = nearest ?? { value: builtIn[field], origin: 'built-in' }
  }
  for (const field of POLICY_FIELDS) take(field)
  const all = said as Said
  all.holds = allHolds(layers) ?? all.holds
  checkQuorum(all)
  checkEncryption(all)
  const pick = <K extends 'value' | 'origin'>(key: K) =>
    Object.fromEntries(POLICY_FIELDS.map((field) => [field, all[field][key]]))
  return {
    policy: policyOf(pick('value') as unknown as PolicyFieldValues),
    origins: pick('origin') as Record<PolicyField, string>,
  }
}

/**
 * E ≥ copies ≥ min ≥ ack: as `quorumOf` has it once the number of stores is known, but here both origins can
 * be named, and it is the mix of places that usually breaks it.
 */
function checkQuorum(said: Said): void {
  const atMost = (
    low: 'quorum.ack' | 'quorum.min' | 'quorum.copies',
    high: 'quorum.copies' | 'quorum.min' | 'quorum.ensemble',
  ) => {
    const [small, large] = [said[low], said[high]]
    if (small.value === null || large.value === null || small.value <= large.value) return
    const show = (field: string, { value, origin }: Sourced<unknown>) =>
      `${field} ${value} (${origin.replace(/ +/g, ' ')})`
    throw new StratalogError(
      'config_invalid',
      `${show(low, small)} is above ${show(high, large)}: set both in one place`,
      { expected: large.value, found: small.value },
    )
  }
  atMost('quorum.ack', 'quorum.copies')
  atMost('quorum.ack', 'quorum.min')
  atMost('quorum.min', 'quorum.copies')
  atMost('quorum.copies', 'quorum.ensemble')
}

/**
 * Holds of every place, each id once, the nearest of that id: a policy that is nearer for some other reason must not
 * let go of what a case is about (decision 0018).
 */
function allHolds(layers: readonly PolicyLayer[]): Said['holds'] | null {
  const stated = layers.flatMap((layer) => layer.fields.holds ?? [])
  if (stated.length === 0) return null
  const holds = new Map<string, PolicyHold>()
  const origins = new Set<string>()
  for (const { value, origin } of stated) {
    for (const hold of value) {
      if (holds.has(hold.id)) continue
      holds.set(hold.id, hold)
      origins.add(origin)
    }
  }
  const [nearest] = stated
  return { value: [...holds.values()], origin: [...origins].join(', ') || (nearest?.origin ?? 'built-in') }
}

/** A key nobody can find must not leave objects in clear that were meant to be encrypted. */
function checkEncryption(said: Said): void {
  const { 'encryption.key': key, 'encryption.ring': ring } = said
  if (key.value === null || ring.value !== null) return
  throw new StratalogError(
    'config_invalid',
    `encryption.key ${JSON.stringify(key.value)} (${key.origin.replace(/ +/g, ' ')}) has no ring: add encryption.ring beside it`,
    { found: key.value },
  )
}

function outvoted(layers: readonly PolicyLayer[]): OutvotedValue[] {
  return POLICY_FIELDS.flatMap((field) => {
    // They add up; of two with one id the nearer holds, and `policy test` says so.
    if (field === 'holds') return []
    const [winner, ...others] = layers.flatMap((layer) => layer.fields[field] ?? [])
    return others.map(({ value, origin }) => ({ field, value, origin, by: winner?.origin ?? 'built-in' }))
  })
}
