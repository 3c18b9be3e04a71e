import { isKeyTrouble } from '../archive/keys.js'
import { type ArchiveCheckOptions, emptyTally, verifyArchivedStream } from '../archive/verify-archive.js'
import { decodeSegmentKey } from '../src/format/archive-names.js'
import { ask } from '../src/ledger/context.js'
import { allMembers } from '../src/ledger/ensembles.js'
import { shareEntries, shareOf } from '../src/ledger/shares.js'
import { present } from '../src/model/assert.js'
import { isStratalogError, type StratalogError } from '../src/model/errors.js'
import type { LedgerMetadata } from '../src/model/ledger.js'
import { checkSegmentRow, isClosed, type SegmentRow, type StreamRow } from '../src/model/segment.js'
import { rowsOf, streamsOf } from './all-rows.js'
import { archiveOfStream } from './archives.js'
import { hotDigest } from './cold-mend.js'
import type { TieringContext } from './context.js'
import { LEDGER_BEGUN_MS, unnamedLedgers } from './orphan-ledgers.js'

/** Runs of entries that a bookie is asked for; where ledgers are striped every entry is a run. */
const PROBES_MAX = 8

/** One thing that does not fit together. */
export interface FsckFinding {
  /** `damage`: something is lost or bad. `waste`: it only costs space. `unknown`: it could not be looked at. */
  readonly severity: 'damage' | 'waste' | 'unknown'
  readonly where: 'index' | 'stores' | 'archive'
  readonly problem: string
  readonly stream: string | null
  readonly segment: bigint | null
  readonly ledgerId: bigint | null
  readonly key: string | null
  readonly text: string
  /** What mends it. */
  readonly mend: string
}

/** What was looked at. */
export interface FsckTally {
  streams: number
  segments: number
  ledgers: number
  objects: number
  /** Bytes that were read, where every byte was. */
  deepBytes: number
  damage: number
  waste: number
  unknown: number
}

/** What a check yields: findings as they come, at last the tally. */
export type FsckPart =
  | { readonly type: 'finding'; readonly finding: FsckFinding }
  | { readonly type: 'progress'; readonly stream: string | null; readonly tally: Readonly<FsckTally> }
  | { readonly type: 'end'; readonly tally: Readonly<FsckTally> }

/**
 * Whether index, stores and archive say the same: rows follow one another and state what is legal, every row's ledger
 * and object is there and is as long as the row says, no ledger is without a row. Read-only. What changes while it is
 * looked at is looked at again, and is no finding; what can't be read is `unknown`, never missing (invariant 8).
 */
export async function* fsck(
  context: TieringContext,
  options: { readonly deep?: boolean; readonly signal: AbortSignal },
): AsyncGenerator<FsckPart, void, undefined> {
  const tally: FsckTally = {
    streams: 0,
    segments: 0,
    ledgers: 0,
    objects: 0,
    deepBytes: 0,
    damage: 0,
    waste: 0,
    unknown: 0,
  }
  const count = (part: FsckPart): FsckPart => {
    if (part.type === 'finding') tally[part.finding.severity] += 1
    return part
  }
  /** Where archives are that did not answer; null: the one of the log. */
  const down = new Set<string | null>()
  for await (const stream of streamsOf(context.index)) {
    options.signal.throwIfAborted()
    tally.streams += 1
    for await (const part of checkRows(context, stream, tally, options)) yield count(part)
    if (context.archive === null) continue
    const { own } = await archiveOfStream(context, stream.incarnation)
    if (down.has(own)) continue
    try {
      for await (const part of checkObjects(context, stream, tally, options)) yield count(part)
    } catch (error) {
      options.signal.throwIfAborted()
      if (!isStratalogError(error)) throw error
      down.add(own)
      const mend = 'run fsck again when the archive answers'
      yield count(finding('unknown', 'archive', 'unreadable', { stream: null }, error.message, mend))
    }
  }
  for await (const part of checkUnnamed(context, options.signal)) yield count(part)
  yield { type: 'end', tally }
}

type About = {
  readonly stream: string | null
  readonly segment?: bigint | null
  readonly ledgerId?: bigint | null
  readonly key?: string | null
}

function finding(
  severity: FsckFinding['severity'],
  where: FsckFinding['where'],
  problem: string,
  { stream, segment = null, ledgerId = null, key = null }: About,
  text: string,
  mend: string,
): FsckPart {
  return {
    type: 'finding',
    finding: { severity, where, problem, stream, segment, ledgerId, key, text, mend },
  }
}

const REBUILD =
  'stop what has the log open and run "stratalog index rebuild": it reads stores and archive again'

