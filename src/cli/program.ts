import { Command, CommanderError } from 'commander'
import { nearest } from '../config/suggest.js'
import { StratalogError } from '../model/errors.js'
import type { CliIo, ProcessIo } from './io.js'
import { packageVersion } from './package.js'

/** A command of its own file: adds itself to the program. What it needs to run it imports when it runs. */
export interface CommandModule {
  register(program: Command, io: CliIo): void
}

/** Help or the version was asked for and has been printed. */
export class HelpShown extends Error {
  readonly exitCode: number
  /** Whose help it is. */
  readonly path: string
  constructor(exitCode: number, path: string) {
    super('help shown')
    this.exitCode = exitCode
    this.path = path
  }
}

/** The program with its options, without commands. */
export function createProgram(io: ProcessIo): Command {
  const program = new Command('stratalog')
  program
    .description(
      'A tiered storage log: hot on replicated local stores, cold in an archive, one history to read.',
    )
    .version(packageVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'show help')
    .helpCommand('help [command]', 'show help for a command')
    .option(
      '--dir <directory>',
      "the log's directory (else STRATALOG_DIR, the nearest stratalog.yaml upwards, ./data)",
    )
    .option(
      '--attach <archive>',
      'read an archive that another log owns; with --dir the cache of it is kept there',
    )
    .option('--key-ring <file>', 'a ring with keys of what is encrypted, beside those that policies name')
    .option('--config <file>', "another configuration than the log's stratalog.yaml")
    .option('--json', 'JSON on stdout: one value, or one a line')
    .showSuggestionAfterError(false)
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({ writeErr: () => undefined })
    .hook('preAction', () => {
      const { dir, attach, keyRing, config } = program.opts<Partial<Record<string, string>>>()
      if (dir === '') throw new StratalogError('usage', '--dir is empty: name a directory')
      if (attach === '') throw new StratalogError('usage', '--attach is empty: name an archive')
      if (keyRing === '') throw new StratalogError('usage', '--key-ring is empty: name a file')
      if (config === '') throw new StratalogError('usage', '--config is empty: name a file')
      io.setDirectory({ dir, attach, keyRing, config })
    })
  return program
}

/** Makes every wrong use an error of ours that names the command and what was probably meant. */
export function refuseWithHints(command: Command): void {
  command.exitOverride((error) => {
    throw usageError(command, error)
  })
  for (const inner of command.commands) refuseWithHints(inner)
}

function usageError(command: Command, error: CommanderError): Error {
  const quoted = /'([^']*)'/.exec(error.message)?.[1] ?? ''
  const path = pathOf(command)
  const usage = (text: string) => new StratalogError('usage', text, { found: quoted })
  switch (error.code) {
    case 'commander.helpDisplayed':
    case 'commander.version':
      return new HelpShown(0, path)
    case 'commander.help':
      // "help" with a word that names nothing.
      if (command.args[0] === 'help' && command.args[1] !== undefined)
        return usage(unknownCommand(command, command.args[1]))
      // A group of commands without one of them named; asked for by "help" the exit code is 0.
      return new HelpShown(error.exitCode === 0 ? 0 : 2, path)
    case 'commander.unknownCommand':
      return usage(unknownCommand(command, quoted))
    case 'commander.unknownOption':
      return usage(
        `unknown option "${quoted.split('=')[0]}" of ${path}.${meant(quoted.split('=')[0] ?? '', optionsOf(command), path)}`,
      )
    case 'commander.missingArgument':
      return usage(`${path} needs ${quoted.toUpperCase()}: see "${path} --help"`)
    case 'commander.excessArguments': {
      // A group with a default action never sees its unknown commands otherwise.
      return usage(`${path} takes fewer arguments: see "${path} --help"`)
    }
    case 'commander.optionMissingArgument':
      return usage(
        `${quoted.split(' ').slice(0, -1).join(' ') || quoted} needs a value: see "${path} --help"`,
      )
    default:
      return usage(`${error.message.replace(/^error: /, '').replaceAll("'", '"')}: see "${path} --help"`)
  }
}

function unknownCommand(command: Command, name: string): string {
  const group = pathOf(command).split(' ').slice(1)
  const whole = (one: string) => [...group, one].join(' ')
  const found = nearest(
    name,
    command.commands.map((one) => one.name()),
  )
  const hint = found === null ? `See "${pathOf(command)} --help".` : `Did you mean "${whole(found)}"?`
  return `unknown command "${whole(name)}". ${hint}`
}

function meant(word: string, candidates: readonly string[], path: string): string {
  // Of two single letters any is as near as any other.
  const found = word.startsWith('--') ? nearest(word, candidates) : null
  return found === null ? ` See "${path} --help".` : ` Did you mean "${found}"?`
}

function optionsOf(command: Command | null): string[] {
  if (command === null) return []
  const own = command.options.flatMap((option) =>
    [option.long, option.short].filter((one): one is string => typeof one === 'string'),
  )
  return [...own, ...optionsOf(command.parent)]
}

/** `stratalog tier status`. */
function pathOf(command: Command): string {
  return command.parent === null ? command.name() : `${pathOf(command.parent)} ${command.name()}`
}

/** Whether it is the parser's own error, before `refuseWithHints` had its say. */
export function isParserError(error: unknown): error is CommanderError {
  return error instanceof CommanderError
}
