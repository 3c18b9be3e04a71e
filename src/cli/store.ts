import { resolve } from 'node:path'
import type { Command } from 'commander'
import type {
  StoreLineDto,
  StoreListDto,
  StoreProgressDto,
  StoreWorkDto,
  StoreWorkPart,
} from '../model/control-api.js'
import { formatBytes } from '../model/units.js'
import type { CliIo } from './io.js'
import { formatCount, plural, printable, table } from './render.js'

/** As many characters of an id as tell stores apart. */
const ID_SHOWN = 8

/** `stratalog store list | replace | drain`. */
export function register(program: Command, io: CliIo): void {
  const group = program
    .command('store')
    .description('the segment stores of the hot tier: what they hold, and putting others in their place')
  group
    .command('list')
    .description('every store, with the copies that ledgers say it should have')
    .option('--check', 'exit with 5 when a store or a copy is not what it should be: for monitoring')
    .addHelpText('after', '\nExamples:\n  stratalog store list\n  stratalog store list --check --json')
    .action(async (options: { check?: boolean }) => list(io, options.check ?? false))
  group
    .command('replace')
    .argument('<store>', 'its directory, or its id')
    .description('make a new store in the place of a lost one, and copy to it what that one held')
    .option('--with <directory>', 'make it there, and use it instead of the directory that is configured')
    .option('--rate <bytes>', 'copy at most so much a second, as 50 MiB/s')
    .addHelpText(
      'after',
      '\nThe directory must be empty: nothing is ever written over. Safe to stop and to run again: it goes on. While an\napplication has the log open, that one does the work, and goes on with ledgers that are still open when they close.\n\nExamples:\n  stratalog store replace /disk2/strata\n  stratalog store replace /disk2/strata --with /disk4/strata --rate 50MiB/s',
    )
    .action(async (store: string, options: { with?: string; rate?: string }) => replace(io, store, options))
  group
    .command('drain')
    .argument('<store>', 'its directory, or its id')
    .description('copy everything a store holds to the others, and take it out of use')
    .option('--rate <bytes>', 'copy at most so much a second, as 50 MiB/s')
    .addHelpText(
      'after',
      '\nWhen no ledger names it any more, take its directory out of "stores" and restart. To use the disk again, empty the\ndirectory and run: stratalog store replace DIRECTORY\n\nExample:\n  stratalog store drain /disk1/strata --rate 50MiB/s',
    )
    .action(async (store: string, options: { rate?: string }) => drain(io, store, options))
}

async function list(io: CliIo, check: boolean): Promise<void> {
  const { withLog } = await import('./connect.js')
  const { EXIT } = await import('./exit-codes.js')
  await withLog(io, {}, async ({ api }) => {
    const listed = await api.storeList()
    if (io.json) await io.value(listed)
    else {
      for (const line of listLines(io, listed)) await io.line(line)
      io.note(`(${plural(listed.stores.length, 'store')})`)
    }
    const troubled = listed.stores.some((store) => isTroubled(store)) || listed.works.length > 0
    if (check && troubled) io.setExitCode(EXIT.partial)
  })
}

function isTroubled({ role, state, missingCopies, corruptBytes }: StoreLineDto): boolean {
  return role === 'lost' || state !== 'writable' || missingCopies !== 0 || corruptBytes > 0
}

function listLines(io: CliIo, { stores, works }: StoreListDto): string[] {
  const right = 'right' as const
  const columns = [
    { name: 'ID' },
    { name: 'LOCATION' },
    { name: 'STATE' },
    { name: 'DEVICE' },
    { name: 'USED', align: right },
    { name: 'FREE', align: right },
    { name: 'LEDGERS', align: right },
    { name: 'COPIES MISSING', align: right },
    { name: 'CORRUPT', align: right },
  ]
  const lines = table(columns, stores.map(storeCells), io.colors)
  for (const store of stores) if (store.reason !== null) lines.push(reasonLine(store))
  return [...lines, ...works.map(workLine)]
}

/** Why a store is not what it should be, and the command that helps where it is gone for good. */
function reasonLine({ id, location, state, role, reason }: StoreLineDto): string {
  const command = role === 'lost' ? `drain ${id}` : `replace ${printable(location)}`
  // No store was ever seen there: a directory that was added to the configuration.
  const first = id.startsWith('absent:')
  const help = first
    ? `stratalog store ${command} makes a store there`
    : `bring it back, or: stratalog store ${command}`
  const way = state === 'unreachable' ? `; ${help}` : ''
  return `${role === 'lost' ? id.slice(0, ID_SHOWN) : printable(location)}: ${printable(reason ?? '')}${way}`
}

function storeCells(store: StoreLineDto): string[] {
  const { id, location, state, role, device, usedBytes, freeBytes, totalBytes } = store
  const seen = totalBytes > 0
  return [
    id.startsWith('absent:') ? '?' : id.slice(0, ID_SHOWN),
    location,
    role === 'in use' ? state : `${role === 'lost' ? 'lost' : `${state}, out of use`}`,
    seen ? device : '?',
    seen ? formatBytes(usedBytes) : '?',
    seen ? formatBytes(freeBytes) : '?',
    formatCount(store.ledgers),
    store.missingCopies === null ? '?' : formatCount(store.missingCopies),
    formatBytes(store.corruptBytes),
  ]
}

