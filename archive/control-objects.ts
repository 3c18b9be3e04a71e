import {
  ATTEMPT_BYTES,
  attemptOf,
  type ControlKey,
  type ControlKind,
  controlPrefix,
  decodeControlKey,
  encodeControlKey,
} from '../src/format/archive-names.js'
import { corrupt, unsupportedVersion } from '../src/format/bytes.js'
import { assert } from '../src/model/assert.js'
import { Dlsn } from '../src/model/dlsn.js'
import { StratalogError } from '../src/model/errors.js'
import type { Incarnation, StreamParent, TxidMode } from '../src/model/segment.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { Random } from '../src/ports/random.js'
import { type ForeignKey, listKeys } from './listing.js'
import { type ArchiveMark, markOf } from './marks.js'

/*
 * Decisions that no segment states, kept in the archive so that it knows alone what was named, trimmed, held
 * or ended on purpose. Immutable and numbered; the highest (number, attempt) of a kind is the latest. The
 * body is JSON with `format` (1) and `kind`, then the kind's own fields; numbers that may exceed 2^53 are
 * decimal strings.
 */

const FORMAT = 1
/** Largest body; what a reader takes memory for. */
const BODY_BYTES_MAX = 256 * 1024
/** Control objects of one stream that are read: operators' decisions, not data. */
const CONTROLS_MAX = 100_000

/**
 * The fact of a log's index that is its log id once the archive has an owner object of this log: from then on its
 * archive is the one that has that object, and no other.
 */
export const ARCHIVE_OWNER_FACT = 'archive-owner'

/**
 * The fact that lists streams which were deleted, as an index that was made again learnt from the stores: the archive
 * may not have been told yet, and a restore would bring them back. JSON: pairs of incarnation and time.
 */
export const DELETIONS_FACT = 'deletions-to-tell'

/** A control object with its body. */
export interface ControlObject extends ControlKey {
  readonly key: string
  readonly body: Readonly<Record<string, unknown>>
}

/** What a stream is called: the body of kind `name`. */
export interface NameBinding {
  readonly name: string
  readonly txidMode: TxidMode
  readonly parent: StreamParent | null
}

/** Whose archive this is: the body of kind `owner`. */
export interface ArchiveOwner {
  readonly logId: string
  readonly epoch: bigint
}

/**
 * Stores a decision durably under a new attempt and returns its key. `incarnation` null: of the whole log.
 */
export async function putControl(
  store: ArchiveStore,
  incarnation: Incarnation | null,
  number: bigint,
  kind: ControlKind,
  body: object,
  random: Random,
): Promise<string> {
  const key = encodeControlKey({ incarnation, number, kind, attempt: attemptOf(random.bytes(ATTEMPT_BYTES)) })
  const json = { format: FORMAT, kind, ...body }
  assert(
    json.format === FORMAT && json.kind === kind,
    'the body of a control object names another kind or format',
  )
  const text = JSON.stringify(json, (_, value: unknown) =>
    typeof value === 'bigint' ? value.toString() : value,
  )
  const bytes = Buffer.from(`${text}\n`, 'utf8')
  assert(bytes.length <= BODY_BYTES_MAX, `a control object of ${bytes.length} bytes`)
  await store.putIfAbsent(key, {
    sizeBytes: bytes.length,
    async *open() {
      yield bytes
    },
  })
  return key
}

/**
 * Every decision on a stream (null: on the log) in order of (number, attempt). One that can't be read or is
 * of a newer format is an error, never left out: a hold that is overlooked costs data (invariant 8).
 */
export async function readControls(
  store: ArchiveStore,
  incarnation: Incarnation | null,
  foreign: ForeignKey = () => undefined,
  signal?: AbortSignal,
): Promise<ControlObject[]> {
  const controls: ControlObject[] = []
  for await (const { key, sizeBytes } of listKeys(store, controlPrefix(incarnation), '', signal)) {
    const parsed = decodeControlKey(key)
    if (parsed === null) {
      foreign(key)
      continue
    }
    if (controls.length >= CONTROLS_MAX) {
      throw new StratalogError(
        'refused',
        `${store.location} has more than ${CONTROLS_MAX} control objects of a stream`,
      )
    }
    controls.push({ ...parsed, key, body: await readBody(store, key, parsed, sizeBytes, signal) })
  }
  return controls.sort(byNumber)
}