/** The rows of a stream and the ledgers they name. */
async function* checkRows(
  context: TieringContext,
  stream: StreamRow,
  tally: FsckTally,
  options: { readonly deep?: boolean; readonly signal: AbortSignal },
): AsyncGenerator<FsckPart, void, undefined> {
  let before: SegmentRow | null = null
  for await (const row of rowsOf(context.index, stream.incarnation)) {
    options.signal.throwIfAborted()
    tally.segments += 1
    const about = { stream: stream.name, segment: row.segment }
    const illegal = illegalState(row) ?? fitsBehind(stream, before, row)
    if (illegal !== null && !(await changed(context, before)) && !(await changed(context, row)))
      yield finding('damage', 'index', 'row', about, illegal, REBUILD)
    if (row.ledgerId !== null && row.state !== 'cold' && row.state !== 'trimmed') {
      tally.ledgers += 1
      yield* checkLedger(context, stream, row, tally, options)
    }
    before = row
    yield { type: 'progress', stream: stream.name, tally }
  }
}

function illegalState(row: SegmentRow): string | null {
  try {
    checkSegmentRow(row)
    return null
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

/** Invariant 5 by the index, and dense sequenceIds; null: it fits. */
function fitsBehind(stream: StreamRow, before: SegmentRow | null, row: SegmentRow): string | null {
  if (before === null) {
    const begins = stream.trimmedBelow?.segment ?? null
    if (row.segment <= (begins ?? 1n) || stream.parent !== null) return null
    return `history begins at segment ${row.segment}, and ${begins === null ? 'nothing was ever trimmed' : `only what is below ${begins} was trimmed`}`
  }
  if (row.segment !== before.segment + 1n)
    return `segments ${before.segment + 1n} … ${row.segment - 1n} have no row`
  if (!isClosed(before.state)) return `segment ${before.segment} is ${before.state} and is not the newest`
  const next = before.startSequenceId + before.recordCount
  if (row.startSequenceId === next) return null
  return `it begins at sequenceId ${row.startSequenceId}, the one before it ends at ${next - 1n}`
}

/** The ledger a row names: its metadata, then what each store has of it. */
async function* checkLedger(
  context: TieringContext,
  stream: StreamRow,
  row: SegmentRow,
  tally: FsckTally,
  { deep, signal }: { readonly deep?: boolean; readonly signal: AbortSignal },
): AsyncGenerator<FsckPart, void, undefined> {
  const ledgerId = present(row.ledgerId, 'ledger')
  const about = { stream: stream.name, segment: row.segment, ledgerId }
  const metadata = await metadataOf(context, ledgerId)
  if (metadata === null) {
    if (await changed(context, row)) return
    yield finding('damage', 'index', 'ledger', about, `ledger ${ledgerId} has no metadata`, REBUILD)
    return
  }
  if (!isClosed(row.state) || metadata.state !== 'CLOSED') {
    if (isClosed(row.state) && !(await changed(context, row)))
      yield finding('damage', 'index', 'ledger', about, `ledger ${ledgerId} is ${metadata.state}`, REBUILD)
    return
  }
  if (metadata.lastEntryId !== row.lastEntryId || metadata.lengthBytes !== BigInt(row.lengthBytes)) {
    const text = `ledger ${ledgerId} ends at entry ${metadata.lastEntryId} with ${metadata.lengthBytes} bytes, its row says ${row.lastEntryId} and ${row.lengthBytes}`
    yield finding('damage', 'index', 'ledger', about, text, REBUILD)
  }
  for (const store of allMembers(metadata.ensembles)) {
    const part = await checkCopies(context, store, metadata, about)
    if (part !== null && !(await changed(context, row))) yield part
  }
  if (deep === true) yield* readHot(context, row, about, tally, signal)
}

async function checkCopies(
  context: TieringContext,
  store: string,
  metadata: LedgerMetadata,
  about: About & { readonly ledgerId: bigint },
): Promise<FsckPart | null> {
  const wanted = Number(shareEntries(metadata, store))
  try {
    if (context.ledgersAreShared === true) return await probeCopies(context, store, metadata, about)
    const [found] = await ask(context.ledger, store, (one) => one.listLedgers(about.ledgerId - 1n, 1))
    const entries = found?.ledgerId === about.ledgerId ? found.entries : 0
    if (entries >= wanted) return null
    const text = `store ${store} has ${entries} of the ${wanted} entries it is to hold of ledger ${about.ledgerId}`
    const mend =
      'the scrub makes them again from other stores or the archive; "stratalog store list" shows stores'
    return finding('damage', 'stores', 'copies', about, text, mend)
  } catch (error) {
    if (!isStratalogError(error)) throw error
    const mend =
      context.ledgersAreShared === true
        ? `bring bookie ${store} back, or decommission it: BookKeeper makes its copies anew`
        : `bring the store back, or "stratalog store replace ${store}"`
    return finding('unknown', 'stores', 'unreadable', about, error.message, mend)
  }
}

/** A bookie counts no entries: it is asked for the first and the last of each run that it is to hold. */
async function probeCopies(
  { ledger }: TieringContext,
  store: string,
  metadata: LedgerMetadata,
  about: About & { readonly ledgerId: bigint },
): Promise<FsckPart | null> {
  let runs = 0
  for (const { first, last } of shareOf(metadata, store)) {
    runs += 1
    for (const entryId of first === last ? [first] : [first, last]) {
      const answer = await ask(ledger, store, (one) => one.readEntry(about.ledgerId, entryId))
      if (answer.kind === 'entry') continue
      const text = `bookie ${store} has no entry ${entryId} of ledger ${about.ledgerId}, which it is to hold`
      const mend =
        "BookKeeper's autorecovery makes it anew: its auditor looks for such ledgers, and a reader that misses the entry marks this one"
      return finding('damage', 'stores', 'copies', about, text, mend)
    }
    if (runs >= PROBES_MAX) break
  }
  return null
}

/** Every entry with its digest, and all of them with the digest that was committed. */
async function* readHot(
  context: TieringContext,
  row: SegmentRow,
  about: About,
  tally: FsckTally,
  signal: AbortSignal,
): AsyncGenerator<FsckPart, void, undefined> {
  try {
    const named = decodeSegmentKey(row.object?.key ?? '') ?? { incarnation: row.incarnation }
    const digest = await hotDigest(context, row, named, signal)
    tally.deepBytes += row.lengthBytes
    if (row.contentDigest === null || digest === row.contentDigest || (await changed(context, row))) return
    const text = `its hot copy has content ${digest.slice(0, 12)}…, ${row.contentDigest.slice(0, 12)}… was committed`
    const mend = `the hot copy is kept; "stratalog archive verify ${about.stream ?? ''} --deep" tells of the other one`
    yield finding('damage', 'stores', 'content', about, text, mend)
  } catch (error) {
    signal.throwIfAborted()
    if (!isStratalogError(error)) throw error
    if (await changed(context, row)) return
    const severity = error.code === 'corrupt' || error.code === 'entry_missing' ? 'damage' : 'unknown'
    yield finding(severity, 'stores', 'unreadable', about, error.message, mendOf(row, error))
  }
}

function mendOf(row: SegmentRow, error: StratalogError): string {
  if (isKeyTrouble(error)) return 'check again with its key ring'
  return row.object === null ? 'bring its stores back' : 'the scrub makes it again from the archive'
}

/** The objects that rows name. Holes are the index's matter here, and were looked for there. */
async function* checkObjects(
  context: TieringContext,
  stream: StreamRow,
  tally: FsckTally,
  { deep, signal }: { readonly deep?: boolean; readonly signal: AbortSignal },
): AsyncGenerator<FsckPart, void, undefined> {
  const { index } = context
  const archive = await present(context.archive, 'archive')(stream.incarnation)
  const checked = {
    incarnation: stream.incarnation,
    name: stream.name,
    rows: rowsOf(index, stream.incarnation),
    fresh: (segment: bigint) => index.segment(stream.incarnation, segment),
  }
  const onBytes = (bytes: number) => {
    tally.deepBytes += bytes
  }
  const options: ArchiveCheckOptions = { deep: deep === true, signal, onBytes }
  const found = emptyTally()
  for await (const part of verifyArchivedStream(archive, checked, found, options)) {
    if (part.type === 'progress') continue
    const { problem, segment, key, text, mend } = part.finding
    if (problem === 'hole') continue
    const severity = problem === 'unreadable' ? 'unknown' : 'damage'
    yield finding(severity, 'archive', problem, { stream: stream.name, segment, key }, text, mend)
  }
  tally.objects += found.objects
  if (found.extra === 0) return
  const text = `${found.extra} ${found.extra === 1 ? 'object' : 'objects'} that no row names, ${found.extraBytes} bytes`
  const mend = `"stratalog archive orphans list --stream ${stream.name}" says which, and which may go`
  yield finding('waste', 'archive', 'extra', { stream: stream.name }, text, mend)
}

/** Ledgers that no row names. */
async function* checkUnnamed(
  context: TieringContext,
  signal: AbortSignal,
): AsyncGenerator<FsckPart, void, undefined> {
  const nowMs = BigInt(context.ledger.clock.nowMs())
  for (const ledgerId of await unnamedLedgers(context, signal)) {
    const metadata = await metadataOf(context, ledgerId)
    // One that is begun at this moment has its ledger first and its row after.
    if (metadata === null || nowMs - (metadata.ctimeMs ?? 0n) < BigInt(LEDGER_BEGUN_MS)) continue
    const text = `no row names ledger ${ledgerId}`
    const mend =
      'the agent deletes it after a day if it is empty or superseded; "stratalog archive orphans list" says which it is'
    yield finding('waste', 'stores', 'orphan', { stream: null, ledgerId }, text, mend)
  }
}

async function metadataOf({ ledger }: TieringContext, ledgerId: bigint): Promise<LedgerMetadata | null> {
  try {
    return (await ledger.metadata.read(ledgerId)).metadata
  } catch (error) {
    if (isStratalogError(error, 'ledger_not_found')) return null
    throw error
  }
}

async function changed({ index }: TieringContext, row: SegmentRow | null): Promise<boolean> {
  if (row === null) return false
  return (await index.segment(row.incarnation, row.segment))?.version !== row.version
}
