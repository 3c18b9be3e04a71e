import type { Command } from 'commander'
import type { FsckFindingDto, FsckTallyDto } from '../model/control-archive.js'
import { formatBytes } from '../model/units.js'
import type { CliIo } from './io.js'
import { plural, printable } from './render.js'

/** `stratalog fsck`. */
export function register(program: Command, io: CliIo): void {
  program
    .command('fsck')
    .description('whether index, stores and archive say the same; changes nothing')
    .option('--deep', 'read every byte of both tiers')
    .addHelpText(
      'after',
      '\nExits with 6 where something is lost, damaged or contradicts itself, with 5 where something could not be looked at.\n\nExamples:\n  stratalog fsck\n  stratalog fsck --deep --json',
    )
    .action(async (options: { deep?: boolean }) => check(io, options.deep === true))
}

async function check(io: CliIo, deep: boolean): Promise<void> {
  const { EXIT } = await import('./exit-codes.js')
  const { withLog } = await import('./connect.js')
  await withLog(io, { lasting: true }, async ({ api }) => {
    const progress = io.progress({ label: 'fsck', unit: 'count' })
    try {
      for await (const part of api.fsck({ deep }, io.signal)) {
        if (part.type === 'progress') {
          progress.update(part.tally.segments, printable(part.stream ?? ''))
          continue
        }
        progress.end()
        if (part.type === 'finding') {
          if (io.json) await io.value(part.finding)
          else for (const line of lines(io, part.finding)) await io.line(line)
          continue
        }
        const { damage, unknown } = part.tally
        if (io.json) await io.value(part.tally)
        else await io.line(tallyLine(part.tally))
        if (damage > 0) io.setExitCode(EXIT.loss)
        else if (unknown > 0) io.setExitCode(EXIT.partial)
      }
    } finally {
      progress.end()
    }
  })
}

function lines(io: CliIo, finding: FsckFindingDto): string[] {
  const { severity, where, stream, segment, ledgerId, key, text, mend } = finding
  const about = [
    stream === null ? '' : printable(stream),
    segment === null ? '' : `seg ${segment}`,
    ledgerId === null ? '' : `ledger ${ledgerId}`,
    key === null || text.includes(key) ? '' : printable(key),
  ]
  const colored = severity === 'damage' ? io.colors.red(severity.padEnd(8)) : severity.padEnd(8)
  return [
    `${colored}  ${where.padEnd(8)}${about.filter((one) => one !== '').join(' ')}`,
    `          ${printable(text)}`,
    `          → ${printable(mend)}`,
  ]
}

function tallyLine(tally: FsckTallyDto): string {
  const { streams, segments, ledgers, objects, deepBytes, damage, waste, unknown } = tally
  const read = deepBytes === 0 ? '' : ` · ${formatBytes(deepBytes)} read`
  const found =
    damage + waste + unknown === 0
      ? 'nothing wrong'
      : `damage ${damage} · only space ${waste} · not looked at ${unknown}`
  return `${plural(streams, 'stream')}, ${plural(segments, 'segment')}, ${plural(ledgers, 'ledger')}, ${plural(objects, 'object')}${read} · ${found}`
}
