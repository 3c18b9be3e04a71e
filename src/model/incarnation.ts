import type { Incarnation } from './segment.js'

/** A new incarnation: 128 random bits in hex. */
export function randomIncarnation(random: { bytes(count: number): Uint8Array }): Incarnation {
  return Array.from(random.bytes(16), (byte) => byte.toString(16).padStart(2, '0')).join('')
}
