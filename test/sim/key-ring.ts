import type { KeyRings } from '../../archive/keys.js'
import { MemoryRing } from '../helpers/key-ring.js'

/** What the policy of an encrypted run names. */
export const SIMULATED_KEY = { ring: 'simulated', key: 'one' } as const

/** A ring of a world, which every process of it can ask. */
export function simulatedRings(): KeyRings {
  const ring = new MemoryRing(SIMULATED_KEY.ring, SIMULATED_KEY.key)
  return { named: async () => ring, known: async () => ({ rings: [ring], missing: [] }) }
}