function workLine({ kind, from, to, location, bytesPerSecond }: StoreWorkDto): string {
  const target = to === null ? '' : ` by ${to.slice(0, ID_SHOWN)}`
  const rate = bytesPerSecond === null ? '' : ` at most ${formatBytes(bytesPerSecond)}/s`
  const what = kind === 'replace' ? `being replaced${target}` : 'being drained'
  return `${from.slice(0, ID_SHOWN)} ${printable(location)} is ${what}${rate}: stratalog store ${kind} ${printable(location)} shows how far it is`
}

async function replace(
  io: CliIo,
  store: string,
  options: { readonly with?: string; readonly rate?: string },
): Promise<void> {
  const request = {
    store: storeName(store),
    ...(options.with === undefined ? {} : { with: resolve(options.with) }),
    ...(await rateOf(options.rate)),
  }
  const { withLog } = await import('./connect.js')
  await withLog(io, { lasting: true, bulk: true }, ({ api, beside }) =>
    follow(io, api.storeReplace(request, io.signal), 'replace', beside),
  )
}

async function drain(io: CliIo, store: string, options: { readonly rate?: string }): Promise<void> {
  const request = { store: storeName(store), ...(await rateOf(options.rate)) }
  const { withLog } = await import('./connect.js')
  await withLog(io, { lasting: true, bulk: true }, ({ api, beside }) =>
    follow(io, api.storeDrain(request, io.signal), 'drain', beside),
  )
}

/** An id, or a directory as it is seen from here, wherever the process is that has the log open. */
function storeName(text: string): string {
  return /^[0-9a-f]+$|:/.test(text) ? text : resolve(text)
}

async function rateOf(text: string | undefined): Promise<{ bytesPerSecond?: number }> {
  if (text === undefined) return {}
  const { parseBytes } = await import('../model/units.js')
  const { StratalogError } = await import('../model/errors.js')
  const bytesPerSecond = parseBytes(text.replace(/\s*\/\s*s$/, ''))
  if (bytesPerSecond < 1)
    throw new StratalogError('usage', `--rate "${text}" copies nothing: write a rate, as 50 MiB/s`, {
      found: text,
    })
  return { bytesPerSecond }
}

/** Shows how the copies are coming and says at the end what is left. */
async function follow(
  io: CliIo,
  parts: AsyncIterable<StoreWorkPart>,
  kind: 'replace' | 'drain',
  beside: boolean,
): Promise<void> {
  let bar: ReturnType<CliIo['progress']> | null = null
  try {
    for await (const part of parts) {
      if (part.type === 'begun') {
        if (io.json) await io.value(part)
        else if (kind === 'replace')
          io.note(`(new store ${part.to?.slice(0, ID_SHOWN)} in ${printable(part.location)})`)
      } else if (part.type === 'progress') {
        const { totalBytes, doneBytes, doneLedgers, ledgers } = part.progress
        bar ??= io.progress({ label: kind, unit: 'bytes', total: totalBytes })
        bar.update(doneBytes, `${formatCount(doneLedgers)}/${formatCount(ledgers)} ledgers`)
      } else {
        bar?.end()
        await finish(io, part.progress, kind, beside)
      }
    }
  } finally {
    bar?.end()
  }
}

async function finish(
  io: CliIo,
  progress: StoreProgressDto | null,
  kind: 'replace' | 'drain',
  beside: boolean,
): Promise<void> {
  const { EXIT } = await import('./exit-codes.js')
  if (io.json) await io.value({ type: 'end', progress })
  else for (const line of endLines(progress, kind, beside)) await io.line(line)
  if (progress === null) return
  if (progress.unrepairable.length > 0) io.setExitCode(EXIT.loss)
  else if (progress.openLedgers + progress.incompleteLedgers > 0) io.setExitCode(EXIT.partial)
}

function endLines(progress: StoreProgressDto | null, kind: 'replace' | 'drain', beside: boolean): string[] {
  if (progress === null) return ['nothing to copy: no ledger names a store that is gone']
  const { from, to, doneLedgers, copiedBytes, openLedgers, incompleteLedgers, unrepairable, problem } =
    progress
  const target = to === null ? '' : ` to ${to.slice(0, ID_SHOWN)}`
  const lines = [
    `${kind === 'replace' ? 'replaced' : 'drained'} ${from.slice(0, ID_SHOWN)}: ${plural(doneLedgers, 'ledger')} moved${target}, ${formatBytes(copiedBytes)} copied and read back`,
  ]
  if (openLedgers > 0)
    lines.push(
      `${plural(openLedgers, 'ledger')} still open: ${beside ? `the application goes on with ${openLedgers === 1 ? 'it' : 'them'} at the next seal` : 'an application that has the log open goes on, or run this again'}`,
    )
  if (incompleteLedgers > 0)
    lines.push(
      `${plural(incompleteLedgers, 'ledger')} not whole, left as they are${problem === null ? '' : `: ${printable(problem)}`}`,
    )
  for (const { ledgerId, entryId, reason } of unrepairable)
    lines.push(`entry ${entryId} of ledger ${ledgerId} has no valid copy left: ${printable(reason)}`)
  return lines
}
