import { nearest } from '../config/suggest.js'
import type { PlannedDto, StreamTiersDto, TierStatusDto } from '../model/control-api.js'
import type { ArchiveHealthDto, HistoryDto } from '../model/control-status.js'
import { StratalogError } from '../model/errors.js'
import { formatBytes, formatDuration, formatTime } from '../model/units.js'
import { coldScrubLines } from './archive-status.js'
import { withLog } from './connect.js'
import { EXIT } from './exit-codes.js'
import type { CliIo } from './io.js'
import { formatCount, plural, printable, table } from './render.js'
import { orderLines } from './tier-orders.js'

/** Streams the line about burning disks names; the others are counted. */
const RISKS_SHOWN_MAX = 5
/** Streams named that lie elsewhere than their policy says; the others are counted. */
const STAYING_SHOWN_MAX = 3
/** Streams named that drop or slow; the others are counted. */
const STREAMS_NAMED_MAX = 3

/** Prints `tier status`; with `check` the exit code says whether something is behind. */
export async function status(io: CliIo, stream: string | undefined, check: boolean): Promise<void> {
  await withLog(io, {}, async ({ api, beside }) => {
    const all = await api.tierStatus()
    const shown = stream === undefined ? all : { ...all, streams: [one(all, stream)] }
    const late = shown.streams.filter(({ behind }) => behind)
    const troubled = isTroubled(all)
    const [only] = stream === undefined ? [] : shown.streams
    const history = only === undefined ? null : await api.tierHistory(only.stream.name)
    const behind = late.map((line) => line.stream.name)
    if (io.json) await io.value(history === null ? { ...shown, behind } : { ...shown, behind, history })
    else {
      for (const line of [
        ...archiveLines(all, beside),
        ...storeLines(all),
        ...scrubLines(all),
        ...coldScrubLines(all.coldScrub),
        ...policyLines(all),
        ...orderLines(all.orders, all.atMs),
        ...thawLines(shown),
        '',
        ...streamLines(io, shown),
        summaryLine(shown, late.length) +
          (check && (late.length > 0 || troubled) ? '   exit 5 (partial)' : ''),
        riskLine(shown),
        ...(only === undefined || history === null ? [] : historyLines(io, only, history)),
      ])
        await io.line(line)
    }
    if (check && (late.length > 0 || troubled)) io.setExitCode(EXIT.partial)
    // Damage that nothing can be taken for outranks what is only late.
    if (check && all.scrub.unrepairable.length + (all.coldScrub?.alarms.length ?? 0) > 0)
      io.setExitCode(EXIT.loss)
  })
}

