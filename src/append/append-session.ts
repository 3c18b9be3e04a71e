import { Buffer } from 'node:buffer'
import type { Dlsn } from '../model/dlsn.js'
import { StratalogError } from '../model/errors.js'
import { checkProducer } from '../model/producer.js'
import { type Ack, PAYLOAD_BYTES_MAX, RECORD_HEADER_BYTES, TXID_MAX } from '../model/record.js'
import type { Waiter } from './batch.js'
import type { AppendConditions } from './refusals.js'

/** Records an `appendAll` session has under way at most. */
const SESSION_RECORDS_MAX = 8_192
/** Payload bytes an `appendAll` session has under way at most. */
const SESSION_BYTES_MAX = 8 * 1024 * 1024
/** Record bytes of one batch at most. */
const BATCH_BYTES_MAX = 8 * 1024 * 1024

/** On what an append depends. */
export interface ConditionOptions {
  /** The stream's last record must have this sequenceId, or there must be none; else `conflict` says where it ends. */
  readonly ifTail?: bigint | 'empty'
  /** The token that `fence()` gave; `fenced` once another took the stream over. */
  readonly fence?: bigint
}

/** How a record is appended. */
export interface AppendOptions extends ConditionOptions {
  /** A position of your own, not below the last one. Default: max(last, now in milliseconds). */
  readonly txid?: bigint
  /**
   * Who appends: a record of the same producer with the same or a lower `sequence` is not appended again, for as long
   * as the history lasts that shows it. A retry of a record that was trimmed meanwhile is appended as a new one.
   */
  readonly producer?: string
  /**
   * The producer's own number of this record; numbers grow, with or without gaps. Send them in order: one that was
   * refused counts as appended once a higher one was.
   */
  readonly sequence?: bigint
}

/** How a batch is appended. */
export interface AppendBatchOptions<T> extends ConditionOptions {
  /** The txid of each value; not below the one before. */
  readonly txid?: (value: T) => bigint
  readonly producer?: string
  /** The producer's number of the first record; those behind it count on. */
  readonly sequence?: bigint
}

/** How the values of an iterable are appended. */
export interface AppendAllOptions<T> {
  /** The txid of each value; not below the one before. */
  readonly txid?: (value: T) => bigint
  /** Names the session: run again with the same values it appends only those that are not there yet. */
  readonly producer?: string
  /** The producer's own growing number of each value. Default: its index in the session. */
  readonly sequence?: (value: T) => bigint
  /** As for `append`. */
  readonly fence?: bigint
  readonly signal?: AbortSignal
  /** Called now and then with what is durable so far. */
  readonly onProgress?: (done: { count: number; bytes: number }) => void
}

/** What an `appendAll` session wrote. */
export interface AppendSummary {
  /** First record that this session appended; null: none, or all were there already. */
  readonly first: Dlsn | null
  /** Last record of the session, also where it was there already; null for no record. */
  readonly last: Dlsn | null
  readonly count: number
  readonly bytes: number
  /** Records of the session that were there already. */
  readonly duplicates: number
  /** Whether all of them were. */
  readonly duplicate: boolean
}

/** What an acknowledged batch says; of one that was there already `first` is null. */
export interface BatchAck {
  readonly first: Dlsn | null
  readonly last: Dlsn | null
  readonly count: number
  readonly duplicate: boolean
}

/** One record of a batch, checked. */
export interface BatchRecord {
  readonly payload: Uint8Array | string
  readonly txid: bigint | null
  readonly conditions: AppendConditions | null
}

/** What `append` was told, checked; null for the plain append that most are. Throws `invalid_argument`. */
export function conditionsOf(options: AppendOptions): AppendConditions | null {
  const { ifTail, fence, producer, sequence } = options
  if (ifTail === undefined && fence === undefined && producer === undefined && sequence === undefined)
    return null
  return {
    ...checkConditions(options),
    producer: producer === undefined && sequence === undefined ? null : checkProducer(producer, sequence),
    togetherBytes: null,
  }
}

