import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import { StratalogError } from '../model/errors.js'
import type { CliIo } from './io.js'

/** `stratalog bench`: what this machine reaches, each figure beside a plain loop on the same disk. */
export function register(program: Command, io: CliIo): void {
  program
    .command('bench')
    .description('measure this machine: appends and reads beside plain loops on the same disk')
    .option('--only <name>', 'one member, or those that begin with the name')
    .option('--at <directory>', 'a directory on the disk to measure (default: the temporary directory)')
    .addHelpText(
      'after',
      '\nTakes some minutes and a few gigabytes for that time.\n\nExample:\n  stratalog bench --only append --at /disk1',
    )
    .action((options: { only?: string; at?: string }) => bench(io, options))
}

async function bench(io: CliIo, options: { only?: string; at?: string }): Promise<void> {
  const main = fileURLToPath(new URL('../../bench/main.js', import.meta.url))
  if (!existsSync(main))
    throw new StratalogError(
      'dependency_missing',
      'the benchmarks are not part of this installation: run "npm run bench" in the sources',
    )
  const args = [
    main,
    ...(io.json ? ['--json'] : []),
    ...(options.only === undefined ? [] : ['--only', options.only]),
    ...(options.at === undefined ? [] : ['--dir', options.at]),
  ]
  const child = spawn(process.execPath, args, { stdio: 'inherit', signal: io.signal })
  const [code] = (await once(child, 'exit')) as [number | null]
  io.setExitCode(code ?? 1)
}