/** Prints `status`: the same in a few lines, whatever the number of streams. */
export async function summary(io: CliIo, check: boolean): Promise<void> {
  await withLog(io, {}, async ({ api, beside, directory }) => {
    const all = await api.tierStatus()
    const late = all.streams.filter(({ behind }) => behind).map((line) => line.stream.name)
    const { logId, pid } = await api.ping()
    const who = beside ? `open in process ${pid}` : 'open in no process'
    if (io.json) {
      const { streams, scrub: _, ...rest } = all
      const atRisk = streams
        .filter(({ atRiskBytes }) => atRiskBytes > 0)
        .map(({ stream, atRiskBytes, atRiskSinceMs }) => ({
          stream: stream.name,
          atRiskBytes,
          atRiskSinceMs,
        }))
      await io.value({ directory, logId, pid: beside ? pid : null, ...rest, behind: late, atRisk })
    } else {
      const lines = [
        ...archiveLines(all, beside),
        ...storeLines(all),
        summaryLine(all, late.length),
        riskLine(all),
      ]
      for (const line of [`log      ${printable(directory)}   ${who}`, ...lines]) await io.line(line)
    }
    if (check && (late.length > 0 || isTroubled(all))) io.setExitCode(EXIT.partial)
    if (check && all.scrub.unrepairable.length > 0) io.setExitCode(EXIT.loss)
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

/** Whether something is wrong that is no single stream's. */
function isTroubled(all: TierStatusDto): boolean {
  const { archive, stores, gaps, stalled } = all
  const down = [archive, ...archive.own].some(({ state }) => state === 'down' || state === 'failing')
  return down || gaps > 0 || stalled.length > 0 || stores.some((store) => store.state !== 'writable')
}

/** How the archive is; while it is down what waits for it, and what becomes of the disks. */
export function archiveLines(all: TierStatusDto, beside: boolean): string[] {
  const { location, state, downSinceMs, lastOkMs, lastAnswerMs } = all.archive
  if (location === null)
    return [
      'archive  none: everything stays on these disks alone (name one under "archive" in stratalog.yaml)',
    ]
  if (state === 'ok' || state === 'none') {
    const own = ownArchiveLines(all)
    // A probe may have been answered, and nothing was copied by this process so far.
    const unused = `not used yet by ${beside ? 'the process that has the log open' : 'this process'}`
    const answers = lastAnswerMs === null ? unused : `answers, ${unused}`
    const known = lastOkMs === null ? answers : `ok, last used ${formatTime(lastOkMs)}`
    return [`archive  ${printable(location)}   ${known}`, ...own, ...stayLines(all), ...stalledLines(all)]
  }
  const since =
    downSinceMs === null
      ? ''
      : ` since ${formatTime(downSinceMs)} (${formatDuration(Math.max(0, all.atMs - downSinceMs))})`
  const word = state === 'down' ? 'DOWN' : 'failing'
  return [
    `archive  ${printable(location)}   ${word}${since}  ${whyDown(all)}`,
    `         ${whatWaits(all).join(' · ')}`,
    ...ownArchiveLines(all),
    ...stayLines(all),
    ...stalledLines(all),
  ]
}

/** Archives that some streams have to themselves: each is well or not on its own. */
function ownArchiveLines({ archive, atMs }: TierStatusDto): string[] {
  return archive.own.map((one) => {
    const where = `         ${printable(one.location)}   ${plural(one.streams, 'stream')}`
    if (one.state === 'ok' || one.state === 'none')
      return `${where}, ${one.lastOkMs === null ? 'not used yet by this process' : `ok, last used ${formatTime(one.lastOkMs)}`}`
    const since = one.downSinceMs === null ? '' : ` since ${formatTime(one.downSinceMs)}`
    return `${where}, ${one.state === 'down' ? 'DOWN' : 'failing'}${since}  ${whyDown({ archive: one, atMs })}`
  })
}

/** A policy names an archive for streams that come; those there are stay where they are. */
function stayLines({ streams }: TierStatusDto): string[] {
  const staying = streams.flatMap(({ stream, stays }) =>
    stays === null ? [] : [{ name: stream.name, ...stays }],
  )
  const lines = staying
    .slice(0, STAYING_SHOWN_MAX)
    .map(
      ({ name, at, named, origin }) =>
        `         ${printable(name)} stays in ${printable(at)}: ${printable(named)} (${printable(origin.replace(/ +/g, ' '))}) is for streams created from now on`,
    )
  const left = staying.length - lines.length
  return left > 0 ? [...lines, `         and ${plural(left, 'other stream')} likewise`] : lines
}

function policyLines({ policy: { file, problem, needsRestart } }: TierStatusDto): string[] {
  const refused = problem === null ? [] : [`${file} is refused: ${problem.message}`]
  const later = needsRestart.map(
    ({ setting, origin }) => `${setting} (${origin}) waits for the log to be opened again`,
  )
  return [...refused, ...later].map((line) => `policy   ${printable(line)}`)
}

/** `503 SlowDown ×412, last ok 14:02:09Z, next probe in 20s`. */
function whyDown({ archive, atMs }: { readonly archive: ArchiveHealthDto; readonly atMs: number }): string {
  const { lastError, errors, lastOkMs, nextProbeMs } = archive
  const count = errors.find(({ message }) => message === lastError)?.count ?? 1
  const parts = [`${printable(lastError ?? '')}${count > 1 ? ` ×${formatCount(count)}` : ''}`]
  if (lastOkMs !== null) parts.push(`last ok ${formatTime(lastOkMs)}`)
  if (nextProbeMs !== null) parts.push(`next probe in ${formatDuration(Math.max(0, nextProbeMs - atMs))}`)
  return parts.join(', ')
}

/** `waiting 38.8 GiB in 165 segments`, `disk full in 5h 40m at 11.4 MiB/s`, `clicks will drop, audit will slow writers`. */
function whatWaits({ archive, forecasts }: TierStatusDto): string[] {
  const { waitingBytes, waitingSegments, drops, slows, slowing } = archive
  const parts = [`waiting ${formatBytes(waitingBytes)} in ${plural(waitingSegments, 'segment')}`]
  const [first] = forecasts
    .filter(({ fullInMs }) => fullInMs !== null)
    .sort((a, b) => (a.fullInMs ?? 0) - (b.fullInMs ?? 0))
  if (first !== undefined && first.fullInMs !== null && first.bytesPerSecond !== null)
    parts.push(
      `disk full in ${formatDuration(first.fullInMs)} at ${formatBytes(Math.round(first.bytesPerSecond))}/s`,
    )
  const becomes = [
    ...(drops.length === 0 ? [] : [`${named(drops)} will drop`]),
    ...(slows.length === 0 ? [] : [`${named(slows)} ${slowing ? 'slows writers now' : 'will slow writers'}`]),
  ]
  if (becomes.length > 0) parts.push(becomes.join(', '))
  return parts
}

function named(streams: readonly string[]): string {
  const more = streams.length - STREAMS_NAMED_MAX
  const shown = streams.slice(0, STREAMS_NAMED_MAX).map(printable).join(', ')
  return more > 0 ? `${shown} and ${plural(more, 'stream')} more` : shown
}

function stalledLines({ stalled, atMs }: TierStatusDto): string[] {
  return stalled.map(({ kind, stream, segment, sinceMs }) => {
    const what = segment === null ? kind : `${kind} of ${printable(stream)} seg ${segment}`
    return `         ${what} stalled since ${formatTime(sinceMs)} (${formatDuration(Math.max(0, atMs - sinceMs))}), it is tried again`
  })
}

/** `thaw     audit: 3 segments thawing since 14:02Z, asked again in 10m`. */
function thawLines({ streams, atMs }: TierStatusDto): string[] {
  const waiting = streams.flatMap(({ stream, thawing }) => (thawing === null ? [] : [{ stream, thawing }]))
  const more = waiting.length - RISKS_SHOWN_MAX
  return [
    ...waiting.slice(0, RISKS_SHOWN_MAX).map(({ stream, thawing }) => {
      const { segments, sinceMs, nextAskMs, problem } = thawing
      const again = `asked again in ${formatDuration(Math.max(0, nextAskMs - atMs))}`
      const why = problem === null ? again : `${printable(problem)}; ${again}`
      return `thaw     ${printable(stream.name)}: ${plural(segments, 'segment')} thawing since ${formatTime(sinceMs)}, ${why}`
    }),
    ...(more > 0 ? [`         and ${plural(more, 'stream')} more`] : []),
  ]
}

/** How the stores are. */
export function storeLines({ stores }: TierStatusDto): string[] {
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
  if (scrub.elsewhere)
    return [
      `scrub    hot copies are BookKeeper's to keep (autorecovery); ${plural(scrub.repairedOnRead, 'ledger')} that readers found damaged ${scrub.repairedOnRead === 1 ? 'was' : 'were'} marked for it`,
    ]
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

const DAY_MS = 86_400_000

/** `14:02Z` of today, else the day. */
function shortTime(ms: number, nowMs: number): string {
  const [day, clock = ''] = formatTime(ms).split('T')
  return formatTime(nowMs).startsWith(`${day}T`) ? `${clock.slice(0, 5)}Z` : `${day}`
}

function nextText(next: PlannedDto | null, nowMs: number): string {
  if (next === null) return '—'
  if (next.blockedBy === 'archive') return `${next.kind}  (archive down)`
  if (next.blockedBy === 'writer') return `${next.kind}  (by its writer)`
  if (next.never) return `${next.kind}  (${next.field})`
  const when = next.dueMs <= nowMs ? 'now' : `in ${formatDuration(next.dueMs - nowMs)}`
  const day = next.dueMs - nowMs < DAY_MS ? next.dueMs : nowMs
  return `${next.kind}  ${next.blockedBy === 'window' ? `window ${shortTime(next.dueMs, day)}` : when}${next.dueMs > nowMs && next.blockedBy === null ? ` (${next.field})` : ''}`
}

/** Streams, how many are behind, since when there is history. */
export function summaryLine(status: TierStatusDto, behind: number): string {
  const since = status.streams.flatMap((line) => (line.sinceMs === null ? [] : [line.sinceMs]))
  const history =
    since.length === 0
      ? 'no history yet'
      : `history ${formatTime(since.reduce((least, ms) => Math.min(least, ms)))} … now`
  const gaps = status.gaps === 0 ? 'no gap' : plural(status.gaps, 'gap')
  return `${plural(status.streams.length, 'stream')}, ${formatCount(behind)} behind · ${history}, ${gaps}`
}

/** What there is to lose: the line that matters most. */
export function riskLine(status: TierStatusDto): string {
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

const SIGNS = { cold: '█', both: '▓', hot: '·', open: '│', gap: '×', none: ' ' } as const

/**
 * One bar of a stream's history by time: `2019-03-02 ████▓▓··│ now`, with gaps and what is held marked below. What each
 * sign stands for follows, with its bytes.
 */
function historyLines(io: CliIo, line: StreamTiersDto, history: HistoryDto): string[] {
  const { pieces, gaps, holds, fromMs, untilMs } = history
  if (pieces.length === 0) return []
  const begin = `${formatTime(fromMs)} `
  const bar = pieces.map((tier) => SIGNS[tier]).join('')
  const at = (ms: number) => ((ms - fromMs) / Math.max(1, untilMs - fromMs)) * pieces.length
  const marks = (from: number, until: number, sign: string) => {
    const first = Math.min(pieces.length - 1, Math.max(0, Math.floor(at(from))))
    const last = Math.min(pieces.length - 1, Math.max(first, Math.ceil(at(until)) - 1))
    return `${' '.repeat(begin.length + first)}${sign.repeat(last - first + 1)}`
  }
  const { colors } = io
  return [
    '',
    `${begin}${bar} now`,
    ...gaps.slice(0, RISKS_SHOWN_MAX).map((gap) => {
      const range = gap.first === gap.last ? `seg ${gap.first}` : `segs ${gap.first}–${gap.last}`
      const what = `gap {${gap.reason}} ${range}, ${plural(BigInt(gap.records), 'record')}`
      return `${marks(gap.fromMs, gap.untilMs, '×')} ${colors.red(what)}`
    }),
    ...holds.map(({ id, fromMs: from, untilMs: until }) => {
      return `${marks(from ?? fromMs, until ?? untilMs, '^')} ${colors.yellow(`held: ${printable(id)}`)}`
    }),
    tierSums(line)
      .map(({ tier, bytes }) => `${SIGNS[tier]} ${tier} ${formatBytes(bytes)}`)
      .join('   '),
  ]
}

function tierSums({
  stream,
  openBytes,
}: StreamTiersDto): { tier: 'cold' | 'both' | 'hot' | 'open'; bytes: number }[] {
  const { hotBytes, coldBytes, bothBytes } = stream.totals
  return [
    { tier: 'cold' as const, bytes: coldBytes - bothBytes },
    { tier: 'both' as const, bytes: bothBytes },
    { tier: 'hot' as const, bytes: Math.max(0, hotBytes - bothBytes) },
    { tier: 'open' as const, bytes: openBytes },
  ].filter(({ bytes }) => bytes > 0)
}
