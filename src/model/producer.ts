import type { Dlsn } from './dlsn.js'
import { StratalogError } from './errors.js'

/** Producers a stream remembers; beyond it the one that appended least recently is forgotten. */
export const PRODUCERS_MAX: number = 1_000
/** Longest producer id, in bytes of UTF-8. */
export const PRODUCER_ID_BYTES_MAX: number = 128
/** Highest sequence number of a producer. */
export const PRODUCER_SEQUENCE_MAX: bigint = 2n ** 63n - 1n

/** What a stream knows of a producer: its last record, and where that is. */
export interface ProducerState {
  readonly id: string
  /** The producer's own number of its last record; records up to it are duplicates. */
  readonly sequence: bigint
  readonly dlsn: Dlsn
  readonly sequenceId: bigint
  readonly txid: bigint
  /** When the log took it. */
  readonly timeMs: number
}

/** Who appends, and the number it gives the record: one that was appended already is not appended again. */
export interface ProducerRecord {
  readonly id: string
  readonly sequence: bigint
}

/** Checks what a caller says of its producer. Throws `invalid_argument`. */
export function checkProducer(id: unknown, sequence: unknown): ProducerRecord {
  const bytes = new TextEncoder().encode(typeof id === 'string' ? id : '')
  const whole = new TextDecoder().decode(bytes) === id
  if (typeof id !== 'string' || !whole || bytes.length === 0 || bytes.length > PRODUCER_ID_BYTES_MAX) {
    throw new StratalogError(
      'invalid_argument',
      `${JSON.stringify(id)} can't name a producer: use text of 1 to ${PRODUCER_ID_BYTES_MAX} bytes`,
      { found: id },
    )
  }
  if (typeof sequence !== 'bigint' || sequence < 0n || sequence > PRODUCER_SEQUENCE_MAX) {
    throw new StratalogError(
      'invalid_argument',
      `producer ${id} gives a record the sequence ${String(sequence)}: give each record a bigint in 0 … 2^63−1 that grows`,
      { found: sequence },
    )
  }
  return { id, sequence }
}
