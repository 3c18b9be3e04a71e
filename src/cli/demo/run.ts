import { join, relative, resolve } from 'node:path'
import { formatBytes } from '../../model/units.js'
import { openLog } from '../../open.js'
import { quietSystem } from '../quiet.js'
import { type Column, formatCount, plural, table } from '../render.js'
import { appendUntil, type Progress } from './append.js'
import { eventsThere, readAndCompare } from './compare.js'
import type { DemoRun } from './context.js'
import { claimDirectory, DEMO_FILE_BYTES, DEMO_POLICY, readMarker } from './directory.js'
import type { DemoOutput } from './output.js'
import { readRanges } from './read.js'
import { restoreAndCompare } from './restored.js'
import { type DemoSource, loadSource } from './source.js'
import { evict, sealAndCopy } from './tier.js'

/** Share of the events that goes all the way to the archive before the rest is appended and stays hot. */
const OLD_SHARE = 0.85

const COLUMNS: readonly Column[] = [
  { name: 'STREAM' },
  { name: 'RECORDS', align: 'right' },
  { name: 'HOT', align: 'right' },
  { name: 'COLD', align: 'right' },
  { name: 'BOTH', align: 'right' },
]

export interface DemoOptions {
  readonly directory: string
  /** Events to use; empty: those of vega-datasets. */
  readonly files: readonly string[]
  readonly out: DemoOutput
  readonly signal: AbortSignal
}

/**
 * The whole path once: append, seal, copy, evict, read across both tiers, restore from the archive alone; every
 * record that is read is compared with its source. The source is the same at every run and the records of a stream
 * are numbered without a hole, so a run that was killed anywhere is taken up by the next one: record n is event n.
 */
export async function runDemo({ directory, files, out, signal }: DemoOptions): Promise<void> {
  const marker = await readMarker(directory)
  const startedMs = marker?.startedMs ?? Date.now()
  const source = await loadSource(files, startedMs, signal)
  await claimDirectory(directory, marker, { startedMs, what: source.what, digest: source.digest })
  await using log = await openLog(directory, {
    archive: resolve(directory, 'archive'),
    defaults: DEMO_POLICY,
    // What the environment says is meant for other logs than this one.
    config: 'none',
    // The demo runs the agent itself, a step at a time.
    tiering: 'off',
    control: 'off',
    system: await quietSystem(),
    storeFileBytes: DEMO_FILE_BYTES,
  })
  const run: DemoRun = { directory, source, log, out, signal }
  await opened(run)
  const there = await earlier(run)
  await appendUntil(run, there, OLD_SHARE, 'records')
  await evict(run, await sealAndCopy(run))
  await appendUntil(run, there, 1, 'newer records')
  await readRanges(run)
  await sealAndCopy(run)
  await restoreAndCompare(run)
  await verifyAll(run)
  await closing(run)
}

async function opened({ log, directory, source, out }: DemoRun): Promise<void> {
  const stores = await log.stores()
  const devices = new Set(stores.map((store) => store.device)).size
  const where = `${stores.length} stores on ${devices} ${devices === 1 ? 'device' : 'devices'} · archive ${join(directory, 'archive')}`
  await out.step('open', `log in ${directory}  (${where})`, { directory, stores: stores.length, devices })
  await out.step('source', `${plural(source.records, 'event')}: ${source.what}`, {
    events: source.records,
    streams: source.streams.map(({ name, events }) => ({ name, events: events.length })),
    digest: `sha256:${source.digest}`,
  })
}

/** Compares what an earlier run left with the source; it is gone on with from there. */
async function earlier(run: DemoRun): Promise<Progress> {
  const there: Progress = new Map()
  for (const stream of run.source.streams) {
    there.set(stream.name, await eventsThere(run.log, stream, run.signal))
  }
  const records = [...there.values()].reduce((sum, one) => sum + one, 0)
  if (records === 0) return there
  const whole = records === run.source.records
  const text = whole ? 'an earlier run is complete' : 'an earlier run is gone on with'
  await run.out.step('resume', `${text}: ${plural(records, 'record')} are there and equal the source`, {
    records,
    complete: whole,
    equal: true,
  })
  return there
}

/** The whole log once more, from both tiers: nothing is missing, nothing is there twice. */
async function verifyAll({ log, source, out, signal }: DemoRun): Promise<void> {
  const found = { records: 0, cold: 0, hot: 0 }
  for (const stream of source.streams) {
    const read = await readAndCompare(log, stream, { signal }, 0, stream.events.length)
    found.records += read.records
    found.cold += read.cold
    found.hot += read.hot
  }
  const tiers = `cold ${formatCount(found.cold)} · hot ${formatCount(found.hot)}`
  const text = `${plural(found.records, 'record')} (${tiers}), and as many restored, equal the source: in order, once each`
  await out.step('verify', text, { ...found, source: source.records, equal: true })
}

async function closing({ log, source, out, directory }: DemoRun): Promise<void> {
  const { streams } = await log.tier.status()
  const tiers = streams.map(({ stream, totals }) => ({
    stream: stream.name,
    records: totals.records,
    segments: totals.segments,
    hotSegments: totals.hotSegments,
    hotBytes: totals.hotBytes,
    coldSegments: totals.coldSegments,
    coldBytes: totals.coldBytes,
    bothBytes: totals.bothBytes,
  }))
  const cell = (segments: number, bytes: number) =>
    segments === 0 ? '—' : `${formatBytes(bytes)}  ${segments}`
  const rows = tiers.map((one) => [
    one.stream,
    formatCount(one.records),
    cell(one.hotSegments, one.hotBytes),
    cell(one.coldSegments, one.coldBytes),
    one.bothBytes === 0 ? '—' : formatBytes(one.bothBytes),
  ])
  await out.lines(['', ...table(COLUMNS, rows)])
  if (out.json) await out.step('tiers', '', { tiers })
  await out.lines(['', 'Look around:', ...commands(source, directory)])
}

function commands(source: DemoSource, directory: string): string[] {
  const shown = relative('.', directory).startsWith('..') ? directory : `./${relative('.', directory)}`
  const quoted = /[^\w./-]/.test(shown) ? `'${shown.replaceAll("'", "'\\''")}'` : shown
  const stream = source.streams[0]?.name ?? ''
  return [
    `tier status`,
    `stream show ${stream}`,
    `segment list ${stream}`,
    `read ${stream} --limit 3`,
    `restore --from ${quoted}/archive --into ./recovered --dry-run`,
  ].map((rest) => `  npx stratalog --dir ${quoted} ${rest}`)
}
