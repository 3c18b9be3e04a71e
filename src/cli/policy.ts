import type { Command } from 'commander'
import type { PolicyShowDto, PolicyTestDto } from '../model/control-api.js'
import type { PolicySource, PolicyStepSum } from '../model/control-policy.js'
import type { CliIo } from './io.js'

/** `stratalog policy show | test | reload`. */
export function register(program: Command, io: CliIo): void {
  const group = program
    .command('policy')
    .description('the policy of a stream: values, who said them, what comes of them')
  group
    .command('show')
    .argument('<stream>', 'also one that is not there yet')
    .description('every value with its origin, and what was outvoted')
    .addHelpText('after', '\nExample:\n  stratalog policy show clicks/web')
    .action(async (stream: string) => show(io, stream))
  group
    .command('test')
    .argument('<stream>', 'also one that is not there yet')
    .description('the values, and what the plan does by some moment')
    .option('--at <moment>', '+7d, or a date or time', '+7d')
    .addHelpText(
      'after',
      '\nExamples:\n  stratalog policy test clicks/web\n  stratalog policy test clicks/web --at 2027-01-01',
    )
    .action(async (stream: string, options: { at: string }) => test(io, stream, options.at))
  group
    .command('reload')
    .description('take what stratalog.yaml says now, instead of within a few seconds')
    .addHelpText(
      'after',
      '\nA file that is refused changes nothing: what was in force stays.\n\nExample:\n  stratalog policy reload',
    )
    .action(async () => reload(io))
}

async function show(io: CliIo, stream: string): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  checkStreamName(stream)
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => {
    const shown = await api.policyShow(stream)
    if (io.json) return io.value(shown)
    await printValues(io, shown)
    const { valueText } = await import('./policy-text.js')
    for (const { field, value, origin, by } of shown.losers) {
      await io.line(
        `outvoted  ${field} ${valueText(field, value)} (${origin.replace(/ +/g, ' ')}) by ${by.replace(/ +/g, ' ')}`,
      )
    }
  })
}

async function reload(io: CliIo): Promise<void> {
  const { withLog } = await import('./connect.js')
  const { plural } = await import('./render.js')
  await withLog(io, {}, async ({ api, beside }) => {
    const { source, changed, streams } = await api.policyReload()
    if (io.json) return io.value({ ...source, changed, streams })
    const file = source.file ?? 'code and environment'
    await io.line(
      changed
        ? `${file} is in force: another policy for ${plural(streams, 'stream')}`
        : `${file} is in force, as before`,
    )
    for (const { setting, origin } of source.needsRestart)
      await io.line(`${setting} (${origin}) takes effect when the log is opened again`)
    if (!beside) io.note('(no process has the log open: whoever opens it reads the file)')
  })
}

/** One line where what the file says now is not what is in force. */
async function printProblem(io: CliIo, { file, problem }: PolicySource): Promise<void> {
  if (problem === null) return
  const { formatTime } = await import('../model/units.js')
  const { printable } = await import('./render.js')
  await io.line(
    `${io.colors.yellow('refused')}   ${file} since ${formatTime(problem.atMs)}, what it said before is in force: ${printable(problem.message)}`,
  )
}

async function test(io: CliIo, stream: string, at: string): Promise<void> {
  const { checkStreamName } = await import('../model/stream-name.js')
  const { parseMoment } = await import('./args.js')
  checkStreamName(stream)
  const atMs = parseMoment(at, Date.now())
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => {
    const tested = await api.policyTest(stream, { atMs })
    if (io.json) return io.value(tested)
    await printValues(io, tested)
    for (const { found, consequence, remedy } of tested.conflicts) {
      await io.line(`${io.colors.yellow('conflict')}  ${found}`)
      await io.line(`          → ${consequence}. ${remedy}`)
    }
    await printOutcome(io, tested)
  })
}

async function printValues(io: CliIo, shown: PolicyShowDto): Promise<void> {
  const { table } = await import('./render.js')
  const { valueText } = await import('./policy-text.js')
  const rows = shown.values.map(({ field, value, origin }) => [field, valueText(field, value), origin])
  const columns = [{ name: shown.stream }, { name: 'value' }, { name: 'from' }]
  for (const line of table(columns, rows, io.colors)) await io.line(line)
  await printProblem(io, shown.source)
  if (!shown.exists) io.note(`(there is no stream ${shown.stream} yet: this is what it would get)`)
}

async function printOutcome(io: CliIo, tested: PolicyTestDto): Promise<void> {
  const { formatBytes, formatDuration, formatTime } = await import('../model/units.js')
  const { plural } = await import('./render.js')
  const { nowMs, atMs, seals, copies, evicts, trims, held } = tested
  // The clock went on a little since the moment was read.
  const aheadText = (ms: number) => {
    const unitMs = ms < 600_000 ? 1_000 : 60_000
    return formatDuration(Math.round(ms / unitMs) * unitMs)
  }
  const ahead = atMs > nowMs ? `in ${aheadText(atMs - nowMs).padEnd(6)}` : 'by then  '
  const from = ({ firstMs }: PolicyStepSum) =>
    firstMs === null || firstMs <= nowMs ? '' : `, from ${formatTime(firstMs)} on`
  const oldest = trims.oldestMs === null ? '' : `, oldest ${formatTime(trims.oldestMs)}`
  const some = ({ segments }: { readonly segments: number }) => plural(segments, 'segment')
  const lines = [
    ...(seals > 0 ? [`seals ${plural(seals, 'segment')}`] : []),
    ...(copies.segments > 0 ? [`copies ${formatBytes(copies.bytes)} (${some(copies)})${from(copies)}`] : []),
    ...(evicts.segments > 0
      ? [`frees ${formatBytes(evicts.bytes)} hot (${some(evicts)})${from(evicts)}`]
      : []),
    ...(trims.segments > 0
      ? [
          `trims ${formatBytes(trims.bytes)} (${some(trims)}${oldest})${from(trims)}, frees ${formatBytes(trims.hotBytes)} hot, ${formatBytes(trims.archiveBytes)} archive`,
        ]
      : []),
    ...(held.segments > 0
      ? [`keeps ${formatBytes(held.bytes)} (${some(held)}) past their time: held by ${held.holds.join(', ')}`]
      : []),
  ]
  for (const line of lines.length > 0 ? lines : ['does nothing with the segments there are now'])
    await io.line(`${ahead} ${line}`)
  io.note(`(until ${formatTime(atMs)}, with the segments there are now)`)
}