/** Those of one kind, in order; the bodies of others are not read. A damaged one is an error, as above. */
export async function readControlsOfKind(
  store: ArchiveStore,
  incarnation: Incarnation | null,
  kind: ControlKind,
  signal?: AbortSignal,
): Promise<ControlObject[]> {
  const controls: ControlObject[] = []
  for await (const { key, sizeBytes } of listKeys(store, controlPrefix(incarnation), '', signal)) {
    const parsed = decodeControlKey(key)
    if (parsed?.kind !== kind) continue
    controls.push({ ...parsed, key, body: await readBody(store, key, parsed, sizeBytes, signal) })
  }
  return controls.sort(byNumber)
}

/** What decisions there are on a stream, from their names alone, in order; the bodies are not read. */
export async function listControlKeys(
  store: ArchiveStore,
  incarnation: Incarnation | null,
  signal?: AbortSignal,
): Promise<ControlKey[]> {
  const keys: ControlKey[] = []
  for await (const { key } of listKeys(store, controlPrefix(incarnation), '', signal)) {
    const parsed = decodeControlKey(key)
    if (parsed !== null) keys.push(parsed)
  }
  return keys.sort(byNumber)
}

/** Keys sort by number, then by kind; decisions go by number, then attempt. */
function byNumber(a: ControlKey, b: ControlKey): number {
  if (a.number !== b.number) return a.number < b.number ? -1 : 1
  return a.attempt < b.attempt ? -1 : a.attempt > b.attempt ? 1 : 0
}

async function readBody(
  store: ArchiveStore,
  key: string,
  parsed: ControlKey,
  sizeBytes: number,
  signal: AbortSignal | undefined,
): Promise<Readonly<Record<string, unknown>>> {
  if (sizeBytes > BODY_BYTES_MAX) throw damagedControl(key, `it has ${sizeBytes} bytes`)
  const bytes = await store.readRange(key, 0, sizeBytes, signal)
  let body: unknown
  try {
    body = JSON.parse(Buffer.from(bytes).toString('utf8'))
  } catch (cause) {
    throw damagedControl(key, 'it is not JSON', cause)
  }
  if (typeof body !== 'object' || body === null || !('format' in body))
    throw damagedControl(key, 'it states no format')
  if (typeof body.format === 'number' && body.format > FORMAT) {
    throw unsupportedVersion(
      `${key} has format ${body.format}; this stratalog reads ${FORMAT}: use a newer one`,
      {
        expected: FORMAT,
        found: body.format,
      },
    )
  }
  if (body.format !== FORMAT || !('kind' in body) || body.kind !== parsed.kind) {
    throw damagedControl(key, 'it is another one than its name says')
  }
  return body as Readonly<Record<string, unknown>>
}

/** The error of a control object that does not say what it must. */
export function damagedControl(key: string, why: string, cause?: unknown): StratalogError {
  return corrupt(`control object ${key} is damaged: ${why}; put a copy of it back from a backup`, { cause })
}

function latest(controls: readonly ControlObject[], kind: ControlKind): ControlObject | null {
  return (
    controls
      .filter((control) => control.kind === kind)
      .sort(byNumber)
      .at(-1) ?? null
  )
}

/** What the stream is called now: the `name` of the highest (number, attempt); null if none was given. */
export function bindingOf(controls: readonly ControlObject[]): NameBinding | null {
  const control = latest(controls, 'name')
  return control === null ? null : nameOf(control)
}

/** A name with since when the stream has had it and when the stream was made; 0: it does not say. */
export interface DatedBinding extends NameBinding {
  readonly createdMs: number
  readonly atMs: number
}

/**
 * What the stream was called at a time (null: now): the newest name given by then. A stream that is younger than
 * that has its first name: whether it counts is the caller's question.
 */
