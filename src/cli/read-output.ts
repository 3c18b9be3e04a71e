import type { ReadPart, ReadRecord } from '../model/control-api.js'
import { formatTime } from '../model/units.js'
import type { CliIo } from './io.js'
import { payloadLine, plural, printable, textOf } from './render.js'

/** What a read has printed. */
export interface ReadSummary {
  readonly records: number
  readonly gaps: number
}

/**
 * Prints the parts of a read: a line for each record (`raw`: the payload alone and a line feed), and on stderr what
 * instants were used and from which tiers the records came.
 */
export async function printParts(
  io: CliIo,
  parts: AsyncIterable<ReadPart>,
  options: { readonly raw: boolean; readonly quiet?: boolean },
): Promise<ReadSummary> {
  let txid: 'ms' | 'custom' = 'ms'
  let records = 0
  let gaps = 0
  let instants: string[] = []
  for await (const part of parts) {
    switch (part.type) {
      case 'begin': {
        txid = part.txid
        instants = instantsOf(part)
        break
      }
      case 'records': {
        records += part.records.length
        await io.write(
          options.raw
            ? rawBytes(part.records)
            : part.records.map((record) => `${recordText(io, record, txid, part.tier)}\n`).join(''),
        )
        break
      }
      case 'gap': {
        gaps += 1
        const { gap, from, until } = part.gap
        if (io.json) await io.value(part.gap)
        else io.note(`gap ${gap}: ${from} until ${until}`)
        break
      }
      case 'end': {
        if (options.quiet !== true)
          io.note(`(${[...instants, plural(records, 'record'), ...tiersOf(part.hot, part.cold)].join(', ')})`)
      }
    }
    // Nobody reads on: neither should we.
    if (io.signal.aborted && part.type !== 'end') break
  }
  return { records, gaps }
}

function instantsOf(part: Extract<ReadPart, { type: 'begin' }>): string[] {
  const named = [
    ['from', part.fromMs],
    ['after', part.afterMs],
    ['until', part.untilMs],
  ] as const
  return named.flatMap(([word, ms]) => (ms === null ? [] : [`${word} ${formatTime(ms)}`]))
}

function tiersOf(hot: number, cold: number): string[] {
  if (hot === 0 && cold === 0) return []
  if (hot === 0 || cold === 0) return [hot === 0 ? 'cold' : 'hot']
  return [`cold ${plural(cold, '').trim()} · hot ${plural(hot, '').trim()}`]
}

function recordText(io: CliIo, record: ReadRecord, txid: 'ms' | 'custom', tier: string): string {
  const { dlsn, sequenceId, payload } = record
  const time = txid === 'ms' ? formatTime(Number(record.txid)) : null
  if (io.json) {
    const text = textOf(payload)
    const content =
      text === null ? { payloadBase64: Buffer.from(payload).toString('base64') } : { payload: text }
    return JSON.stringify({
      dlsn,
      sequenceId,
      txid: record.txid,
      ...(time === null ? {} : { time }),
      tier,
      ...content,
    })
  }
  return `${io.colors.cyan(dlsn)}  ${io.colors.dim(time === null ? `txid ${printable(record.txid)}` : time)}  ${payloadLine(payload)}`
}

const LINE_FEED = Buffer.from('\n')

function rawBytes(records: readonly ReadRecord[]): Uint8Array {
  return Buffer.concat(records.flatMap((record) => [record.payload, LINE_FEED]))
}
