import { type Abilities, NO_ABILITIES } from './abilities.js'
import { NOTES, readSmall, writeSmall } from './marker.js'
import { probeStore, probeWriting } from './probe.js'
import type { S3Session } from './session.js'

/*
 * What a store was found to do is noted beside the objects and believed for a while, at the address where it was found
 * only: a bucket that was copied to another store takes its notes along.
 */

const FORMAT = 1
const BELIEVED_MS = 7 * 86_400_000
/** What was found out, and when. */
interface Found {
  readonly abilities: Abilities
  readonly checkedMs: number
}

/** By address, bucket and prefix: what this process found out itself. */
const found = new Map<string, Found>()
const FOUND_MAX = 1000

/** Makes sure of what is known of the store, found out now where nothing is; an archive that can't be written is refused. */
export async function learnAbilities(session: S3Session): Promise<void> {
  // What is noted counts also where nothing can be written: nothing has to be found out then.
  if ((await readNotes(session)) === null) await probeAnew(session)
  else await probeWriting(session)
}

/** Tries the store, whatever is noted of it. */
export async function probeAnew(session: S3Session, signal?: AbortSignal): Promise<Abilities> {
  const abilities = await probeStore(session, signal)
  const known = { abilities, checkedMs: session.context.clock.nowMs() }
  remember(session, known)
  const note = { format: FORMAT, address: addressOf(session), ...known }
  await writeSmall(session, NOTES, `${JSON.stringify(note)}\n`, { fresh: false, signal })
  return abilities
}

/** What is noted and still believed; null: nothing. */
export async function readNotes(session: S3Session): Promise<Abilities | null> {
  let known = found.get(placeOf(session)) ?? null
  if (known === null || !isBelieved(session, known.checkedMs)) {
    const text = await readSmall(session, NOTES)
    known = text === null ? null : parseNotes(session, text)
  }
  if (known !== null) remember(session, known)
  return known?.abilities ?? null
}

/** Whether what an open archive goes by is still to be believed; a store may be another version's by now. */
export function stillBelieved(session: S3Session): boolean {
  return session.learntMs === null || isBelieved(session, session.learntMs)
}

function isBelieved({ context }: S3Session, checkedMs: number): boolean {
  const ageMs = context.clock.nowMs() - checkedMs
  return ageMs >= 0 && ageMs < BELIEVED_MS
}

/** Notes are only believed whole: of what is not there, everything is found out again. */
function parseNotes(session: S3Session, text: string): Found | null {
  let note: { format?: unknown; address?: unknown; checkedMs?: unknown; abilities?: unknown } | null
  try {
    note = JSON.parse(text)
  } catch {
    return null
  }
  const checkedMs = Number(note?.checkedMs)
  const current = note?.format === FORMAT && note.address === addressOf(session)
  if (!current || !isBelieved(session, checkedMs)) return null
  const abilities = note?.abilities as Record<string, unknown> | null | undefined
  const names = Object.keys(NO_ABILITIES)
  const whole = names.every((name) => typeof abilities?.[name] === 'boolean')
  return whole ? { abilities: { ...NO_ABILITIES, ...abilities } as Abilities, checkedMs } : null
}

function remember(session: S3Session, known: Found): void {
  session.abilities = known.abilities
  session.learntMs = known.checkedMs
  if (found.size >= FOUND_MAX) found.clear()
  found.set(placeOf(session), known)
}

function addressOf({ place }: S3Session): string {
  return place.endpoint?.host ?? 'aws'
}

function placeOf(session: S3Session): string {
  return `${addressOf(session)} ${session.location}`
}
