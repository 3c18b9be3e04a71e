import { nearest } from '../config/suggest.js'
import type { PlannedDto, StreamTiersDto, TierStatusDto } from '../model/control-api.js'
import { StratalogError } from '../model/errors.js'
import { formatBytes, formatDuration, formatTime } from '../model/units.js'
import { coldScrubLines } from './archive-status.js'
import { withLog } from './connect.js'
import { EXIT } from './exit-codes.js'
import type { CliIo } from './io.js'
import { formatCount, plural, printable, table } from './render.js'

const BAR_WIDTH = 40
/** Streams the line about burning disks names; the others are counted. */
const RISKS_SHOWN_MAX = 5

/** Prints `tier status`; with `check` the exit code says whether something is behind. */
export async function status(io: CliIo, stream: string | undefined, check: boolean): Promise<void> {
  await withLog(io, {}, async ({ api, beside }) => {
    const all = await api.tierStatus()
    const shown = stream === undefined ? all : { ...all, streams: [one(all, stream)] }
    const late = shown.streams.filter((line) => isBehind(line, all))
    const troubled =
      all.archive.state === 'down' || all.stores.some((store) => store.state !== 'writable') || all.gaps > 0
    if (io.json) await io.value({ ...shown, behind: late.map((line) => line.stream.name) })
    else {
      for (const line of [
        ...archiveLines(all, beside),
        ...storeLines(all),
        ...scrubLines(all),
        ...coldScrubLines(all.coldScrub),
        '',
        ...streamLines(io, shown),
        summaryLine(shown, late.length),
        riskLine(shown),
      ])
        await io.line(line)
      const [only] = shown.streams
      if (stream !== undefined && only !== undefined)
        for (const line of historyLines(only)) await io.line(line)
    }
    if (check && (late.length > 0 || troubled)) io.setExitCode(EXIT.partial)
    // Damage that nothing can be taken for outranks what is only late.
    if (check && all.scrub.unrepairable.length + (all.coldScrub?.alarms.length ?? 0) > 0)
      io.setExitCode(EXIT.loss)
  })
}

function one(all: TierStatusDto, name: string): StreamTiersDto {
  const found = all.streams.find((line) => line.stream.name === name)
  if (found !== undefined) return found
  const near = nearest(
    name,
    all.streams.map((line) => line.stream.name),
  )
  throw new StratalogError(
    'stream_not_found',
    `there is no stream ${name}: ${near === null ? 'see "stratalog stream list"' : `did you mean ${near}?`}`,
    { found: name },
  )
}

/**
 * Behind: a step of protection is due and not done, whether or not the archive is to blame. A closed window is no
 * delay, and space that could be freed puts no record at risk.
 */
function isBehind({ next }: StreamTiersDto, all: TierStatusDto): boolean {
  if (next === null || next.kind === 'evict' || next.dueMs > all.atMs) return false
  return next.blockedBy === null || next.blockedBy === 'archive'
}

function archiveLines(all: TierStatusDto, beside: boolean): string[] {
  const { location, state, downSinceMs, lastError, lastOkMs } = all.archive
  if (location === null)
    return [
      'archive  none: everything stays on these disks alone (name one under "archive" in stratalog.yaml)',
    ]
  if (state !== 'down') {
    // Nothing was asked of it so far, so nothing is known of it.
    const unused = `not used yet by ${beside ? 'the process that has the log open' : 'this process'}`
    const known = lastOkMs === null ? unused : `ok, last used ${formatTime(lastOkMs)}`
    return [`archive  ${printable(location)}   ${known}`]
  }
  const since =
    downSinceMs === null
      ? ''
      : ` since ${formatTime(downSinceMs)} (${formatDuration(all.atMs - downSinceMs)})`
  const waiting = all.streams.reduce((sum, line) => sum + line.atRiskBytes, 0)
  return [
    `archive  ${printable(location)}   DOWN${since}  ${printable(lastError ?? '')}${lastOkMs === null ? '' : `, last ok ${formatTime(lastOkMs)}`}`,
    `         waiting ${formatBytes(waiting)}`,
  ]
}

