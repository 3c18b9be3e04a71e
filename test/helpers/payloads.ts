import { createHash } from 'node:crypto'
import { present } from '../../src/model/assert.js'

/** How a payload follows from its number: `text` compresses well, `random` does not. */
export type PayloadKind = 'text' | 'random'

/** The payload with that number, as test/java/Payloads.java makes it. */
export function makePayload(kind: PayloadKind, number: bigint, size: number): Buffer {
  if (kind === 'text') return Buffer.alloc(size, `number ${number} of many; `)
  const payload = Buffer.allocUnsafe(size)
  let state = Number(BigInt.asIntN(32, number))
  for (let i = 0; i < size; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    payload[i] = state >>> 24
  }
  return payload
}

/** A digest over payloads with where they are, as test/java/Payloads.java makes it. */
export class PayloadDigest {
  readonly #hash = createHash('sha256')
  count = 0
  bytes = 0

  /** Ledgers: the entry's id. Streams: segment, entry, slot, txid. */
  add(payload: Uint8Array, ...place: readonly bigint[]): void {
    const head = Buffer.alloc(8 * place.length + 4)
    for (const i of place.keys()) head.writeBigInt64BE(present(place[i], 'a number'), 8 * i)
    head.writeInt32BE(payload.length, 8 * place.length)
    this.#hash.update(head).update(payload)
    this.count++
    this.bytes += payload.length
  }

  /** Closes the digest. */
  hex(): string {
    return this.#hash.digest('hex')
  }
}
