import type { Log } from '../../log.js'
import type { Codec } from '../../model/codec.js'
import { StratalogError } from '../../model/errors.js'
import type { ReadOptions, Stream } from '../../stream.js'
import type { DemoEvent, DemoStream } from './source.js'

const utf8 = new TextDecoder()
const events: Codec<DemoEvent> = {
  encode: (event) => event.payload,
  decode: (payload) => ({ txid: 0n, payload: utf8.decode(payload) }),
}

/** A stream whose values are events. */
export function eventStream(log: Log, name: string): Stream<DemoEvent> {
  return log.stream(name, { codec: events })
}

/** What a read gave, by tier. */
export interface ReadBack {
  readonly records: number
  readonly hot: number
  readonly cold: number
}

/**
 * Reads a range and compares every record with the events from number `first` on: payload, txid and place in the
 * stream. A difference is `corrupt`. `expected`: how many there must be; null: as many as there are.
 */
export async function readAndCompare(
  log: Log,
  source: DemoStream,
  range: ReadOptions & { readonly onGap?: 'throw' },
  first: number,
  expected: number | null,
): Promise<ReadBack> {
  const records = eventStream(log, source.name).read(range)
  let at = first
  for await (const record of records) {
    const event = source.events[at]
    const same =
      event !== undefined &&
      record.sequenceId === BigInt(at) &&
      record.txid === event.txid &&
      record.value.payload === event.payload
    if (!same)
      throw different(source.name, `${record.dlsn} is not event ${at} of the source`, event, record.value)
    at += 1
  }
  const found = at - first
  if (expected !== null && found !== expected) {
    throw different(source.name, `${expected} records were to be read and ${found} came`, expected, found)
  }
  return { records: found, hot: records.counts.hot, cold: records.counts.cold }
}

/** How many events of the source a log holds already, each of them compared. */
export async function eventsThere(log: Log, source: DemoStream, signal: AbortSignal): Promise<number> {
  if ((await log.streams.find(source.name)) === null) return 0
  const { records } = await readAndCompare(log, source, { signal }, 0, null)
  return records
}

function different(stream: string, why: string, expected: unknown, found: unknown): StratalogError {
  return new StratalogError('corrupt', `${stream} differs from what was appended: ${why}`, {
    expected,
    found,
  })
}
