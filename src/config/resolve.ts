import { StratalogError } from '../model/errors.js'
import { BUILT_IN_POLICY, type PolicyField, type ResolvedPolicy } from '../model/policy.js'
import type { PolicyInput } from '../model/policy-input.js'
import { type CodeConfig, readCode, readPolicyInput } from './code.js'
import {
  type ConfigLayer,
  fieldsOf,
  type LaterSetting,
  type MatchedPolicy,
  POLICY_FIELDS,
  type PolicyFieldValues,
  type PolicyLayer,
  policyOf,
  type Sourced,
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

/** All that code, environment and file say, with the nearest winning. */
export interface ResolvedConfig {
  /** null: no archive. */
  readonly archive: LogSetting<string | null>
  /** null: nobody named any, so the caller decides. */
  readonly stores: LogSetting<readonly string[] | null>
  /** Settings that are accepted and have no effect in this version: worth a warning. */
  readonly later: readonly LaterSetting[]
  /**
   * Throws `config_invalid` if the values of several places do not fit together, `invalid_argument` for a bad
   * override.
   */
  policyFor(streamName: string, override?: PolicyInput | null): ResolvedPolicy
  /** What else was said about this stream, nearest first; built-in values are left out. */
  losers(streamName: string, override?: PolicyInput | null): readonly OutvotedValue[]
  /**
   * The archive meant for a stream: that of the first policy that matches and names one, else the log's. Archives
   * of policies are among `later` as long as a log copies to one archive only.
   */
  archiveFor(streamName: string): Sourced<string | null>
  /** What is said about this stream that has no effect in this version, nearest first. */
  laterFor(streamName: string): readonly LaterSetting[]
}

/**
 * Where configuration may come from; `file` and `env` are what `parseConfig` and `parseEnvironment` return.
 */
export interface ConfigLayers {
  readonly file?: ConfigLayer | null | undefined
  readonly env?: ConfigLayer | null | undefined
  readonly code?: CodeConfig | null | undefined
}

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
export function resolveConfig(layers: ConfigLayers): ResolvedConfig {
  const named: NamedLayer[] = []
  if (layers.code) named.push({ name: 'code', layer: readCode(layers.code) })
  if (layers.env) named.push({ name: 'environment', layer: layers.env })
  if (layers.file) named.push({ name: 'file', layer: layers.file })
  const defaults = named.flatMap(({ layer }) => layer.defaults)
  const policies = named
    .flatMap(({ layer }) => layer.policies)
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
    stores: nearestSetting<readonly string[] | null>(named, (layer) => layer.stores, null),
    later: [
      ...named.flatMap(({ layer }) => layer.later),
      ...[...policies, ...defaults].flatMap((layer) => layer.later),
    ],
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
    archiveFor: (streamName) => matching(streamName).find(namesArchive)?.archive ?? archive,
    laterFor: (streamName) => firstOfEach(said(streamName, null).flatMap((layer) => layer.later)),
  }
}

function namesArchive(policy: MatchedPolicy): boolean {
  return policy.archive !== null
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

function firstOfEach(settings: readonly LaterSetting[]): LaterSetting[] {
  return settings.filter(
    (setting, index) => settings.findIndex((other) => other.field === setting.field) === index,
  )
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
  checkQuorum(all)
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

function outvoted(layers: readonly PolicyLayer[]): OutvotedValue[] {
  return POLICY_FIELDS.flatMap((field) => {
    const [winner, ...others] = layers.flatMap((layer) => layer.fields[field] ?? [])
    return others.map(({ value, origin }) => ({ field, value, origin, by: winner?.origin ?? 'built-in' }))
  })
}
