import { refuseOtherOwner } from '../tiering/ownership.js'
import type { LogParts } from './log-parts.js'
import { present } from './model/assert.js'
import type { DoctorCheck, DoctorReport } from './model/control-doctor.js'
import { isStratalogError, type StratalogError } from './model/errors.js'
import type { ResolvedPolicy } from './model/policy.js'
import type { StreamRow } from './model/segment.js'
import { formatBytes, formatDuration } from './model/units.js'
import { policyConflicts } from './policy-conflicts.js'
import type { ArchiveFinding, ArchiveStore } from './ports/archive-store.js'
import type { StoreStatus } from './ports/segment-store.js'

/** An archive that answers nothing for so long is not waited for. */
const ARCHIVE_MS_MAX = 60_000
/** Less free space than this part of a disk is said, before the store is full. */
const FREE_SHARE_MIN = 0.1
const PROBE_BYTES = 1_024
const STREAMS_PAGE = 1_000
/** Contradictions of policies that are said: `policy test` tells a stream's own. */
const POLICIES_SAID_MAX = 10

const check = (
  area: DoctorCheck['area'],
  name: string,
  state: DoctorCheck['state'],
  text: string,
  mend: string | null = null,
): DoctorCheck => ({ area, name, state, text, mend })

/** Looks at everything a log stands on. Only the archive is written to: one small object, which is deleted again. */
export async function doctorLog(parts: LogParts, signal?: AbortSignal): Promise<DoctorReport> {
  const { clock } = parts.segments.ledger
  const around = (await parts.surroundings?.()) ?? []
  const of = (area: DoctorCheck['area']) => around.filter((one) => one.area === area)
  const checks = [
    ...of('node'),
    ...of('config'),
    ...configChecks(parts),
    ...(await policyChecks(parts)),
    ...storeChecks(
      await Promise.all(parts.segments.ledger.stores.all().map((store) => store.status())),
      (parts.bookkeeper ?? null) !== null,
    ),
    ...of('stores'),
    ...(await indexChecks(parts)),
    ...(await archiveChecks(parts, signal)),
    ...of('keys'),
  ]
  return { atMs: clock.nowMs(), bad: checks.filter(({ state }) => state === 'bad').length, checks }
}

function configChecks({ config }: LogParts): DoctorCheck[] {
  const { file, problem, needsRestart } = config.source
  const later = needsRestart.map(({ setting, origin }) =>
    check('config', 'restart', 'note', `${setting} (${origin}) changed`, 'open the log again'),
  )
  if (problem !== null)
    return [
      check('config', 'file', 'bad', problem.message, `mend ${file}: until then the old one is in force`),
    ]
  const name = file === null ? 'no file is used' : `${file} is in force`
  return [check('config', 'file', 'ok', name), ...later]
}

/** Policies that work against themselves, whatever their streams hold: of the defaults, then of each stream. */
async function policyChecks(parts: LogParts): Promise<DoctorCheck[]> {
  const { index, ledger } = parts.segments
  const nowMs = ledger.clock.nowMs()
  const found = new Map<string, { readonly mend: string; readonly streams: string[] }>()
  const look = (stream: StreamRow | null, policy: ResolvedPolicy): void => {
    const conflicts = policyConflicts({
      policy,
      nowMs,
      archive: parts.archive !== null && policy.policy.archive !== 'none',
      txidMode: stream?.txidMode ?? 'ms',
      hotBytes: 0,
      bytesPerSecond: 0,
      disks: [],
    })
    for (const { found: text, consequence, remedy } of conflicts) {
      const one = found.get(text) ?? { mend: `${consequence}. ${remedy}`, streams: [] }
      if (stream !== null) one.streams.push(stream.name)
      found.set(text, one)
    }
  }
  look(null, parts.policies.resolve('', null))
  try {
    for (const stream of await index.listStreams('', STREAMS_PAGE))
      look(stream, parts.policies.resolve(stream.name, await index.policyOverride(stream.incarnation)))
  } catch (error) {
    // What is wrong with the index, or with a stream's own policy, is told where it is looked at for itself.
    if (!isStratalogError(error)) throw error
  }
  return [...found].slice(0, POLICIES_SAID_MAX).map(([text, { mend, streams }]) => {
    const [first, ...more] = streams
    const also = more.length === 0 ? '' : ` and ${more.length} more`
    return check('config', 'policy', 'note', `${first ?? 'defaults'}${also}: ${text}`, mend)
  })
}

