import type { Command } from 'commander'
import type { CliIo } from './io.js'

interface EvictFlags {
  readonly from?: string
  readonly until?: string
}

/** `stratalog evict`: frees hot copies now. */
export function register(program: Command, io: CliIo): void {
  program
    .command('evict')
    .argument('<stream>')
    .description(
      'free the hot copies of a range now: sealed, copied and read back first where that is missing',
    )
    .option('--from <position>', 'where to begin (default: the beginning)')
    .option('--until <position>', 'where to end, exclusive (default: the end, the open segment included)')
    .addHelpText(
      'after',
      '\nNothing is freed that is not verified in the archive; it stays readable from there.\n\nExamples:\n  stratalog evict audit/login --until 2026-02-01\n  stratalog evict clicks/web',
    )
    .action(async (stream: string, flags: EvictFlags) => evict(io, stream, flags))
}

async function evict(io: CliIo, stream: string, flags: EvictFlags): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  const { formatBytes } = await import('../model/units.js')
  const { plural } = await import('./render.js')
  const { checkRange } = await import('./ranges.js')
  checkStreamName(stream)
  const range = checkRange(flags)
  const { withLog } = await import('./connect.js')
  await withLog(io, { lasting: true }, async ({ api }) => {
    const report = { sealed: 0, copied: 0, evicted: 0, freedBytes: 0 }
    const bar = io.progress({ label: `evict ${stream}`, unit: 'bytes' })
    try {
      for await (const step of api.evict(stream, range, io.signal)) {
        if (step.kind === 'seal') report.sealed += 1
        else if (step.kind === 'copy') report.copied += 1
        else {
          report.evicted += 1
          report.freedBytes += step.bytes
        }
        bar.update(report.freedBytes, `segment ${step.segment}`)
      }
    } finally {
      bar.end()
    }
    if (io.json) return io.value(report)
    const first =
      report.copied === 0 ? '' : `, ${plural(report.copied, 'segment')} copied and read back first`
    await io.line(
      `evicted ${plural(report.evicted, 'segment')} of ${stream}, ${formatBytes(report.freedBytes)} freed${first}`,
    )
  })
}