/** The same for the records of a session, one after another. */
export function sessionConditions<T>(options: AppendAllOptions<T>): (value: T) => AppendConditions | null {
  const { producer, sequence } = options
  const fixed = conditionsOf(options.fence === undefined ? {} : { fence: options.fence })
  if (producer === undefined) {
    if (sequence !== undefined) throw sequenceAlone()
    return () => fixed
  }
  let index = 0n
  return (value) => {
    const number = sequence === undefined ? index : sequence(value)
    index += 1n
    return {
      ifTail: null,
      fence: fixed?.fence ?? null,
      producer: checkProducer(producer, number),
      togetherBytes: null,
    }
  }
}

/**
 * The records of a batch with what each depends on, all checked before the first is taken: the tail is looked at for
 * the first alone, and room is asked for once, so that a batch is taken as a whole or not at all. The bytes are
 * copied: they wait for the writer while the values are the caller's again.
 */
export function batchOf<T>(
  values: readonly T[],
  options: AppendBatchOptions<T>,
  encode: (value: T) => Uint8Array | string,
): BatchRecord[] {
  const { producer, sequence, txid } = options
  if (producer === undefined && sequence !== undefined) throw sequenceAlone()
  const conditions = checkConditions(options)
  const records = values.map((value, at) => ({
    payload: checkPayload(encode(value)),
    txid: txid === undefined ? null : checkTxid(txid(value)),
    conditions: {
      ...conditions,
      ...(at === 0 ? {} : { ifTail: null }),
      producer: producer === undefined ? null : checkProducer(producer, (sequence ?? 0n) + BigInt(at)),
    },
  }))
  const togetherBytes = checkTogether(records)
  return records.map((record, at) => ({
    ...record,
    // `slice` would not do: that of a Buffer shares the bytes.
    payload: typeof record.payload === 'string' ? record.payload : new Uint8Array(record.payload),
    conditions: { ...record.conditions, togetherBytes: at === 0 ? togetherBytes : 0 },
  }))
}

function checkConditions(options: ConditionOptions): {
  ifTail: bigint | 'empty' | null
  fence: bigint | null
} {
  const { ifTail, fence } = options
  if (ifTail !== undefined && ifTail !== 'empty' && typeof ifTail !== 'bigint') {
    throw new StratalogError(
      'invalid_argument',
      `ifTail ${String(ifTail)} is no sequenceId: use a bigint or 'empty'`,
      {
        found: ifTail,
      },
    )
  }
  if (fence !== undefined && typeof fence !== 'bigint') {
    throw new StratalogError(
      'invalid_argument',
      `fence ${String(fence)} is no token: use the bigint that fence() gave`,
      {
        found: fence,
      },
    )
  }
  return { ifTail: ifTail ?? null, fence: fence ?? null }
}

/** Bytes of a batch, once all of its records can be in one stream. */
function checkTogether(records: readonly { payload: Uint8Array | string; txid: bigint | null }[]): number {
  let last = -1n
  let together = 0
  for (const [index, { payload, txid }] of records.entries()) {
    const bytes = payloadBytes(payload)
    together += RECORD_HEADER_BYTES + bytes
    const at = `record ${index + 1} of ${records.length} can't be appended, and none was: `
    if (bytes > PAYLOAD_BYTES_MAX) {
      const why = `it has ${bytes} bytes, ${PAYLOAD_BYTES_MAX} are the limit`
      throw new StratalogError('record_too_large', at + why, { expected: PAYLOAD_BYTES_MAX, found: bytes })
    }
    if (txid === null) continue
    if (txid < 0n || txid >= TXID_MAX)
      throw new StratalogError('txid_out_of_range', `${at}txid ${txid} must lie in 0 … 2^63−2`, {
        found: txid,
      })
    if (txid < last)
      throw new StratalogError('txid_not_monotonic', `${at}txid ${txid} is below ${last}, the one before`, {
        expected: last,
        found: txid,
      })
    last = txid
  }
  if (together <= BATCH_BYTES_MAX) return together
  throw new StratalogError(
    'invalid_argument',
    `a batch of ${together} bytes is too large, ${BATCH_BYTES_MAX} are the limit: use appendAll`,
    { expected: BATCH_BYTES_MAX, found: together },
  )
}

