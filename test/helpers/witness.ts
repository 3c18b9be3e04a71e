import type { Log } from '../../src/log.js'
import { Dlsn } from '../../src/model/dlsn.js'
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
 * not there although it was acknowledged. Of streams in `ended`, records may be absent that a trim or a committed gap
 * covers (invariant 1). Returns how many records there are.
 */
export async function witness(
  log: Log,
  acknowledged: readonly Acknowledged[],
  ended: ReadonlySet<string> = new Set(),
): Promise<number> {
  const byStream = new Map<string, Map<bigint, Acknowledged>>()
  for (const ack of acknowledged) {
    const acks = byStream.get(ack.stream) ?? new Map<bigint, Acknowledged>()
    byStream.set(ack.stream, acks.set(ack.sequenceId, ack))
  }
  let records = 0
  for (const [stream, acks] of byStream) {
    const unread = await witnessStream(log, stream, acks, ended.has(stream))
    records += unread.records
    const lost = unread.absent.filter(({ dlsn }) => !unread.covered(Dlsn.parse(dlsn)))
    if (lost.length === 0) continue
    const [first] = lost
    throw new LostError(
      `${stream}: of ${acks.size} records that were acknowledged ${lost.length} are not there, as ${first?.dlsn}`,
    )
  }
  return records
}

interface Unread {
  readonly records: number
  readonly absent: readonly Acknowledged[]
  readonly covered: (dlsn: Dlsn) => boolean
}

async function witnessStream(
  log: Log,
  stream: string,
  acks: ReadonlyMap<bigint, Acknowledged>,
  ended: boolean,
): Promise<Unread> {
  const absent = new Map(acks)
  const gaps: { from: Dlsn; until: Dlsn }[] = []
  let trimmedBelow: Dlsn | null = null
  let next: bigint | null = 0n
  let records = 0
  let lastAttempt = -1
  try {
    if (ended) trimmedBelow = (await log.stream(stream).info()).trimmedBelow
    // A record that a trim ended may be the last of an entry that is half there: what comes first is the first.
    if (trimmedBelow !== null) next = null
    for await (const part of log.stream(stream).read({ from: 'earliest', onGap: 'yield' })) {
      if ('gap' in part) {
        if (!ended) throw new Error(`${stream}: a gap (${part.gap}) from ${part.from} until ${part.until}`)
        gaps.push(part)
        next = null
        continue
      }
      const { sequenceId, payload, dlsn } = part
      if (next !== null && sequenceId !== next)
        throw new Error(`${stream}: record ${sequenceId} comes where ${next} should`)
      next = sequenceId + 1n
      records += 1
      const attempt = attemptOf(stream, Buffer.from(payload).toString())
      if (attempt <= lastAttempt) throw new Error(`${stream}: attempt ${attempt} comes after ${lastAttempt}`)
      lastAttempt = attempt
      const ack = acks.get(sequenceId)
      if (ack === undefined) continue
      if (ack.attempt !== attempt || ack.dlsn !== dlsn.toString()) {
        throw new Error(`${stream}: attempt ${attempt} at ${dlsn}, and ${acknowledgedLine(ack)} was told`)
      }
      absent.delete(sequenceId)
    }
  } catch (error) {
    if (!isStratalogError(error, 'stream_not_found')) throw error
    if (ended) return { records, absent: [], covered: () => true }
  }
  const trimmed = (dlsn: Dlsn) => trimmedBelow !== null && dlsn.compare(trimmedBelow) < 0
  const inGap = (dlsn: Dlsn) =>
    gaps.some(({ from, until }) => dlsn.compare(from) >= 0 && dlsn.compare(until) < 0)
  return { records, absent: [...absent.values()], covered: (dlsn) => trimmed(dlsn) || inGap(dlsn) }
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
