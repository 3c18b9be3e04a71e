import type { Command } from 'commander'
import type { BookkeeperStatusDto, ImpactDto, ImpactPart } from '../model/control-bookkeeper.js'
import type { CliIo } from './io.js'
import { formatCount, plural, printable, table } from './render.js'

/** Streams that are aligned with each other. */
const STREAMS_PAGE = 1_000

/** `stratalog bookkeeper status | check-impact`. */
export function register(program: Command, io: CliIo): void {
  const group = program
    .command('bookkeeper')
    .description('the BookKeeper cluster that a log stands on, and what taking a bookie away would mean')
  group
    .command('status')
    .description('bookies, whether quorums are possible, and ledgers that wait for copies')
    .option('--check', 'exit with 5 when something is not what it should be: for monitoring')
    .addHelpText(
      'after',
      '\nExamples:\n  stratalog bookkeeper status\n  stratalog bookkeeper status --check --json',
    )
    .action(async (options: { check?: boolean }) => status(io, options.check ?? false))
  group
    .command('check-impact')
    .argument('<bookie>', 'its id, as "bookkeeper status" shows it')
    .description('what would be left without a bookie: ask before it is drained or stopped')
    .addHelpText(
      'after',
      '\nLooks at the metadata of every ledger of the cluster and changes nothing. Exits with 0 where it is safe, with 4 where\nit is not, and with 5 where only some ledgers could not be looked at.\n\nExample:\n  stratalog bookkeeper check-impact 10.0.0.7:3181 && ssh 10.0.0.7 systemctl stop bookie',
    )
    .action(async (bookie: string) => impact(io, bookie))
}

async function status(io: CliIo, check: boolean): Promise<void> {
  const { withLog } = await import('./connect.js')
  const { EXIT } = await import('./exit-codes.js')
  await withLog(io, {}, async ({ api }) => {
    const found = await api.bookkeeperStatus()
    if (io.json) await io.value(found)
    else for (const line of statusLines(io, found)) await io.line(line)
    if (check && isTroubled(found)) io.setExitCode(EXIT.partial)
  })
}

function isTroubled({ bookies, quorum, underreplicated, autorecovery }: BookkeeperStatusDto): boolean {
  const away = bookies.some(({ state }) => state !== 'writable')
  const unmended = underreplicated.ledgers > 0 && (!autorecovery.enabled || autorecovery.auditors === 0)
  return away || quorum.possible !== 'whole' || unmended
}

function statusLines(io: CliIo, found: BookkeeperStatusDto): string[] {
  const { instanceId, zookeeper, namespace, ledgersPath, bookies, quorum, underreplicated } = found
  const writable = bookies.filter(({ state }) => state === 'writable').length
  const means = {
    whole: '',
    reduced: '   segments are begun with fewer copies: start bookies',
    none: '   appends are refused: start bookies',
  }[quorum.possible]
  const columns = [
    { name: 'BOOKIE' },
    { name: 'STATE' },
    { name: 'ADDRESS' },
    { name: 'RACK' },
    { name: 'GROUPS' },
  ]
  const rows = bookies.map(({ id, state, address, rack, groups }) => [
    printable(id),
    state === 'down' ? 'DOWN' : state,
    printable(address ?? '—'),
    printable(rack ?? '—'),
    printable(groups.join(' ') || '—'),
  ])
  return [
    `cluster  ${instanceId}   ${printable(zookeeper)} ${printable(ledgersPath)}   namespace ${printable(namespace)}`,
    `quorum   ${writable} of ${bookies.length} bookies take writes; a segment wants ${quorum.ensemble}, and goes on with ${quorum.min}${means}`,
    `copies   ${copiesText(found)}`,
    ...underreplicated.first.map(
      ({ ledgerId, missing }) => `         ledger ${ledgerId} lacks ${missing.map(printable).join(', ')}`,
    ),
    '',
    ...table(columns, rows, io.colors),
  ]
}

function copiesText({ underreplicated, autorecovery }: BookkeeperStatusDto): string {
  const { ledgers, more } = underreplicated
  const repair = !autorecovery.enabled
    ? 'autorecovery is switched off: bookkeeper shell autorecovery -enable'
    : autorecovery.auditors === 0
      ? 'no autorecovery runs: bookkeeper autorecovery'
      : `autorecovery runs (${plural(autorecovery.auditors, 'auditor')})`
  const waiting = more
    ? `more than ${formatCount(ledgers)} ledgers wait`
    : `${plural(ledgers, 'ledger')} ${ledgers === 1 ? 'waits' : 'wait'}`
  return `${ledgers === 0 ? 'no ledger waits' : waiting} for copies; ${repair}`
}

async function impact(io: CliIo, bookie: string): Promise<void> {
  const { withLog } = await import('./connect.js')
  const { EXIT } = await import('./exit-codes.js')
  await withLog(io, { lasting: true }, async ({ api }) => {
    const streams: Extract<ImpactPart, { type: 'stream' }>[] = []
    const progress = io.progress({ label: 'check-impact', unit: 'count' })
    try {
      for await (const part of api.checkImpact({ bookie }, io.signal)) {
        if (part.type === 'progress') progress.update(part.checked, printable(part.stream ?? 'all ledgers'))
        else if (io.json) await io.value(part)
        else if (part.type === 'stream') {
          streams.push(part)
          // Very many are not held to align them.
          if (streams.length < STREAMS_PAGE) continue
          progress.end()
          for (const line of streamLines(io, streams.splice(0))) await io.line(line)
        } else {
          progress.end()
          for (const line of [...streamLines(io, streams), ...impactLines(io, part.impact)])
            await io.line(line)
        }
        if (part.type !== 'done' || part.impact.safe) continue
        // What is not known may be safe: somebody has to look.
        const only = part.impact.unknown > 0 && part.impact.why.length === 1
        io.setExitCode(only ? EXIT.partial : EXIT.refused)
      }
    } finally {
      progress.end()
    }
  })
}

function streamLines(io: CliIo, streams: readonly Extract<ImpactPart, { type: 'stream' }>[]): string[] {
  if (streams.length === 0) return []
  const right = 'right' as const
  const columns = [
    { name: 'STREAM' },
    { name: 'SEGMENTS', align: right },
    { name: 'FROM', align: right },
    { name: 'TO', align: right },
    { name: 'OPEN', align: right },
    { name: 'BELOW ACK', align: right },
    { name: 'UNREADABLE', align: right },
    { name: 'NO REPLACEMENT', align: right },
  ]
  const rows = streams.map((one) => [
    printable(one.stream),
    formatCount(one.ledgers),
    one.firstSegment,
    one.lastSegment,
    ...[one.open, one.belowAck, one.unreadable, one.irreplaceable].map(formatCount),
  ])
  return [...table(columns, rows, io.colors), '']
}

function impactLines(io: CliIo, found: ImpactDto): string[] {
  const { bookie, state, ledgers, open, others, safe, why } = found
  const share = `${formatCount(open)} of them open, ${formatCount(others)} of no stream in this namespace`
  const lines = [`bookie ${printable(bookie)} (${state}) is named by ${plural(ledgers, 'ledger')}, ${share}`]
  if (safe)
    return [
      ...lines,
      `${io.colors.green('safe')}: every entry keeps enough copies, and others can take its own`,
    ]
  return [...lines, `${io.colors.red('NOT SAFE')}:`, ...why.map((reason) => `  ${printable(reason)}`)]
}