function storeChecks(stores: readonly StoreStatus[], onBookies: boolean): DoctorCheck[] {
  if (stores.length === 0) return []
  if (onBookies) return stores.map(bookieCheck)
  const checks = stores.map(storeCheck)
  const devices = new Set(stores.map(({ device }) => device)).size
  const alone = stores.length > 1 && devices === 1
  const text = `${stores.length} on ${devices} ${devices === 1 ? 'device' : 'devices'}`
  const mend = alone ? 'one disk that dies takes every copy: put each store on a disk of its own' : null
  return [...checks, check('stores', 'devices', alone ? 'note' : 'ok', text, mend)]
}

/** A bookie says little of its disks, and is nobody's to mend from here. */
function bookieCheck(status: StoreStatus): DoctorCheck {
  const { id, state, reason } = status
  if (state === 'writable') return { ...storeCheck(status), name: 'bookie' }
  const text = `bookie ${id} is ${state}: ${reason ?? 'no reason given'}`
  const mend =
    state === 'unreachable'
      ? `start it; if it is gone for good: stratalog bookkeeper check-impact ${id}, then bookkeeper shell decommissionbookie -bookieid ${id}`
      : 'make room on its disks, or add bookies: it is read, and takes no new entries'
  return check('stores', 'bookie', 'bad', text, mend)
}

function storeCheck({
  location,
  state,
  reason,
  freeBytes,
  totalBytes,
  corruptBytes,
}: StoreStatus): DoctorCheck {
  const free = totalBytes === 0 ? '' : `, ${formatBytes(freeBytes)} of ${formatBytes(totalBytes)} free`
  if (state !== 'writable') {
    const mend =
      state === 'full'
        ? 'make room there: it clears itself'
        : 'check the disk, then open the log again; a lost one is replaced with "stratalog store replace"'
    return check('stores', 'store', 'bad', `${location} is ${state}: ${reason ?? 'no reason given'}`, mend)
  }
  if (corruptBytes > 0) {
    const text = `${location} has ${formatBytes(corruptBytes)} of damaged data`
    return check('stores', 'store', 'bad', text, 'the scrub mends it from other copies; check the disk')
  }
  if (totalBytes > 0 && freeBytes < FREE_SHARE_MIN * totalBytes)
    return check('stores', 'store', 'note', `${location} is writable${free}`, 'it is nearly full: make room')
  return check('stores', 'store', 'ok', `${location} is writable${free}`)
}

async function indexChecks({ segments: { index } }: LogParts): Promise<DoctorCheck[]> {
  try {
    const streams = await index.listStreams('', STREAMS_PAGE)
    const count = streams.length < STREAMS_PAGE ? `${streams.length}` : `${STREAMS_PAGE} or more`
    const unclosed = await index.segmentsInState(['recovering'], 1)
    if (unclosed.length > 0) {
      const mend = 'bring back every store under "stores"; it is closed as soon as enough of them answer'
      return [
        check('index', 'index', 'bad', 'a segment that a dead process left open is not closed yet', mend),
      ]
    }
    return [check('index', 'index', 'ok', `it answers, ${count} ${count === '1' ? 'stream' : 'streams'}`)]
  } catch (error) {
    if (!isStratalogError(error)) throw error
    return [check('index', 'index', 'bad', error.message, 'stop the log and run "stratalog index rebuild"')]
  }
}

async function archiveChecks(parts: LogParts, signal?: AbortSignal): Promise<DoctorCheck[]> {
  const { archive, archiveLocation } = parts
  if (archive === null) {
    const mend = 'name one under "archive" in stratalog.yaml'
    return [check('archive', 'archive', 'note', 'none: what is on these disks is nowhere else', mend)]
  }
  const checks = await oneArchive(parts, archiveLocation ?? '', archive, signal)
  const { own } = parts.tiering
  for (const location of (await own?.locations()) ?? [])
    checks.push(...(await oneArchive(parts, location, () => present(own, 'own').open(location), signal)))
  return checks
}

