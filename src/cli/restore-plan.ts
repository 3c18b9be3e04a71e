import { existsSync } from 'node:fs'
import { dirname } from 'node:path'
import { openSegmentObject } from '../../archive/segment-reader.js'
import { TXID_MAX } from '../model/record.js'
import { formatBytes, formatDuration, formatTime } from '../model/units.js'
import { isDistributed, readConfiguration, storeDirectories } from '../open/configuration.js'
import { systemPorts } from '../open/system.js'
import type { OpenOptions, SystemPorts } from '../options.js'
import type { ArchiveStore } from '../ports/archive-store.js'
import type { RestorableStream, RestoreGap, RestorePlan } from '../restore.js'
import { quietSystem } from './quiet.js'
import { type Colors, formatCount, plural, table } from './render.js'

/** Objects of which the index is read to learn how far they unpack, and bytes that are read to learn how fast. */
const SAMPLES_MAX = 8
const SAMPLE_BYTES = 8 * 1024 * 1024
const SAID_MAX = 3

/** What a restore is going to take, as far as can be told before. */
export interface RestoreEstimate {
  readonly needsBytes: number
  /** Null: it goes to bookies, which say it to nobody before they are written to. */
  readonly freeBytes: number | null
  readonly copies: number
  /** At which the archive was read just now; null: too little to tell. */
  readonly bytesPerSecond: number | null
}

/** A few objects tell how far they unpack and how fast the archive gives them. */
export async function estimateRestore(
  archive: ArchiveStore,
  plan: RestorePlan,
  directory: string,
  options: OpenOptions,
  signal: AbortSignal,
): Promise<RestoreEstimate> {
  const system = await systemPorts(await quietSystem())
  const config = await readConfiguration(directory, options)
  const { copies } = config.policyFor('').policy.quorum
  const all = plan.streams.flatMap(({ segments }) => segments)
  const step = Math.max(1, Math.floor(all.length / SAMPLES_MAX))
  const samples = all.filter((_, at) => at % step === 0).slice(0, SAMPLES_MAX)
  let [packed, unpacked] = [0, 0]
  for (const { key, sizeBytes, parsed } of samples) {
    // A damaged one is no reason to estimate nothing: the plan says what is missing, the restore what is damaged.
    const reader = await openSegmentObject(
      archive,
      { key, sizeBytes, indexBytes: parsed.indexBytes },
      undefined,
      {
        signal,
      },
    ).catch(() => null)
    if (reader === null) continue
    packed += sizeBytes
    unpacked += reader.footer.lengthBytes
  }
  const needsBytes = Math.round(plan.objectBytes * (packed === 0 ? 1 : unpacked / packed) * copies)
  const directories = isDistributed(config) ? null : storeDirectories(directory, config)
  const freeBytes = directories === null ? null : await freeOf(system, directories)
  return { needsBytes, freeBytes, copies, bytesPerSecond: await readRate(archive, samples, signal) }
}

/** Stores on one disk share its space. */
async function freeOf({ disk }: SystemPorts, directories: readonly string[]): Promise<number> {
  const spaces = new Map<string, number>()
  for (const store of directories) {
    const { device, freeBytes } = await disk.space(existing(store))
    spaces.set(device, freeBytes)
  }
  return [...spaces.values()].reduce((sum, free) => sum + free, 0)
}

async function readRate(
  archive: ArchiveStore,
  samples: readonly { readonly key: string; readonly sizeBytes: number }[],
  signal: AbortSignal,
): Promise<number | null> {
  const startedMs = performance.now()
  let bytes = 0
  for (const { key, sizeBytes } of samples) {
    if (bytes >= SAMPLE_BYTES) break
    const range = Math.min(sizeBytes, SAMPLE_BYTES - bytes)
    bytes += (await archive.readRange(key, 0, range, signal).catch(() => new Uint8Array(0))).length
  }
  return bytes < SAMPLE_BYTES / 8 ? null : Math.round((bytes * 1_000) / (performance.now() - startedMs))
}

function existing(path: string): string {
  return existsSync(path) ? path : existing(dirname(path))
}

/** Whether something is not to be had that once was there. */
export function hasLosses(plan: RestorePlan): boolean {
  return plan.streams.some(({ gaps, lostAtEnd }) => gaps.length > 0 || lostAtEnd > 0n)
}

/** The plan as JSON. */
export function planValue(plan: RestorePlan): {
  from: string
  streams: object[]
  segments: number
  records: bigint
  objectBytes: number
  digest: string
  left: RestorePlan['left']
  foreign: number
  owner: RestorePlan['owner']
} {
  return {
    from: plan.location,
    streams: plan.streams.map((stream) => {
      const { first, last, from, until } = span(stream)
      return {
        name: stream.name,
        was: stream.binding.name,
        incarnation: stream.incarnation,
        segments: stream.segments.length,
        records: stream.records,
        first,
        last,
        from,
        until,
        state: states(stream).join('; '),
        trimmedBelow: stream.trimmedBelow?.toString() ?? null,
        fork: stream.fork.toString(),
        finishedMs: stream.end?.atMs ?? null,
        lostAtEnd: stream.lostAtEnd,
        gaps: stream.gaps,
      }
    }),
    segments: plan.segments,
    records: plan.records,
    objectBytes: plan.objectBytes,
    digest: plan.digest,
    left: plan.left,
    foreign: plan.foreign.length,
    owner: plan.owner,
  }
}

