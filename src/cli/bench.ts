import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'
import { StratalogError } from '../model/errors.js'
import type { CliIo } from './io.js'

interface BenchOptions {
  readonly only?: string
  readonly at?: string
  readonly short?: boolean
}

/** `stratalog bench`: what this machine reaches, each figure beside a plain loop on the same disk. */
export function register(program: Command, io: CliIo): void {
  program
    .command('bench')
    .argument('[names...]', 'what to measure, or the beginning of several names (default: all)')
    .description('measure this machine: appends and reads beside plain loops on the same disk')
    .option('--only <name>', 'the same as a name')
    .option('--short', 'only as much as shows that it runs')
    .option('--at <directory>', 'a directory on the disk to measure (default: the temporary directory)')
    .addHelpText(
      'after',
      '\nTakes a quarter of an hour and up to 40 GB for that time; single names take a minute or two.\n\nExample:\n  stratalog bench append.1stream --at /disk1',
    )
    .action((names: string[], options: BenchOptions) => bench(io, names, options))
}

async function bench(io: CliIo, names: readonly string[], options: BenchOptions): Promise<void> {
  const main = fileURLToPath(new URL('../../bench/main.js', import.meta.url))
  if (!existsSync(main))
    throw new StratalogError(
      'dependency_missing',
      'the benchmarks are not part of this installation: run "npm run bench" in the sources',
    )
  const args = [
    main,
    ...(io.json ? ['--json'] : []),
    ...(options.short ? ['--short'] : []),
    ...(options.only === undefined ? [] : ['--only', options.only]),
    ...(options.at === undefined ? [] : ['--dir', options.at]),
    ...names,
  ]
  const child = spawn(process.execPath, args, { stdio: 'inherit', signal: io.signal })
  const [code] = (await once(child, 'exit')) as [number | null]
  io.setExitCode(code ?? 1)
}