function storeLines({ stores }: TierStatusDto): string[] {
  const writable = stores.filter((store) => store.state === 'writable').length
  const seen = stores.filter((store) => store.totalBytes > 0)
  const devices = new Set(seen.map((store) => store.device)).size
  const full = stores.map(
    (store) =>
      `${printable(store.location)} ${store.totalBytes === 0 ? '?' : `${Math.round(((store.totalBytes - store.freeBytes) / store.totalBytes) * 100)} %`}`,
  )
  const lines = [
    `stores   ${writable} of ${stores.length} writable   ${full.join('  ')}   ${plural(seen.length, 'store')} on ${plural(devices, 'device')}`,
  ]
  for (const store of stores) {
    if (store.state !== 'writable')
      lines.push(
        `         ${printable(store.location)} is ${store.state}: ${printable(store.reason ?? 'no reason given')}`,
      )
    if (store.corruptBytes > 0)
      lines.push(
        `         ${printable(store.location)} has ${formatBytes(store.corruptBytes)} of damaged data, found since it was opened: the scrub mends it from other copies`,
      )
  }
  return lines
}

/** `scrub    hot 83 % of pass (ends 2d 4h), repaired 2, unrepairable 0`. */
function scrubLines({ scrub, atMs }: TierStatusDto): string[] {
  const { passStartedMs, passEndsMs, idle, doneBytes, totalBytes, unreached, unrepairable } = scrub
  const ends = passEndsMs === null ? '' : formatDuration(Math.max(0, passEndsMs - atMs))
  const percent = totalBytes === 0 ? 100 : Math.min(99, Math.floor((doneBytes / totalBytes) * 100))
  const pass =
    passStartedMs === null
      ? 'hot not begun yet'
      : idle
        ? `hot 100 % of pass (next in ${ends})`
        : `hot ${percent} % of pass (ends ${ends})`
  const away = unreached === 0 ? '' : `, ${formatCount(unreached)} not reached`
  const lines = [
    `scrub    ${pass}, repaired ${formatCount(scrub.repaired + scrub.repairedOnRead)}, unrepairable ${formatCount(unrepairable.length)}${away}`,
  ]
  for (const { ledgerId, entryId, storeId, reason } of unrepairable.slice(0, RISKS_SHOWN_MAX))
    lines.push(
      `         entry ${entryId} of ledger ${ledgerId} on store ${storeId.slice(0, 8)} has no valid copy left: ${printable(reason)}`,
    )
  return lines
}

function streamLines(io: CliIo, status: TierStatusDto): string[] {
  if (status.streams.length === 0) return []
  const right = 'right' as const
  const columns = [
    { name: 'STREAM' },
    { name: 'HOT', align: right },
    { name: '', align: right },
    { name: 'COLD', align: right },
    { name: '', align: right },
    { name: 'BOTH', align: right },
    { name: 'OLDEST UNCOPIED' },
    { name: 'LAG', align: right },
    { name: 'NEXT' },
  ]
  const rows = status.streams.map((line) => {
    const { totals, name } = line.stream
    const cold = totals.coldSegments === 0
    const { oldestUncopied: oldest, atRiskSinceMs } = line
    const hot = [
      formatBytes(totals.hotBytes + (line.openBytes > totals.hotBytes ? line.openBytes : 0)),
      formatCount(totals.hotSegments),
    ]
    const tiers = [
      ...hot,
      cold ? '—' : formatBytes(totals.coldBytes),
      cold ? '' : formatCount(totals.coldSegments),
      cold ? '—' : formatBytes(totals.bothBytes),
    ]
    const lag = atRiskSinceMs === null ? '—' : formatDuration(Math.max(0, status.atMs - atRiskSinceMs))
    return [
      name,
      ...tiers,
      oldest === null ? '—' : `seg ${oldest.segment} ${shortTime(oldest.openedMs, status.atMs)}`,
      lag,
      nextText(line.next, status.atMs),
    ]
  })
  return table(columns, rows, io.colors)
}

