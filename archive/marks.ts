import { StratalogError } from '../src/model/errors.js'

/*
 * An archive that is copied to another place is marked at both ends by an owner object of its own (decision 0029). The
 * log ids in them are no log's, so that whoever compares an owner with itself finds that the archive is not its own:
 *
 *   moved      in the archive that was left: it goes on at `location`; from then on nobody commits here
 *   arriving   in the one that is being filled from `location`: it is not whole yet
 *
 * A body has logId (`moved` or `arriving`), epoch, log (the id of the log it is about), location, atMs.
 */

/** What marks an archive that a log is leaving, or has not arrived in yet. */
export interface ArchiveMark {
  readonly kind: 'moved' | 'arriving'
  /** The log it is about. */
  readonly log: string
  /** Where it went, or where it comes from. */
  readonly location: string
  readonly atMs: number
}

/** The fields of an owner object that is a mark. */
export function markBody({ kind, log, location, atMs }: ArchiveMark, epoch: bigint): object {
  return { logId: kind, epoch, log, location, atMs }
}

/** Null: an owner as any other. Undefined: it names a mark and is none. */
export function markOf(body: Readonly<Record<string, unknown>>): ArchiveMark | null | undefined {
  const { logId: kind, log, location, atMs } = body
  if (kind !== 'moved' && kind !== 'arriving') return null
  if (typeof log !== 'string' || typeof location !== 'string' || typeof atMs !== 'number') return undefined
  return { kind, log, location, atMs }
}

/** The refusal of an archive for its mark. */
export function markedError(at: string, mark: ArchiveMark): StratalogError {
  const { kind, location, atMs, log } = mark
  const details = { found: at, expected: location, details: { log, atMs } }
  if (kind === 'moved')
    return new StratalogError(
      'archive_moved',
      `the archive at ${at} moved to ${location} (${new Date(atMs).toISOString()}): write "archive: ${location}" in stratalog.yaml, or name that place`,
      details,
    )
  return new StratalogError(
    'refused',
    `the archive at ${at} is being filled from ${location} and is not whole: use that one until the migration is done`,
    details,
  )
}
