import { isStratalogError, StratalogError } from '../model/errors.js'
import type { ProducerRecord } from '../model/producer.js'
import { PAYLOAD_BYTES_MAX, TXID_MAX } from '../model/record.js'

/** What an append depends on, beside its record. */
export interface AppendConditions {
  /** The last record of the stream has this sequenceId, or there is none. Null: whatever it is. */
  readonly ifTail: bigint | 'empty' | null
  /** The writer is still the one that gave this token. Null: whoever it is. */
  readonly fence: bigint | null
  readonly producer: ProducerRecord | null
  /** Record bytes that come together with this one and are taken or refused with it; null: it comes alone. */
  readonly togetherBytes: number | null
}

/** Why a record can't be in a stream whose last txid is that; null if it can. */
export function refuseRecord(
  name: string,
  payloadBytes: number,
  txid: bigint,
  lastTxid: bigint,
): StratalogError | null {
  if (payloadBytes > PAYLOAD_BYTES_MAX) {
    return new StratalogError(
      'record_too_large',
      `a record of ${payloadBytes} bytes can't be appended to ${name}: ${PAYLOAD_BYTES_MAX} are the limit; split it`,
      { expected: PAYLOAD_BYTES_MAX, found: payloadBytes },
    )
  }
  if (txid < 0n || txid >= TXID_MAX) {
    return new StratalogError(
      'txid_out_of_range',
      `txid ${txid} can't be used in ${name}: it must lie in 0 … 2^63−2`,
      { found: txid },
    )
  }
  if (txid < lastTxid) {
    return new StratalogError(
      'txid_not_monotonic',
      `txid ${txid} is below ${lastTxid}, the last one of ${name}: txids must not go back`,
      { expected: lastTxid, found: txid },
    )
  }
  return null
}

/** The append came with the token of a writer that is gone. */
export function refuseFence(
  name: string,
  fence: bigint,
  epoch: bigint,
  tail: bigint | 'empty',
): StratalogError {
  return new StratalogError(
    'fenced',
    `fence ${fence} of ${name} is not valid any more (${epoch} is): another took the stream over; read on from what it appended, then call fence() again`,
    { expected: fence, found: epoch, details: { tail: tail.toString() } },
  )
}

/** The stream does not end where the append expects it to. */
export function refuseTail(name: string, ifTail: bigint | 'empty', tail: bigint | 'empty'): StratalogError {
  const where = (at: bigint | 'empty') => (at === 'empty' ? 'empty' : `at sequenceId ${at}`)
  return new StratalogError(
    'conflict',
    `${name} is ${where(tail)} and the append expects it ${where(ifTail)}: read what is new and decide again`,
    { expected: ifTail, found: tail },
  )
}

/** More waits for the disks than may. */
export function refuseBytes(name: string, takenBytes: number, takenBytesMax: number): StratalogError {
  return new StratalogError(
    'backpressure',
    `${takenBytes} bytes of ${name} wait for their disks: await acknowledgements before appending more`,
    { retryable: true, expected: takenBytesMax, found: takenBytes },
  )
}

/** The stream takes nothing any more. */
export function finishedError(name: string, finishedMs: number | null): StratalogError {
  return new StratalogError(
    'stream_finished',
    `${name} is finished: nothing can be appended to it any more; append to another stream`,
    { found: finishedMs },
  )
}

/** What a writer fails with. */
export function asFailure(error: unknown, name: string): StratalogError {
  // A row of ours that changed under us, or an epoch above ours: somebody else has become the writer.
  if (isStratalogError(error, 'conflict')) {
    return new StratalogError('fenced', `another writer took over ${name}`, { cause: error })
  }
  if (error instanceof StratalogError) return error
  return new StratalogError('internal', `the writer of ${name} failed: ${String(error)}`, { cause: error })
}

/** Whether the stream can go on in another segment. Another's stream can't, and a bug of ours must not. */
export function mayGoOn(error: StratalogError): boolean {
  return error.code !== 'fenced' && error.code !== 'lease_lost' && error.code !== 'internal'
}
