import type { Command } from 'commander'
import type { ClonedDto } from '../model/control-clone.js'
import { formatBytes } from '../model/units.js'
import { groupOf } from './group.js'
import type { CliIo } from './io.js'

const HELP = `
The clone shares the archived segments of the stream: nothing of them is copied, and what it shares is not
trimmed or deleted while it is there. What is appended to either of the two is its own.

Examples:
  stratalog stream clone orders orders-test
  stratalog stream clone orders orders-before --until 2026-03-01T00:00Z`

/** `stratalog stream clone`. */
export function register(program: Command, io: CliIo): void {
  groupOf(program, 'stream', 'streams of a log')
    .command('clone')
    .argument('<stream>')
    .argument('<new name>')
    .description('make a stream that begins with the history of another and shares its objects')
    .option('--until <position>', 'where it leaves the stream; default: behind all of it')
    .addHelpText('after', HELP)
    .action(async (stream: string, to: string, options: { until?: string }) => clone(io, stream, to, options))
}

async function clone(io: CliIo, name: string, to: string, options: { until?: string }): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  checkStreamName(name)
  checkStreamName(to)
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => {
    const cloned = await api.cloneStream(name, { to, ...options })
    if (io.json) await io.value(cloned)
    else for (const line of linesOf(cloned)) await io.line(line)
  })
}

function linesOf(cloned: ClonedDto): string[] {
  const { name, parent, fork, records, sharedSegments, sharedBytes, told } = cloned
  const segments = sharedSegments === 1 ? '1 segment' : `${sharedSegments} segments`
  const lines = [
    `${name} is a clone of ${parent.name} up to ${fork}: ${records} records`,
    `shared: ${segments}, ${formatBytes(sharedBytes)} in the archive; ${parent.name} keeps them while ${name} is there`,
  ]
  return told ? lines : [...lines, 'the archive does not know its name yet; it is told when it answers']
}
