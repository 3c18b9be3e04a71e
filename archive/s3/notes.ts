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
/** By address, bucket and prefix: what this process found out itself. */
const found = new Map<string, Abilities>()
const FOUND_MAX = 1000

/** What is known of the store, found out now where nothing is; an archive that can't be written is refused. */
export async function learnAbilities(session: S3Session): Promise<Abilities> {
  const noted = await readNotes(session)
  if (noted !== null) {
    await probeWriting(session)
    return noted
  }
  return probeAnew(session)
}

/** Tries the store, whatever is noted of it. */
export async function probeAnew(session: S3Session, signal?: AbortSignal): Promise<Abilities> {
  const abilities = await probeStore(session, signal)
  remember(session, abilities)
  const { clock } = session.context
  const note = { format: FORMAT, address: addressOf(session), checkedMs: clock.nowMs(), abilities }
  await writeSmall(session, NOTES, `${JSON.stringify(note)}\n`, { fresh: false, signal })
  return abilities
}

/** What is noted and still believed; null: nothing. */
export async function readNotes(session: S3Session): Promise<Abilities | null> {
  const known = found.get(placeOf(session))
  if (known !== undefined) return known
  const text = await readSmall(session, NOTES)
  const abilities = text === null ? null : parseNotes(session, text)
  if (abilities !== null) remember(session, abilities)
  return abilities
}

/** Notes are only believed whole: of what is not there, everything is found out again. */
function parseNotes(session: S3Session, text: string): Abilities | null {
  let note: { format?: unknown; address?: unknown; checkedMs?: unknown; abilities?: unknown } | null
  try {
    note = JSON.parse(text)
  } catch {
    return null
  }
  const age = session.context.clock.nowMs() - Number(note?.checkedMs)
  const current = note?.format === FORMAT && note.address === addressOf(session)
  if (!current || !(age >= 0 && age < BELIEVED_MS)) return null
  const abilities = note?.abilities as Record<string, unknown> | null | undefined
  const names = Object.keys(NO_ABILITIES)
  const whole = names.every((name) => typeof abilities?.[name] === 'boolean')
  return whole ? ({ ...NO_ABILITIES, ...abilities } as Abilities) : null
}

function remember(session: S3Session, abilities: Abilities): void {
  if (found.size >= FOUND_MAX) found.clear()
  found.set(placeOf(session), abilities)
}

function addressOf({ place }: S3Session): string {
  return place.endpoint?.host ?? 'aws'
}

function placeOf(session: S3Session): string {
  return `${addressOf(session)} ${session.location}`
}
