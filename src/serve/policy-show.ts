import { holdEdgeText } from '../config/holds.js'
import { fieldsOf, POLICY_FIELDS } from '../config/layer.js'
import type { Log } from '../log.js'
import type { PolicyShowDto } from '../model/control-api.js'
import type { PolicyField, PolicyHold } from '../model/policy.js'

/** Every value of a stream's policy with who said it, and what was outvoted. Also for a stream that is not there yet. */
export async function showPolicy(log: Log, name: string): Promise<PolicyShowDto> {
  const { resolved, losers } = await log.policyOf(name)
  const values = fieldsOf(resolved.policy)
  return {
    stream: name,
    exists: (await log.streams.find(name)) !== null,
    values: POLICY_FIELDS.map((field) => ({
      field,
      value: jsonValue(field, values[field]),
      origin: resolved.origins[field],
    })),
    losers: losers.map(({ field, value, origin, by }) => ({
      field,
      value: jsonValue(field as PolicyField, value),
      origin,
      by,
    })),
  }
}

/** Positions of holds as stratalog.yaml writes them: JSON knows neither DLSNs nor 64-bit numbers. */
function jsonValue(field: PolicyField, value: unknown): unknown {
  if (field !== 'holds') return value
  return (value as readonly PolicyHold[]).map(({ id, from, until, reason }) => ({
    id,
    from: from === null ? null : holdEdgeText(from),
    until: until === null ? null : holdEdgeText(until),
    reason,
  }))
}
