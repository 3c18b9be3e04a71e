#!/usr/bin/env node
import process from 'node:process'
import { StratalogError } from '../model/errors.js'
import { EXIT_INTERRUPTED, type ProcessIo, processIo } from './io.js'
import { type CommandModule, createProgram, HelpShown, refuseWithHints } from './program.js'

// `doctor` says once what the AWS SDK would say in front of every output.
process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true'

/** Every command by what it is for, in the order of the help. Modules are small: what one needs it imports when it runs. */
const COMMANDS: Readonly<Record<string, readonly (() => Promise<CommandModule>)[]>> = {
  'Begin:': [() => import('./demo.js'), () => import('./init.js')],
  'Write:': [() => import('./append.js'), () => import('./import.js')],
  'Read:': [
    () => import('./read.js'),
    () => import('./tail.js'),
    () => import('./export.js'),
    () => import('./explain.js'),
    () => import('./locate.js'),
  ],
  'Streams:': [
    () => import('./stream.js'),
    () => import('./rename.js'),
    () => import('./clone.js'),
    () => import('./policy.js'),
    () => import('./segment.js'),
  ],
  'Tiering:': [
    () => import('./status.js'),
    () => import('./tier.js'),
    () => import('./tier-orders.js'),
    () => import('./hold.js'),
    () => import('./trim.js'),
    () => import('./recall.js'),
    () => import('./evict.js'),
  ],
  'Archive:': [
    () => import('./archive.js'),
    () => import('./archive-own.js'),
    () => import('./migrate.js'),
    () => import('./restore.js'),
    () => import('./key.js'),
  ],
  'Check and repair:': [
    () => import('./doctor.js'),
    () => import('./fsck.js'),
    () => import('./index-rebuild.js'),
    () => import('./bench.js'),
  ],
  'Stores and clusters:': [() => import('./store.js'), () => import('./bookkeeper.js')],
}

/** The longest a timer of Node.js can wait; what it does is nothing. */
const ALIVE_MS = 2 ** 31 - 1

/** Runs one command line and returns the exit code; everything said has been written. */
async function run(argv: readonly string[], io: ProcessIo): Promise<number> {
  const program = createProgram(io)
  for (const [heading, modules] of Object.entries(COMMANDS)) {
    program.commandsGroup(heading)
    for (const module of await Promise.all(modules.map((load) => load()))) module.register(program, io)
  }
  refuseWithHints(program)
  // A command that waits for records or for a step to fall due has only timers and files that let a process end:
  // without this one a follower would end, as if all were done, at the first moment with nothing to do.
  const alive = setInterval(() => undefined, ALIVE_MS)
  try {
    if (argv.length === 0) program.help()
    await program.parseAsync(argv, { from: 'user' })
    return io.exitCode
  } catch (error) {
    if (error instanceof HelpShown) return helpExit(error, io)
    if (io.stopped === 'pipe-closed') return io.exitCode
    if (io.stopped === 'interrupted' && io.signal.reason === error) return EXIT_INTERRUPTED
    return io.fail(error)
  } finally {
    clearInterval(alive)
  }
}

function helpExit(shown: HelpShown, io: ProcessIo): number {
  if (shown.exitCode === 0) return 0
  const text = `"${shown.path}" is a group of commands: see "${shown.path} --help"`
  return io.fail(new StratalogError('usage', text))
}

const argv = process.argv.slice(2)
const io = processIo(argv)
run(argv, io).then(
  (code) => finish(code),
  (error: unknown) => finish(io.fail(error)),
)

/** Exits once stdout has taken everything: leaving at once would cut off what a pipe has not read yet. */
function finish(code: number): void {
  process.exitCode = code
  // Whatever still holds the event loop (a terminal's stdin, an idle connection) must not keep the command alive.
  if (io.stopped === 'pipe-closed') process.exit(code)
  process.stdout.write('', () => process.exit(code))
}