function sequenceAlone(): StratalogError {
  return new StratalogError(
    'invalid_argument',
    'a sequence counts the records of a producer: name the producer',
  )
}

function payloadBytes(payload: Uint8Array | string): number {
  return typeof payload === 'string' ? Buffer.byteLength(payload) : payload.byteLength
}

/** Counts what one `appendAll` has under way and remembers its first failure. */
export class AppendSession {
  readonly #onProgress: AppendAllOptions<unknown>['onProgress']
  #count = 0
  #done = 0
  #underWayBytes = 0
  #doneBytes = 0
  #first: Ack | null = null
  #last: Ack | null = null
  #duplicates = 0
  #failure: Error | null = null
  #wake: (() => void) | null = null

  constructor(onProgress?: AppendAllOptions<unknown>['onProgress']) {
    this.#onProgress = onProgress
  }

  take(payload: Uint8Array | string): Waiter {
    const bytes = payloadBytes(payload)
    this.#count += 1
    this.#underWayBytes += bytes
    return {
      resolve: (ack) => {
        this.#done += 1
        this.#underWayBytes -= bytes
        this.#doneBytes += bytes
        if (ack.duplicate) this.#duplicates += 1
        else this.#first ??= ack
        this.#last = ack
        this.#wakeUp()
      },
      reject: (error) => {
        this.#done += 1
        this.#underWayBytes -= bytes
        this.#failure ??= error
        this.#wakeUp()
      },
    }
  }

  get full(): boolean {
    return this.#count - this.#done >= SESSION_RECORDS_MAX || this.#underWayBytes >= SESSION_BYTES_MAX
  }

  throwIfFailed(): void {
    if (this.#failure !== null) throw this.#failure
  }

  /** Waits for room; rejects with the signal's reason, which ends the wait alone: what was taken goes on. */
  async room(signal?: AbortSignal): Promise<void> {
    // Half of the window at a time: a wake-up for each record would cost more than the record.
    while (
      this.#failure === null &&
      (this.#count - this.#done > SESSION_RECORDS_MAX / 2 || this.#underWayBytes > SESSION_BYTES_MAX / 2)
    ) {
      signal?.throwIfAborted()
      await this.#nextAck(signal)
    }
    this.#onProgress?.({ count: this.#done, bytes: this.#doneBytes })
    this.throwIfFailed()
  }

  async finish(): Promise<AppendSummary> {
    while (this.#done < this.#count) await this.#nextAck()
    this.throwIfFailed()
    this.#onProgress?.({ count: this.#done, bytes: this.#doneBytes })
    return {
      first: this.#first?.dlsn ?? null,
      last: this.#last?.dlsn ?? null,
      count: this.#count,
      bytes: this.#doneBytes,
      duplicates: this.#duplicates,
      duplicate: this.#count > 0 && this.#duplicates === this.#count,
    }
  }

  #nextAck(signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        signal?.removeEventListener('abort', wake)
        resolve()
      }
      signal?.addEventListener('abort', wake, { once: true })
      this.#wake = wake
    })
  }

  #wakeUp(): void {
    this.#wake?.()
    this.#wake = null
  }
}

/** What a codec made, if it can be a payload. */
export function checkPayload(payload: Uint8Array | string): Uint8Array | string {
  if (typeof payload === 'string' || payload instanceof Uint8Array) return payload
  const what = payload === null ? 'null' : `a ${typeof payload}`
  throw new StratalogError(
    'invalid_argument',
    `${what} can't be appended: give text or bytes, or use a codec, as json()`,
  )
}

/** A txid, or null for none. */
export function checkTxid(txid: bigint | undefined): bigint | null {
  if (txid === undefined) return null
  if (typeof txid !== 'bigint') {
    throw new StratalogError(
      'txid_out_of_range',
      `txid ${String(txid)} is a ${typeof txid}: use a bigint, as ${String(txid)}n`,
      { found: txid },
    )
  }
  return txid
}
