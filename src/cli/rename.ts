import type { Command } from 'commander'
import { groupOf } from './group.js'
import type { CliIo } from './io.js'

/** `stratalog stream rename`. */
export function register(program: Command, io: CliIo): void {
  groupOf(program, 'stream', 'streams of a log')
    .command('rename')
    .argument('<stream>')
    .argument('<new name>')
    .description('give a stream another name; its policy is the one of that name from then on')
    .addHelpText('after', '\nExample:\n  stratalog stream rename orders orders/2026')
    .action(async (stream: string, to: string) => rename(io, stream, to))
}

async function rename(io: CliIo, name: string, to: string): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  checkStreamName(name)
  checkStreamName(to)
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => {
    const renamed = await api.renameStream(name, to)
    if (io.json) await io.value(renamed)
    else await io.line(`${name} is ${renamed.name} now`)
  })
}
