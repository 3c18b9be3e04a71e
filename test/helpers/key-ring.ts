import { ArchiveKeys, attachKeys, type KeyRings, noRing } from '../../archive/keys.js'
import { openSecret, sealSecret } from '../../src/format/envelope.js'
import { StratalogError } from '../../src/model/errors.js'
import type { ArchiveStore } from '../../src/ports/archive-store.js'
import type { KeyRing } from '../../src/ports/key-ring.js'
import { countingRandom, fixedClock } from './archive.js'

/** A ring in memory whose keys a test may take away or change. */
export class MemoryRing implements KeyRing {
  readonly id: string
  readonly location = 'memory'
  readonly secrets: Map<string, Uint8Array>
  readonly #random = countingRandom('ring')
  unwraps = 0

  constructor(id: string, ...keys: string[]) {
    this.id = id
    this.secrets = new Map(keys.map((key, i) => [key, new Uint8Array(32).fill(i + id.length)]))
  }

  async keys(): Promise<{ id: string; createdMs: number }[]> {
    return [...this.secrets.keys()].map((id) => ({ id, createdMs: 1 }))
  }

  async wrap(keyId: string, secret: Uint8Array, context: string): Promise<Uint8Array> {
    return sealSecret(this.#key(keyId), this.#random.bytes(12), secret, context)
  }

  async unwrap(keyId: string, wrapped: Uint8Array, context: string): Promise<Uint8Array> {
    this.unwraps += 1
    const secret = openSecret(this.#key(keyId), wrapped, context)
    if (secret === null) throw new StratalogError('key_wrong', `${keyId} is another key`)
    return secret
  }

  #key(keyId: string): Uint8Array {
    const key = this.secrets.get(keyId)
    if (key === undefined) throw new StratalogError('key_missing', `the ring has no ${keyId}`)
    return key
  }
}

/** Keys of an archive from rings in memory, which belong to its store from now on. */
export function keysWith(store: ArchiveStore, ...rings: KeyRing[]): ArchiveKeys {
  const all: KeyRings = {
    named: async (id) => {
      const found = rings.find((ring) => ring.id === id)
      if (found === undefined) throw noRing(id)
      return found
    },
    known: async () => ({ rings, missing: [] }),
  }
  const clock = fixedClock({ nowMs: 1_700_000_000_000 })
  const keys = new ArchiveKeys({ store, rings: all, random: countingRandom('keys'), clock })
  attachKeys(store, keys)
  return keys
}
