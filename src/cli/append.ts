import type { Command } from 'commander'
import type { AppendConditionsDto, AppendRecord, AppendResult, ControlApi } from '../model/control-api.js'
import { StratalogError } from '../model/errors.js'
import { formatTime } from '../model/units.js'
import type { CliIo } from './io.js'
import type { InputLine } from './lines.js'
import { plural } from './render.js'

interface Options {
  readonly message?: string
  readonly jsonLines?: boolean
  readonly txidField?: string
  readonly txid?: string
  readonly producer?: string
  readonly ifTail?: string
}

/** `stratalog append STREAM`. */
export function register(program: Command, io: CliIo): void {
  program
    .command('append')
    .argument('<stream>', 'where to; created if there is none and the policy allows it')
    .description('append lines of stdin, each a record (an empty line too), and print where they are')
    .option('--message <text>', 'append this one record instead of stdin')
    .option('--json-lines', 'refuse lines that are no JSON; blank lines are passed over')
    .option(
      '--txid-field <name>',
      'take the txid from this field of the JSON: a whole number or an ISO date (a.b for inner fields)',
    )
    .option('--txid <number>', 'give every record this txid')
    .option('--producer <id>', 'run again with the same input, append only the lines that are not there yet')
    .option('--if-tail <sequence>', 'append only if the stream ends there: a sequenceId, or empty')
    .addHelpText(
      'after',
      '\nA record is acknowledged (and printed) once it is on the disks of as many stores as quorum.ack says.' +
        '\n\nExamples:\n  echo hello | stratalog append greetings\n  stratalog append trades --json-lines --txid-field at < trades.ndjson' +
        '\n  stratalog read trades --raw | stratalog --dir ./other append trades',
    )
    .action(async (stream: string, options: Options) => append(io, stream, options))
}

async function append(io: CliIo, stream: string, options: Options): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  const { parseTxid } = await import('./args.js')
  checkStreamName(stream)
  if (options.txid !== undefined && options.txidField !== undefined)
    throw new StratalogError('usage', '--txid and --txid-field say the same thing twice: give one of them')
  const txid = options.txid === undefined ? null : parseTxid(options.txid, 'a txid', false)
  const toRecord = await recordMaker(options, txid)
  const ifTail = options.ifTail === undefined ? undefined : parseTail(options.ifTail, parseTxid)
  const { withLog } = await import('./connect.js')
  // The first lines are awaited before the log is opened: bad input should not leave a new directory behind.
  const batches = await inputBatches(io, options)
  const first = await batches.next()
  if (first.done === true) return
  let records = first.value.map(toRecord)
  await withLog(io, { create: 'create', lasting: options.message === undefined }, async ({ api }) => {
    let sequence = 0n
    for (let lines = first.value; ; ) {
      await appendBatch(io, api, stream, lines, records, {
        ...(options.producer === undefined ? {} : { producer: { id: options.producer, sequence } }),
        ...(ifTail === undefined || sequence > 0n ? {} : { ifTail }),
      })
      sequence += BigInt(records.length)
      const next = await batches.next()
      if (next.done === true) break
      lines = next.value
      records = lines.map(toRecord)
    }
  })
  // Input that ended because of Ctrl-C: what was acknowledged has been printed.
  io.signal.throwIfAborted()
}

/** A sequenceId, or `empty`. */
function parseTail(
  value: string,
  parse: (value: unknown, what: string, times: boolean) => bigint,
): bigint | 'empty' {
  return value === 'empty' ? value : parse(value, '--if-tail', false)
}

async function inputBatches(
  io: CliIo,
  options: Options,
): Promise<AsyncGenerator<InputLine[], void, undefined>> {
  const { lineBatches, oneLine, withoutBlank } = await import('./lines.js')
  if (options.message !== undefined) return oneLine(options.message)
  const batches = lineBatches(io.stdin, 'stdin', io.signal)
  if (!isJson(options)) return batches
  return withoutBlank(batches, (count) => {
    if (count > 0)
      io.note(`${plural(count, 'blank line')} passed over: between lines of JSON they mean nothing`)
  })
}

/** Whether every line has to be JSON. */
function isJson(options: Options): boolean {
  return options.jsonLines === true || options.txidField !== undefined
}

async function recordMaker(
  options: Options,
  txid: bigint | null,
): Promise<(line: InputLine) => AppendRecord> {
  const { fieldOf, parseTxid } = await import('./args.js')
  const { parseJsonLine } = await import('./lines.js')
  return (line) => {
    const value = isJson(options) ? parseJsonLine(line) : undefined
    if (options.txidField !== undefined) {
      return {
        payload: line.bytes,
        txid: parseTxid(
          fieldOf(value, options.txidField),
          `${line.where}, field "${options.txidField}"`,
          true,
        ),
      }
    }
    return txid === null ? { payload: line.bytes } : { payload: line.bytes, txid }
  }
}

async function appendBatch(
  io: CliIo,
  api: ControlApi,
  stream: string,
  lines: readonly InputLine[],
  records: readonly AppendRecord[],
  conditions: AppendConditionsDto,
): Promise<void> {
  let result: AppendResult
  try {
    result = await api.append(stream, records, conditions)
  } catch (error) {
    throw placed(error, lines[backwards(records)])
  }
  await io.write(result.acks.map((ack) => `${ackText(io, result, ack)}\n`).join(''))
  if (result.failed !== null) throw placed(result.failed.error, lines[result.failed.index])
}

function ackText(io: CliIo, result: AppendResult, ack: AppendResult['acks'][number]): string {
  const time = result.txid === 'ms' ? formatTime(Number(ack.txid)) : null
  if (io.json)
    return JSON.stringify({ ...ack, ...(time === null ? {} : { time }), copiesWanted: result.copiesWanted })
  const parts = [
    ack.dlsn,
    `txid ${ack.txid}`,
    ...(time === null ? [] : [time]),
    `durable ${ack.copies}/${result.copiesWanted}`,
  ]
  return parts.join('  ') + (ack.duplicate ? '  duplicate' : '')
}

/**
 * The first record with a txid below the one before it: for that one nothing of a batch is appended. Else the first
 * record, the only other one for which an append fails as a whole.
 */
function backwards(records: readonly AppendRecord[]): number {
  const found = records.findIndex(({ txid }, i) => {
    const before = records[i - 1]?.txid
    return txid !== undefined && before !== undefined && txid < before
  })
  return Math.max(found, 0)
}

/** The error with the line of the input it is about. */
function placed(error: unknown, line: InputLine | undefined): unknown {
  if (!(error instanceof StratalogError) || line === undefined || line.where === '--message') return error
  const byRecord = ['record_too_large', 'txid_out_of_range', 'txid_not_monotonic'].includes(error.code)
  if (!byRecord) return error
  const { code, message, retryable, expected, found } = error
  return new StratalogError(code, `${line.where}: ${message}`, { cause: error, retryable, expected, found })
}
