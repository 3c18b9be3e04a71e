import { randomBytes } from 'node:crypto'
import type { Random } from '../ports/random.js'

/** Unpredictable bytes of the operating system; `fraction` is for jitter only. */
export function realRandom(): Random {
  return {
    // A copy: small buffers of node:crypto may be slices of a shared pool.
    bytes: (count) => new Uint8Array(randomBytes(count)),
    fraction: () => Math.random(),
  }
}