/** What would be restored, for people. */
export function planLines(plan: RestorePlan, estimate: RestoreEstimate, colors: Colors): string[] {
  const { needsBytes, freeBytes, copies, bytesPerSecond } = estimate
  const rows = plan.streams.map((stream) => {
    const { from, until, first, last } = span(stream)
    const shown =
      stream.name === stream.binding.name ? stream.name : `${stream.name} (was ${stream.binding.name})`
    const [state = '', ...more] = states(stream)
    return [
      [
        shown,
        formatCount(stream.records),
        from === null ? '' : `${from} … ${until}`,
        first === null ? '' : `${first} … ${last}`,
        state,
      ],
      ...more.map((one) => ['', '', '', '', one]),
    ]
  })
  const columns = [
    { name: 'STREAM' },
    { name: 'RECORDS', align: 'right' as const },
    { name: 'POSITIONS' },
    { name: 'TXID' },
    { name: '' },
  ]
  const time =
    bytesPerSecond === null
      ? ''
      : ` · about ${formatDuration((plan.objectBytes * 1_000) / bytesPerSecond)} to read at ${formatBytes(bytesPerSecond)}/s`
  const owner =
    plan.owner === null
      ? 'the archive has no owner'
      : `the archive belongs to log ${plan.owner.logId.slice(0, 8)}… (epoch ${plan.owner.epoch}): restoring a copy, not taking over`
  return [
    `would restore ${plural(plan.streams.length, 'stream')}, ${plural(plan.segments, 'segment')}, ${plural(plan.records, 'record')}, ${formatBytes(plan.objectBytes)} of objects from ${plan.location}`,
    ...table(columns, rows.flat(), colors),
    ...plan.left.map(({ name, why }) => `not restored: ${name}  ${why}`),
    ...(plan.foreign.length === 0
      ? []
      : [`${plural(plan.foreign.length, 'key')} of nothing we know, left alone: ${some(plan.foreign)}`]),
    `needs about ${formatBytes(needsBytes)} for ${copies === 1 ? 'one copy' : `${copies} copies`}, ${freeText(needsBytes, freeBytes)}${time}`,
    owner,
    `digest ${plan.digest}`,
  ]
}

function freeText(needsBytes: number, freeBytes: number | null): string {
  if (freeBytes === null) return 'on bookies, whose free space is not known here'
  return `${formatBytes(freeBytes)} free${needsBytes > freeBytes ? ': NOT ENOUGH' : ''}`
}

function span(stream: RestorableStream): {
  first: string | null
  last: string | null
  from: string | null
  until: string | null
} {
  const first = stream.segments[0]?.restored
  const last = stream.segments.at(-1)?.restored
  if (first === undefined || last === undefined) return { first: null, last: null, from: null, until: null }
  const shown = (txid: bigint) =>
    stream.binding.txidMode === 'ms' ? formatTime(Number(txid)) : txid.toString()
  return {
    first: shown(first.firstTxid),
    // The record that ends a stream is the last of its segment, and its txid is no time.
    last: last.lastTxid === TXID_MAX ? 'its end' : shown(last.lastTxid),
    from: `${first.segment}:0:0`,
    until: `${last.segment}:${last.lastEntryId}:${last.lastSlot}`,
  }
}

function states({ gaps, trimmedBelow, end, segments, lostAtEnd }: RestorableStream): string[] {
  const said: string[] = []
  if (trimmedBelow !== null && trimmedBelow.segment > 1n)
    said.push(`starts at ${trimmedBelow.segment}: trimmed below`)
  for (const gap of gaps.slice(0, SAID_MAX)) said.push(gapText(gap))
  if (gaps.length > SAID_MAX) said.push(`and ${plural(gaps.length - SAID_MAX, 'gap')} more`)
  if (lostAtEnd > 0n) said.push(`ENDS EARLY: ${plural(lostAtEnd, 'record')} never reached the archive`)
  if (end !== null) said.push(`finished ${formatTime(end.atMs)}`)
  if (segments.length === 0 && gaps.length === 0 && said.length === 0) said.push('nothing archived')
  return said.length === 0 ? ['complete'] : said
}

/** `MISSING segments 5 to 7 (no object in the listing)  → gap record {corrupt}, or stop: --strict`. */
export function gapText({ first, last, reason, why, committed }: RestoreGap): string {
  const where = whereOf({ first, last })
  return committed
    ? `gap {${reason}} at ${where}: ${why}`
    : `MISSING ${where} (${why})  → gap record {${reason}}, or stop: --strict`
}

/** `segment 5`, `segments 5 to 7`. */
export function whereOf({ first, last }: Pick<RestoreGap, 'first' | 'last'>): string {
  return first === last ? `segment ${first}` : `segments ${first} to ${last}`
}

/** The most important line: what nobody can restore from here. */
export function notThere(plan: RestorePlan): string {
  const hot = 'whatever was hot only when the machine was lost'
  if (plan.until === null) return `not in the archive: ${hot}`
  const until = 'timeMs' in plan.until ? formatTime(plan.until.timeMs) : `${plan.until.dlsn}`
  return `not restored: records from ${until} on; not in the archive: ${hot}`
}

function some(names: readonly string[]): string {
  return `${names.slice(0, SAID_MAX).join(', ')}${names.length > SAID_MAX ? ', …' : ''}`
}
