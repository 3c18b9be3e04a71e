import type { Log } from '../../src/log.js'
import { isStratalogError } from '../../src/model/errors.js'

/*
 * What a program that may die leaves behind for whoever judges: a line for each acknowledgement, and payloads that
 * tell which attempt they are. An append that failed may or may not be in the log, so records are not numbered but
 * attempts are: read in order, attempts only go up (invariant 2), and each that was acknowledged is where the
 * acknowledgement said (invariant 1).
 */

/** One append that was acknowledged. */
export interface Acknowledged {
  readonly stream: string
  readonly attempt: number
  readonly sequenceId: bigint
  readonly dlsn: string
}

/** The payload of one attempt: its name, and filler of that attempt alone up to about `bytes`. */
export function attemptPayload(stream: string, attempt: number, bytes: number): string {
  const unit = `${stream}#${attempt};`
  return `${bytes} ${unit.repeat(Math.max(1, Math.ceil(bytes / unit.length)))}`
}

/** A line for an acknowledgement. */
export function acknowledgedLine(ack: Acknowledged): string {
  return `A ${ack.stream} ${ack.attempt} ${ack.sequenceId} ${ack.dlsn}`
}

/** The acknowledgements in what a program said; a last line that was cut off does not count. */
export function acknowledgedIn(said: string): Acknowledged[] {
  return said
    .split('\n')
    .slice(0, -1)
    .filter((line) => line.startsWith('A '))
    .map((line) => {
      const [, stream = '', attempt = '', sequenceId = '', dlsn = ''] = line.split(' ')
      return { stream, attempt: Number(attempt), sequenceId: BigInt(sequenceId), dlsn }
    })
}

/**
 * Reads every stream from its first record on and throws at the first record that is not what was appended, or is
 * not there although it was acknowledged. Returns how many records there are.
 */
export async function witness(log: Log, acknowledged: readonly Acknowledged[]): Promise<number> {
  const byStream = new Map<string, Map<bigint, Acknowledged>>()
  for (const ack of acknowledged) {
    const acks = byStream.get(ack.stream) ?? new Map<bigint, Acknowledged>()
    byStream.set(ack.stream, acks.set(ack.sequenceId, ack))
  }
  let records = 0
  for (const [stream, acks] of byStream) records += await witnessStream(log, stream, acks)
  return records
}

async function witnessStream(
  log: Log,
  stream: string,
  acks: ReadonlyMap<bigint, Acknowledged>,
): Promise<number> {
  let next = 0n
  let found = 0
  let lastAttempt = -1
  try {
    for await (const { sequenceId, payload, dlsn } of log.stream(stream).read({ from: 'earliest' })) {
      if (sequenceId !== next) throw new Error(`${stream}: record ${sequenceId} comes where ${next} should`)
      next += 1n
      const attempt = attemptOf(stream, Buffer.from(payload).toString())
      if (attempt <= lastAttempt) throw new Error(`${stream}: attempt ${attempt} comes after ${lastAttempt}`)
      lastAttempt = attempt
      const ack = acks.get(sequenceId)
      if (ack === undefined) continue
      if (ack.attempt !== attempt || ack.dlsn !== dlsn.toString()) {
        throw new Error(`${stream}: attempt ${attempt} at ${dlsn}, and ${acknowledgedLine(ack)} was told`)
      }
      found += 1
    }
  } catch (error) {
    if (!isStratalogError(error, 'stream_not_found')) throw error
  }
  if (found < acks.size) {
    throw new LostError(`${stream}: ${acks.size} records were acknowledged, ${found} of them are there`)
  }
  return Number(next)
}

/** Records that were acknowledged are gone: what a negative control waits for. */
export class LostError extends Error {}

/** Which attempt a payload is; throws where a byte of it is not of that attempt. */
function attemptOf(stream: string, text: string): number {
  const match = /^(\d+) ([^#]+)#(\d+);/.exec(text)
  const attempt = Number(match?.[3])
  if (match?.[2] === stream && text === attemptPayload(stream, attempt, Number(match[1]))) return attempt
  throw new Error(`${stream}: a payload nobody appended: ${text.slice(0, 80)}`)
}