export function bindingAt(controls: readonly ControlObject[], timeMs: number | null): DatedBinding | null {
  const dated = controls
    .filter(({ kind }) => kind === 'name')
    .map((control) => {
      const createdMs = msOf(control, 'createdMs') ?? 0
      return { ...nameOf(control), createdMs, atMs: msOf(control, 'atMs') ?? createdMs }
    })
  if (timeMs === null) return dated.at(-1) ?? null
  return dated.findLast(({ atMs }) => atMs <= timeMs) ?? dated[0] ?? null
}

function msOf(control: ControlObject, field: string): number | null {
  const value = control.body[field] ?? null
  if (value !== null && (typeof value !== 'number' || !Number.isSafeInteger(value)))
    throw damagedControl(control.key, `its field ${field} is no time`)
  return value
}

function nameOf(control: ControlObject): NameBinding {
  const { name, txidMode, parent } = control.body
  if (typeof name !== 'string' || name === '' || (txidMode !== 'ms' && txidMode !== 'custom')) {
    throw damagedControl(control.key, 'it gives no name')
  }
  return { name, txidMode, parent: parentOf(control, parent) }
}

function parentOf(control: ControlObject, parent: unknown): NameBinding['parent'] {
  if (parent === null || parent === undefined) return null
  const { incarnation, fork, shares } = parent as { incarnation?: unknown; fork?: unknown; shares?: unknown }
  if (typeof incarnation !== 'string' || !/^[0-9a-f]{32}$/.test(incarnation)) {
    throw damagedControl(control.key, 'its parent is no incarnation')
  }
  const left = { incarnation, fork: fork === null || fork === undefined ? null : dlsnOf(control, fork) }
  if (shares === undefined) return left
  if (shares !== true || left.fork === null)
    throw damagedControl(control.key, 'it does not say what it shares')
  return { ...left, shares }
}

/**
 * Where the stream begins: the largest `below` of all trims, whatever their numbers; null if it was never
 * trimmed.
 */
export function trimmedBelow(controls: readonly ControlObject[]): Dlsn | null {
  let below: Dlsn | null = null
  for (const control of controls) {
    if (control.kind !== 'trim') continue
    const found = dlsnOf(control, control.body.below)
    if (below === null || found.compare(below) > 0) below = found
  }
  return below
}

function dlsnOf(control: ControlObject, value: unknown): Dlsn {
  try {
    return Dlsn.parse(typeof value === 'string' ? value : '')
  } catch (cause) {
    throw damagedControl(control.key, `${JSON.stringify(value)} is no position`, cause)
  }
}

/** An owner with the number of its object: the next one goes above it. */
export type NumberedOwner = ArchiveOwner & {
  readonly number: bigint
  /** What the archive says of itself instead of whose it is: it moved, or is not whole yet; null: neither. */
  readonly mark: ArchiveMark | null
}

/** The log that the archive belongs to now; null if it has none. */
export async function ownerOf(store: ArchiveStore, signal?: AbortSignal): Promise<NumberedOwner | null> {
  return (await listOwners(store, signal)).at(-1) ?? null
}

/** Whether an archive was ever another log's: its owner objects are its history, marks left out. */
export function wasAnothers(owners: readonly NumberedOwner[], logId: string): boolean {
  return owners.some((owner) => owner.mark === null && owner.logId !== logId)
}

/** Every log that ever owned the archive, the present one last. */
export async function listOwners(store: ArchiveStore, signal?: AbortSignal): Promise<NumberedOwner[]> {
  const controls = await readControls(store, null, undefined, signal)
  return controls
    .filter(({ kind }) => kind === 'owner')
    .map((control) => {
      const { logId, epoch } = control.body
      if (typeof logId !== 'string' || logId === '') throw damagedControl(control.key, 'it names no log')
      if (typeof epoch !== 'string' || !/^\d{1,19}$/.test(epoch))
        throw damagedControl(control.key, 'it has no epoch')
      const mark = markOf(control.body)
      if (mark === undefined) throw damagedControl(control.key, 'it is a mark and does not say of what')
      return { logId, epoch: BigInt(epoch), number: control.number, mark }
    })
}
