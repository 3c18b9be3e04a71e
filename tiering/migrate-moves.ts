import { type ArchiveOwner, listOwners, type NumberedOwner, putControl } from '../archive/control-objects.js'
import { type ArchiveMark, markBody } from '../archive/marks.js'
import { encodeControlKey } from '../src/format/archive-names.js'
import { corrupt } from '../src/format/bytes.js'
import { isStratalogError, StratalogError } from '../src/model/errors.js'
import type { ArchiveStore } from '../src/ports/archive-store.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'
import { ONLY_ATTEMPT } from './announce.js'
import { noteMigration } from './migrate-state.js'
import { otherOwner } from './ownership.js'

/*
 * Which of two places is the archive of a log, decided by one object: the mark `moved` in the place that is left.
 * Before it is there the old place counts, and the new one says that it is being filled; from then on the new one
 * counts. All that comes after (the owner object in the new place, the fact) can be done again by whoever finds the
 * mark. Decision 0029.
 */

/**
 * The fact that says where the archives of a log went. A recorded one: an old configuration leads to the new place also
 * when the old one is gone.
 */
export const ARCHIVE_MOVES_FACT = 'archive-moves'
const FORMAT = 1
const MOVES_MAX = 100

/** One move; a place that is left is in one move at most, and a place that counts is left by none. */
interface Move {
  readonly from: string
  readonly to: string
  readonly atMs: number
}

type Facts = Pick<SegmentIndex, 'fact' | 'setFact'>

async function movesOf(index: Pick<SegmentIndex, 'fact'>): Promise<readonly Move[]> {
  const text = await index.fact(ARCHIVE_MOVES_FACT)
  if (text === null) return []
  try {
    const { format, moves } = JSON.parse(text) as { format?: unknown; moves?: unknown }
    if (format === FORMAT && Array.isArray(moves)) return moves as Move[]
    throw new Error(`format ${String(format)}`)
  } catch (cause) {
    throw corrupt(
      'where the archive of this log went can\'t be read from the index: make it anew with "stratalog index rebuild"',
      { cause },
    )
  }
}

/** Where an archive is now that was at `location`. */
export async function movedFrom(index: Pick<SegmentIndex, 'fact'>, location: string): Promise<string> {
  const moves = await movesOf(index)
  let at = location
  // Each place is left once at most, so that this ends; the bound is for a fact that somebody changed.
  for (let hops = 0; hops < MOVES_MAX; hops += 1) {
    const next = moves.find(({ from }) => from === at)
    if (next === undefined) return at
    at = next.to
  }
  throw corrupt(`the moves of the archive at ${location} lead in a circle: make the index anew`)
}

/** Whether two locations lead to one archive: a place that it left is another name of it. */
export async function isSamePlace(
  index: Pick<SegmentIndex, 'fact'>,
  one: string,
  other: string,
): Promise<boolean> {
  return one === other || (await movedFrom(index, one)) === (await movedFrom(index, other))
}

/** Remembers a move. Noting it twice changes nothing. */
export async function noteMove(index: Facts, move: Move): Promise<void> {
  const moves = await movesOf(index)
  if (moves.some(({ from, to }) => from === move.from && to === move.to)) return
  const others = moves.filter(({ from }) => from !== move.from && from !== move.to)
  await store(index, [...others, move].slice(-MOVES_MAX))
}

/** A new archive is begun at a place that another one left. */
export async function forgetMove(index: Facts, location: string): Promise<void> {
  const moves = await movesOf(index)
  const others = moves.filter(({ from }) => from !== location)
  if (others.length < moves.length) await store(index, others)
}

async function store(index: Facts, moves: readonly Move[]): Promise<void> {
  await index.setFact(ARCHIVE_MOVES_FACT, JSON.stringify({ format: FORMAT, moves }))
}

/** The key of a mark or an owner: one name for each number, so that of two writers one finds it taken. */
export function ownerKey(number: bigint): string {
  const attempt = '0'.repeat(13)
  return encodeControlKey({ incarnation: null, number, kind: 'owner', attempt })
}

/** Writes an owner object under its number; who was quicker is read by the caller. */
async function putOwner(archive: ArchiveStore, number: bigint, body: object): Promise<void> {
  await putControl(archive, null, number, 'owner', body, ONLY_ATTEMPT).catch((error: unknown) => {
    // An answer of an earlier try was lost, or somebody was quicker: what is there is read afterwards.
    if (!isStratalogError(error, 'object_exists')) throw error
  })
}

/** Marks an empty place before anything else is put there: until the archive has arrived it is nobody's. */
export async function markArriving(
  target: ArchiveStore,
  owner: NumberedOwner,
  mark: Omit<ArchiveMark, 'kind'>,
): Promise<void> {
  const arriving = { ...mark, kind: 'arriving' } as const
  await putOwner(target, owner.number + 1n, markBody(arriving, owner.epoch))
  const found = (await listOwners(target)).at(-1)
  if (isMark(found, 'arriving', mark.log, mark.location)) return
  throw new StratalogError(
    'conflict',
    `somebody else began to use ${target.location} in the same moment: name an empty place`,
    { found: found?.logId ?? null },
  )
}

/** Whether an owner object is that mark. */
export function isMark(
  owner: NumberedOwner | undefined,
  kind: ArchiveMark['kind'],
  log: string,
  location: string,
): boolean {
  const mark = owner?.mark ?? null
  return mark !== null && mark.kind === kind && mark.log === log && mark.location === location
}

/**
 * The decision: from here on the archive is at `to`. Asking again is fine; only what the store then says counts, never
 * what a call that failed may have done. Rejects with what keeps it from being known.
 */
export async function markMoved(
  source: ArchiveStore,
  log: string,
  owner: NumberedOwner,
  to: string,
  atMs: number,
): Promise<void> {
  const mark = { kind: 'moved', log, location: to, atMs } as const
  await putOwner(source, owner.number + 1n, markBody(mark, owner.epoch))
  const found = (await listOwners(source)).at(-1)
  if (!isMark(found, 'moved', log, to)) throw otherOwner(source, found ?? null, log)
}

/**
 * What follows from the decision, done by whoever finds it: the new place has an owner, the log remembers the move.
 * Every step may have been done before. Rejects with `conflict` where the new place is not the one that was filled.
 */
export async function arrive(
  context: { readonly logId: string; readonly index: Facts },
  target: ArchiveStore,
  move: Move,
): Promise<ArchiveOwner> {
  const { logId, index } = context
  let owners = await listOwners(target)
  const arriving = owners.at(-1)
  // The place that was left may be known by another path by now: whose archive arrives here is what counts.
  if (arriving?.mark?.kind === 'arriving' && arriving.mark.log === logId) {
    await putOwner(target, arriving.number + 1n, { logId, epoch: arriving.epoch + 1n, from: move.from })
    owners = await listOwners(target)
  }
  const owner = owners.at(-1)
  // One that was taken over, or moved on, since then is still the one that was filled.
  if (owner === undefined || !owners.some((one) => one.logId === logId && one.mark === null))
    throw new StratalogError(
      'archive_missing',
      `the archive of this log moved to ${move.to}, and what is at ${target.location} is not it: mount it, or put it back`,
      { expected: logId, found: owner?.logId ?? null, retryable: true },
    )
  // The move last: who finds it noted looks for nothing else that is left to do.
  await noteMigration(index, null)
  await noteMove(index, move)
  return { logId: owner.logId, epoch: owner.epoch }
}
