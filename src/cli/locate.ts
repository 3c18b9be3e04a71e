import type { Command } from 'commander'
import type { LocatedPosition } from '../model/control-read.js'
import { StratalogError } from '../model/errors.js'
import { formatBytes } from '../model/units.js'
import type { CliIo } from './io.js'

/** `stratalog locate STREAM POSITION`. */
export function register(program: Command, io: CliIo): void {
  program
    .command('locate')
    .argument('<stream>')
    .argument('<position>', 'a DLSN (12:340:7), txid:N, seq:N, a date, a time or an age (-1h)')
    .description('where a record is: segment, ledger, object, block')
    .addHelpText('after', '\nExample:\n  stratalog locate trades txid:1735689600000')
    .action(async (stream: string, position: string) => {
      const found = await ask(io, stream, position)
      if (io.json) await io.value(found)
      else for (const line of lines(found)) await io.line(line)
    })
  program
    .command('findtime')
    .argument('<stream>')
    .argument('<time>', 'an ISO date or time (UTC without a zone), or an age (-1h)')
    .description('the DLSN of the first record at or after a time')
    .addHelpText('after', '\nAn age goes behind "--".\n\nExample:\n  stratalog findtime trades -- -1h')
    .action(async (stream: string, time: string) => findTime(io, stream, time))
}

async function ask(io: CliIo, stream: string, position: string): Promise<LocatedPosition> {
  const { checkStreamName } = await import('../model/stream-name.js')
  const { parsePosition } = await import('../model/position.js')
  checkStreamName(stream)
  parsePosition(position, Date.now())
  const { withLog } = await import('./connect.js')
  return withLog(io, {}, ({ api }) => api.locatePosition(stream, position))
}

async function findTime(io: CliIo, stream: string, time: string): Promise<void> {
  const { parseTime } = await import('../model/units.js')
  const timeMs = parseTime(time, Date.now())
  if (timeMs === null) {
    throw new StratalogError(
      'usage',
      `"${time}" is not a time: write an ISO date or time (2025-01-31T10:00Z) or an age (-1h); "stratalog locate" takes any position`,
      { found: time },
    )
  }
  const found = await ask(io, stream, new Date(timeMs).toISOString())
  if (io.json) {
    await io.value({ dlsn: found.dlsn, timeMs, record: found.record })
    return
  }
  await io.line(found.dlsn)
  const what = found.record === null ? 'no record yet' : `txid ${found.record.txid}`
  io.note(`(at or after ${new Date(timeMs).toISOString()}: ${what})`)
}

function lines(found: LocatedPosition): string[] {
  const { dlsn, segment, state, ledgerId, object, block, record } = found
  if (segment === null) return [`${dlsn}  the end: no record is there yet`]
  const head = record === null ? 'no record' : `seq ${record.sequenceId}  txid ${record.txid}`
  const hot = ledgerId === null ? [] : [`  ledger   ${ledgerId}`]
  const cold = object === null ? [] : [`  object   ${object}`]
  const where =
    block === null ? [] : [`  block    ${block.number} at ${block.offset}, ${formatBytes(block.sizeBytes)}`]
  return [`${dlsn}  ${head}`, `  segment  ${segment} ${state}`, ...hot, ...cold, ...where]
}
