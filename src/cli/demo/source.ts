import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { basename, extname } from 'node:path'
import { StratalogError } from '../../model/errors.js'
import { fileSizes, formatOf, readItems } from '../import-formats.js'
import type { ImportItem } from '../import-item.js'
import { type Row, rowTimeMs, timeField } from './time.js'

/** Events are held in memory, so that everything read can be compared with them. */
const FILES_BYTES_MAX = 256 * 1024 * 1024
/** Origins that get a stream of their own. */
const ORIGINS = 3

/** One event: what is appended, and its time in milliseconds as its txid. */
export interface DemoEvent {
  readonly txid: bigint
  readonly payload: string
}

/** The events of one stream in the order of their own time. */
export interface DemoStream {
  readonly name: string
  readonly events: readonly DemoEvent[]
}

/** Everything the demo appends: the same at every run, so record n of a stream is event n. */
export interface DemoSource {
  /** For people: what it is and where it came from. */
  readonly what: string
  readonly streams: readonly DemoStream[]
  readonly records: number
  /** Names exactly these events in these streams. */
  readonly digest: string
}

/**
 * Loads the events: those of the npm package vega-datasets, or of the files named. An event without a time of its
 * own gets `startedMs`.
 */
export async function loadSource(
  files: readonly string[],
  startedMs: number,
  signal: AbortSignal,
): Promise<DemoSource> {
  const loaded = files.length === 0 ? await vegaEvents() : await fileEvents(files, startedMs, signal)
  const streams = loaded.streams.filter((stream) => stream.events.length > 0)
  if (streams.length === 0) {
    throw new StratalogError('invalid_argument', `${loaded.what}: there is no event in it`)
  }
  const records = streams.reduce((sum, stream) => sum + stream.events.length, 0)
  return { what: loaded.what, streams, records, digest: digestOf(streams) }
}

function digestOf(streams: readonly DemoStream[]): string {
  const hash = createHash('sha256')
  for (const { name, events } of streams) {
    hash.update(`${JSON.stringify(name)}\n`)
    for (const { txid, payload } of events) hash.update(`${txid} ${payload}\n`)
  }
  return hash.digest('hex')
}

async function vegaEvents(): Promise<Pick<DemoSource, 'what' | 'streams'>> {
  const flights = (await vegaData('flights-20k.json')) as Row[]
  const quakes = ((await vegaData('earthquakes.json')) as { features: { properties: Row }[] }).features
  const perOrigin = new Map<string, number>()
  for (const { origin } of flights) {
    perOrigin.set(String(origin), (perOrigin.get(String(origin)) ?? 0) + 1)
  }
  const busiest = [...perOrigin].sort((a, b) => b[1] - a[1]).slice(0, ORIGINS)
  const own = new Set(busiest.map(([origin]) => origin))
  const streamOf = (origin: string) => (own.has(origin) ? `flights/${origin.toLowerCase()}` : 'flights/other')
  // The time of a flight is local to its airport and is taken as UTC: the order within an airport is right.
  const flown = flights.map((row) => ({
    stream: streamOf(String(row.origin)),
    timeMs: rowTimeMs(row, 'date'),
    payload: JSON.stringify(row),
  }))
  const felt = quakes.map(({ properties }) => ({
    stream: 'earthquakes',
    timeMs: rowTimeMs(properties, 'time'),
    payload: JSON.stringify(properties),
  }))
  const streams = [...grouped([...flown, ...felt], 0)]
  return { what: 'flights of 2001 and a week of earthquakes, from vega-datasets', streams }
}

async function vegaData(name: string): Promise<unknown> {
  let index: string
  try {
    index = import.meta.resolve('vega-datasets')
  } catch (cause) {
    const how = 'name files of your own (stratalog demo events.ndjson), or npm install vega-datasets'
    throw new StratalogError(
      'dependency_missing',
      `the demo's data, vega-datasets, is not installed: ${how}`,
      {
        cause,
      },
    )
  }
  return JSON.parse(await readFile(new URL(`../data/${name}`, index), 'utf8'))
}

async function fileEvents(
  files: readonly string[],
  startedMs: number,
  signal: AbortSignal,
): Promise<Pick<DemoSource, 'what' | 'streams'>> {
  const bytes = (await fileSizes(files)).reduce((sum, size) => sum + size, 0)
  if (bytes > FILES_BYTES_MAX) {
    throw new StratalogError(
      'invalid_argument',
      `${files.join(', ')}: more than the ${FILES_BYTES_MAX / 2 ** 20} MiB the demo holds in memory; use "stratalog import"`,
      { expected: FILES_BYTES_MAX, found: bytes },
    )
  }
  const streams: DemoStream[] = []
  for (const file of files) {
    const items: ImportItem[] = []
    for await (const batch of readItems(file, formatOf(file, undefined), signal)) items.push(...batch.values)
    signal.throwIfAborted()
    const taken = streams.map(({ name }) => name)
    streams.push(...grouped(timed(items, streamName(file, taken)), startedMs))
  }
  return { what: files.join(', '), streams }
}

function timed(items: readonly ImportItem[], stream: string): Timed[] {
  const rows = items.map(({ value }) => asRow(value))
  const field = timeField(rows)
  return items.map(({ bytes }, i) => ({
    stream,
    timeMs: field === null ? null : rowTimeMs(rows[i] ?? {}, field),
    payload: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8'),
  }))
}

/** Values without fields (plain lines, numbers) have no time of their own. */
function asRow(value: unknown): Row {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Row) : {}
}

/** `files/<name>`, made of what a stream name may have, and unlike those before it. */
function streamName(file: string, taken: readonly string[]): string {
  const base = `files/${
    basename(file, extname(file))
      .normalize('NFC')
      .replace(/[^\p{L}\p{N}_-]+/gu, '-')
      .slice(0, 60) || 'events'
  }`
  let name = base
  for (let n = 2; taken.includes(name); n += 1) name = `${base}-${n}`
  return name
}

interface Timed {
  readonly stream: string
  /** Null: it has none that can be a txid. */
  readonly timeMs: number | null
  readonly payload: string
}

/** One stream for each name, events sorted by time; equal times keep the order they had in the file. */
function* grouped(events: readonly Timed[], startedMs: number): Generator<DemoStream> {
  const byName = new Map<string, DemoEvent[]>()
  for (const { stream, timeMs, payload } of events) {
    const list = byName.get(stream) ?? []
    list.push({ txid: BigInt(timeMs ?? startedMs), payload })
    byName.set(stream, list)
  }
  for (const [name, list] of [...byName].sort((a, b) => (a[0] < b[0] ? -1 : 1))) {
    yield { name, events: list.sort((a, b) => (a.txid < b.txid ? -1 : a.txid > b.txid ? 1 : 0)) }
  }
}
