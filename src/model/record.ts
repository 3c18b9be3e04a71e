import type { Dlsn } from './dlsn.js'

/** Largest record in bytes, its 20-byte header included (DistributedLog: 1 MiB − 8 KiB; FORMATS.md §5.5). */
export const RECORD_BYTES_MAX: number = 1_040_384
/** Largest un-enveloped entry in bytes (DistributedLog: 1 MiB − 4 KiB). */
export const ENTRY_BYTES_MAX: number = 1_044_480
/** Bytes a record takes beside its payload: metadata, txid, length. */
export const RECORD_HEADER_BYTES: number = 20
/** Largest payload in bytes. */
export const PAYLOAD_BYTES_MAX: number = RECORD_BYTES_MAX - RECORD_HEADER_BYTES
/** txid of the end-of-stream record; application txids lie below. */
export const TXID_MAX: bigint = 2n ** 63n - 1n

/** One record as a reader gets it. */
export interface LogRecord<T = Uint8Array> {
  readonly dlsn: Dlsn
  /** The application's own non-decreasing number; with `txid: 'ms'` milliseconds since the epoch. */
  readonly txid: bigint
  /** Dense number of the record in its stream, from 0. */
  readonly sequenceId: bigint
  /** What the codec made of the payload; without a codec the payload itself. */
  readonly value: T
  /** The payload's bytes. A view into a larger buffer: copy it to keep it beyond the next iteration cheaply. */
  readonly payload: Uint8Array
}

/** A committed statement that a range of a stream is not to be had. */
export interface Gap {
  readonly gap: 'trimmed' | 'dropped' | 'corrupt' | 'purged'
  readonly from: Dlsn
  readonly until: Dlsn
  readonly firstSequenceId: bigint | null
  readonly lastSequenceId: bigint | null
}

/** What one acknowledged append says. */
export interface Ack {
  readonly dlsn: Dlsn
  readonly sequenceId: bigint
  readonly txid: bigint
  /** When the log took the record, milliseconds since the epoch. */
  readonly time: number
  /** Segment stores that hold the record durably at the moment of the acknowledgement. */
  readonly copies: number
  readonly duplicate: boolean
}
