import { ownerOf } from '../archive/control-objects.js'
import { type BegunArchive, beginArchive, takeOverArchive } from '../tiering/take-over.js'
import type { LogParts } from './log-parts.js'
import { StratalogError } from './model/errors.js'
import type { ArchiveStore } from './ports/archive-store.js'

/** Whose archive it is. */
export interface ArchiveOwnership {
  readonly location: string
  /** This log. */
  readonly logId: string
  /** Null: nothing was ever copied into it. */
  readonly owner: { readonly logId: string; readonly epoch: bigint } | null
  readonly ours: boolean
}

/** The archive of a log as a whole. Every method rejects with `archive_missing` where none is configured. */
export interface LogOwnership {
  /** Who owns the configured archive, whoever that is. */
  owner(): Promise<ArchiveOwnership>
  /**
   * Makes the archive that is configured this log's, as after a restore from it: the owner epoch goes up by one, and
   * the log that had it stops at its next commit. What it archived stays where it is.
   *
   * @example
   * ```ts
   * import { openLog } from 'stratalog'
   * await using log = await openLog('./recovered', { archive: './archive', tiering: 'off' })
   * const { epoch } = await log.archive.takeOver()
   * console.log(`goes on in ./archive as its owner, epoch ${epoch}`)
   * ```
   */
  takeOver(): Promise<{ readonly logId: string; readonly epoch: bigint }>
  /**
   * Of a log that reads an archive of another (`openLog(dir, { attach })`): looks now for what was archived since. It
   * does so by itself every few seconds. Else it does nothing.
   */
  refresh(): Promise<void>
  /**
   * Begins a new archive where the configuration says, in place of one that is lost for good. What is hot is copied
   * again. Segments that were in the lost archive alone become gaps for ever, only with `acceptLoss`; without it the
   * call is `refused` with how many there are, and nothing is changed.
   */
  begin(options?: { readonly acceptLoss?: boolean; readonly signal?: AbortSignal }): Promise<BegunArchive>
}

/** @internal */
export function logOwnership(parts: LogParts): LogOwnership {
  const { logId, random, segments, agent } = parts
  const context = { logId, random, index: segments.index, ledger: segments.ledger }
  const withArchive = async <T>(
    existing: boolean,
    work: (archive: ArchiveStore) => Promise<T>,
  ): Promise<T> => {
    if (parts.openAnyArchive === null) throw noArchive(parts.directory)
    const archive = await parts.openAnyArchive(existing)
    try {
      return await work(archive)
    } finally {
      await archive.close()
      agent.wake(0)
    }
  }
  return {
    owner: () =>
      withArchive(true, async (archive) => {
        const found = await ownerOf(archive)
        const owner = found === null ? null : { logId: found.logId, epoch: found.epoch }
        return { location: archive.location, logId, owner, ours: owner?.logId === logId }
      }),
    refresh: async () => parts.attached?.(),
    takeOver: () => withArchive(true, (archive) => takeOverArchive(context, archive)),
    begin: ({ acceptLoss = false, signal } = {}) =>
      withArchive(false, (archive) =>
        beginArchive(context, archive, { acceptLoss, ...(signal === undefined ? {} : { signal }) }),
      ),
  }
}

/** What a log that only reads an archive refuses. @internal */
export function attachedError(location: string | null): StratalogError {
  return new StratalogError(
    'refused',
    `this log only reads the archive at ${location ?? ''}, which another log owns: append there, or restore a copy of your own: stratalog restore --from ${location ?? 'ARCHIVE'}`,
    { found: location },
  )
}

function noArchive(directory: string): StratalogError {
  return new StratalogError(
    'archive_missing',
    `the log in ${directory} has no archive configured: name it under "archive" in its stratalog.yaml`,
  )
}