/** `14:02Z` of today, else the day. */
function shortTime(ms: number, nowMs: number): string {
  const [day, clock = ''] = formatTime(ms).split('T')
  return formatTime(nowMs).startsWith(`${day}T`) ? `${clock.slice(0, 5)}Z` : `${day}`
}

function nextText(next: PlannedDto | null, nowMs: number): string {
  if (next === null) return '—'
  if (next.blockedBy === 'archive') return `${next.kind}  (archive down)`
  if (next.never) return `${next.kind}  (${next.field})`
  const when = next.dueMs <= nowMs ? 'now' : `in ${formatDuration(next.dueMs - nowMs)}`
  return `${next.kind}  ${next.blockedBy === 'window' ? `window ${shortTime(next.dueMs, nowMs)}` : when}${next.dueMs > nowMs && next.blockedBy === null ? ` (${next.field})` : ''}`
}

function summaryLine(status: TierStatusDto, behind: number): string {
  const since = status.streams.flatMap((line) => (line.sinceMs === null ? [] : [line.sinceMs]))
  const history =
    since.length === 0
      ? 'no history yet'
      : `history ${formatTime(since.reduce((least, ms) => Math.min(least, ms)))} … now`
  const gaps = status.gaps === 0 ? 'no gap' : plural(status.gaps, 'gap')
  return `${plural(status.streams.length, 'stream')}, ${formatCount(behind)} behind · ${history}, ${gaps}`
}

/** What there is to lose: the line that matters most. */
function riskLine(status: TierStatusDto): string {
  const risks = status.streams
    .filter((line) => line.atRiskBytes > 0)
    .sort((a, b) => b.atRiskBytes - a.atRiskBytes)
  if (risks.length === 0) {
    // A directory may well be on one of the disks that burn.
    const directory = status.archive.location?.startsWith('/')
      ? ' (it is a directory: on a disk of its own?)'
      : ''
    return `if these disks burned now: nothing is lost${status.streams.length === 0 ? '' : `, all of it is in the archive${directory}`}`
  }
  const named = risks.slice(0, RISKS_SHOWN_MAX).map((line) => {
    const lag =
      line.atRiskSinceMs === null ? '' : `${formatDuration(Math.max(0, status.atMs - line.atRiskSinceMs))} `
    return `${printable(line.stream.name)} loses ${lag}(${formatBytes(line.atRiskBytes)})`
  })
  const others =
    risks.length > RISKS_SHOWN_MAX ? [`and ${plural(risks.length - RISKS_SHOWN_MAX, 'stream')} more`] : []
  return `if these disks burned now: ${[...named, ...others].join(', ')}`
}

/** One bar of a stream's history by bytes: `cold ████▓▓··│`. */
function historyLines(line: StreamTiersDto): string[] {
  const { hotBytes, coldBytes, bothBytes } = line.stream.totals
  const openBytes = Math.min(line.openBytes, Math.max(hotBytes, line.openBytes))
  const parts = [
    { name: 'cold', sign: '█', bytes: coldBytes - bothBytes },
    { name: 'both', sign: '▓', bytes: bothBytes },
    { name: 'hot', sign: '·', bytes: Math.max(0, hotBytes - bothBytes) },
    { name: 'open', sign: '│', bytes: openBytes },
  ].filter((part) => part.bytes > 0)
  const total = parts.reduce((sum, part) => sum + part.bytes, 0)
  if (total === 0 || line.sinceMs === null) return []
  const drawn = parts
    .map((part) => part.sign.repeat(Math.max(1, Math.round((part.bytes / total) * BAR_WIDTH))))
    .join('')
  return [
    '',
    `${formatTime(line.sinceMs)} ${drawn} now`,
    parts.map((part) => `${part.sign} ${part.name} ${formatBytes(part.bytes)}`).join('   '),
  ]
}
