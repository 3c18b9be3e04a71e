import type { Command } from 'commander'
import type { DoctorCheck, DoctorReport } from '../model/control-doctor.js'
import { isStratalogError, type StratalogError } from '../model/errors.js'
import type { CliIo } from './io.js'
import { plural, printable } from './render.js'

/** `stratalog doctor [DIR]`. */
export function register(program: Command, io: CliIo): void {
  program
    .command('doctor')
    .argument('[dir]', "the log's directory (else --dir, STRATALOG_DIR, the nearest stratalog.yaml, ./data)")
    .description('look at everything a log stands on: Node.js, configuration, stores, index, archive, keys')
    .addHelpText(
      'after',
      '\nWrites one small object to the archive and deletes it again. Exits with 1 where something has to be done, and\nwith the code of the error where the log can not be opened at all.\n\nExamples:\n  stratalog doctor\n  stratalog doctor ./mylog --json | jq \'.checks[] | select(.state == "bad")\'',
    )
    .action(async (dir: string | undefined) => doctor(io, dir))
}

async function doctor(io: CliIo, dir: string | undefined): Promise<void> {
  const { EXIT, exitCodeOf } = await import('./exit-codes.js')
  const { withLog } = await import('./connect.js')
  const { StratalogError } = await import('../model/errors.js')
  if (dir === '')
    throw new StratalogError('usage', 'the directory is empty: name one, as stratalog doctor ./mylog')
  // The prototype keeps what `io` reads later: colours, signal, key ring.
  const there: CliIo = dir === undefined ? io : Object.create(io, { dir: { value: dir } })
  let report: DoctorReport
  try {
    report = await withLog(there, {}, ({ api }) => api.doctor(io.signal))
    if (report.bad > 0) io.setExitCode(EXIT.failed)
  } catch (error) {
    if (!isStratalogError(error)) throw error
    report = await withoutLog(error)
    io.setExitCode(exitCodeOf(error))
  }
  if (io.json) return io.value(report)
  for (const check of report.checks) for (const line of lines(io, check)) await io.line(line)
  const notes = report.checks.filter(({ state }) => state === 'note').length
  const noted = notes === 0 ? '' : `, ${plural(notes, 'note')}`
  await io.line(report.bad === 0 ? `all is well${noted}` : `${plural(report.bad, 'thing')} to mend${noted}`)
}

/** What can be said where the log can't be opened, and why it can't. */
async function withoutLog(error: StratalogError): Promise<DoctorReport> {
  const { nodeChecks } = await import('../open/doctor.js')
  const area = error.code === 'config_invalid' ? 'config' : areaOf(error)
  const mend = `the log was not opened: see ${error.code} in docs/errors.md`
  const checks: DoctorCheck[] = [
    ...nodeChecks(),
    { area, name: 'open', state: 'bad', text: error.message, mend },
  ]
  return { atMs: Date.now(), bad: checks.filter(({ state }) => state === 'bad').length, checks }
}

function areaOf({ code }: StratalogError): DoctorCheck['area'] {
  if (code.startsWith('archive')) return 'archive'
  return code.startsWith('index') ? 'index' : 'stores'
}

function lines(io: CliIo, { area, state, text, mend }: DoctorCheck): string[] {
  const { colors } = io
  const sign = { ok: colors.green('ok  '), note: colors.yellow('note'), bad: colors.red('BAD ') }[state]
  const [first = '', ...more] = text.split('\n')
  return [
    `${sign}  ${area.padEnd(8)}${printable(first)}`,
    ...more.map((line) => `              ${printable(line)}`),
    ...(mend === null ? [] : [`              → ${printable(mend)}`]),
  ]
}