/** The archive of the log, or one that some streams have to themselves. */
async function oneArchive(
  parts: LogParts,
  location: string,
  archive: () => Promise<ArchiveStore>,
  signal?: AbortSignal,
): Promise<DoctorCheck[]> {
  const { clock } = parts.segments.ledger
  const giveUp = new AbortController()
  const timer = clock.setTimer(ARCHIVE_MS_MAX, () => giveUp.abort(new Error('nothing answered')))
  const either = signal === undefined ? giveUp.signal : AbortSignal.any([signal, giveUp.signal])
  try {
    const store = await archive()
    if (parts.attached === null) await refuseOtherOwner(parts.tiering, store, either)
    const probed =
      parts.attached === null ? await probe(parts, store, either) : await peek(parts, store, either)
    return [probed, ...(await findings(store, either))]
  } catch (error) {
    signal?.throwIfAborted()
    const silent = giveUp.signal.aborted
    if (!silent && !isStratalogError(error)) throw error
    const why = silent
      ? `it did not answer within ${formatDuration(ARCHIVE_MS_MAX)}`
      : (error as StratalogError).message
    const code = silent ? 'timeout' : (error as StratalogError).code
    const mend = `segments stay hot until it is mended: see ${code} in docs/errors.md`
    // Most failures say where.
    const text = why.includes(location) ? why : `${location}: ${why}`
    return [check('archive', 'archive', 'bad', text, mend)]
  } finally {
    timer.cancel()
  }
}

/** Writes, reads and deletes a small object, as a copy would. */
async function probe(parts: LogParts, store: ArchiveStore, signal: AbortSignal): Promise<DoctorCheck> {
  const key = `_probe/${Buffer.from(parts.random.bytes(8)).toString('hex')}`
  const bytes = parts.random.bytes(PROBE_BYTES)
  const body = {
    sizeBytes: bytes.length,
    async *open() {
      yield bytes
    },
  }
  const { clock } = parts.segments.ledger
  const timed = async <T>(work: Promise<T>): Promise<[value: T, text: string]> => {
    const beganMs = clock.monotonicMs()
    const value = await work
    return [value, `${Math.max(1, Math.round(clock.monotonicMs() - beganMs))} ms`]
  }
  const [, put] = await timed(store.putIfAbsent(key, body, { signal }))
  const [found, get] = await timed(store.readRange(key, 0, bytes.length, signal))
  const [, deleted] = await timed(store.delete(key, signal))
  const text = `${store.location} answers: put ${put}, get ${get}, delete ${deleted}`
  if (Buffer.compare(Buffer.from(found), Buffer.from(bytes)) === 0)
    return check('archive', 'archive', 'ok', text)
  const mend =
    'nothing is freed that does not read back as it was written: check the store, and what is before it'
  return check('archive', 'archive', 'bad', `${store.location} gave back other bytes than it was given`, mend)
}

/** An archive of another log is only read. */
async function peek(parts: LogParts, store: ArchiveStore, signal: AbortSignal): Promise<DoctorCheck> {
  const { clock } = parts.segments.ledger
  const beganMs = clock.monotonicMs()
  await store.listFrom('', '', 1, signal)
  const tookMs = Math.max(1, Math.round(clock.monotonicMs() - beganMs))
  return check('archive', 'archive', 'ok', `${store.location} answers: list ${tookMs} ms; it is only read`)
}

async function findings(store: ArchiveStore, signal: AbortSignal): Promise<DoctorCheck[]> {
  return ((await store.findings?.(signal)) ?? []).map(findingCheck)
}

/** The sentence of an engine says what follows, and so what to do. */
function findingCheck({ name, state, text }: ArchiveFinding): DoctorCheck {
  return check('archive', name, state === 'without' ? 'note' : state, text)
}
