import type { AppendOptions } from '../append/append-session.js'
import type { Log } from '../log.js'
import type { AppendConditionsDto, AppendRecord, AppendResult } from '../model/control-api.js'
import { StratalogError } from '../model/errors.js'
import { type Ack, PAYLOAD_BYTES_MAX, TXID_MAX } from '../model/record.js'
import { ackDto } from './dto.js'

/** Appends records that came together: all of them, or as many as there were before the one that failed. */
export async function appendRecords(
  log: Log,
  name: string,
  records: readonly AppendRecord[],
  conditions: AppendConditionsDto,
): Promise<AppendResult> {
  checkRecords(name, records)
  const stream = log.stream(name)
  const { resolved } = await log.policyOf(name)
  const results: PromiseSettledResult<Ack>[] = []
  let at = -1
  const send = ({ payload, txid }: AppendRecord) => {
    at += 1
    return stream.append(payload, {
      ...(txid === undefined ? {} : { txid }),
      ...conditionsAt(conditions, at),
    })
  }
  // Records go on their way together, but the first alone if it may be refused for its txid or for where the stream
  // ends: the ones behind it would be taken, and the stream would lack what stood before them.
  const [first, ...others] = records
  const { ifTail, fence } = conditions
  const refusable = first?.txid !== undefined || ifTail !== undefined || fence !== undefined
  const alone = refusable && others.length > 0
  if (first !== undefined && alone) results.push(...(await Promise.allSettled([send(first)])))
  if (results[0]?.status !== 'rejected')
    results.push(...(await Promise.allSettled((alone ? others : records).map(send))))

  const index = results.findIndex((result) => result.status === 'rejected')
  const failure = results[index]
  const acks = results.flatMap((result) => (result.status === 'fulfilled' ? [ackDto(result.value)] : []))
  if (failure?.status === 'rejected' && acks.length === 0 && index === 0) throw failure.reason
  const row = await log.streams.find(name)
  return {
    acks,
    failed: failure?.status === 'rejected' ? { index, error: failure.reason as Error } : null,
    copiesWanted: resolved.policy.quorum.copies,
    txid: row?.txidMode ?? 'ms',
  }
}

/** What the record at that place depends on: the tail is looked at for the first alone. */
function conditionsAt({ producer, ifTail, fence }: AppendConditionsDto, at: number): AppendOptions {
  return {
    ...(fence === undefined ? {} : { fence }),
    ...(ifTail === undefined || at > 0 ? {} : { ifTail }),
    ...(producer === undefined ? {} : { producer: producer.id, sequence: producer.sequence + BigInt(at) }),
  }
}

/** Refuses what can't be appended before any of it is. */
function checkRecords(name: string, records: readonly AppendRecord[]): void {
  let last: bigint | null = null
  for (const [index, { payload, txid }] of records.entries()) {
    const refuse = (
      code: 'record_too_large' | 'txid_out_of_range' | 'txid_not_monotonic',
      why: string,
      expected: unknown,
      found: unknown,
    ) =>
      new StratalogError(
        code,
        `record ${index + 1} of ${records.length} sent together to ${name} can't be appended, and none was: ${why}`,
        {
          expected,
          found,
          details: { index },
        },
      )
    if (payload.byteLength > PAYLOAD_BYTES_MAX) {
      throw refuse(
        'record_too_large',
        `it has ${payload.byteLength} bytes, ${PAYLOAD_BYTES_MAX} are the limit`,
        PAYLOAD_BYTES_MAX,
        payload.byteLength,
      )
    }
    if (txid === undefined) continue
    if (txid < 0n || txid >= TXID_MAX)
      throw refuse('txid_out_of_range', `txid ${txid} must lie in 0 … 2^63−2`, undefined, txid)
    if (last !== null && txid < last)
      throw refuse(
        'txid_not_monotonic',
        `txid ${txid} is below ${last}, that of a record before it: sort by txid`,
        last,
        txid,
      )
    last = txid
  }
}
