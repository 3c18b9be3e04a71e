import { join } from 'node:path'
import { locationsIn, OWN_ARCHIVES_FACT, ownerFactOf } from '../../archive/bindings.js'
import { ARCHIVE_OWNER_FACT } from '../../archive/control-objects.js'
import { isSamePlace } from '../../tiering/migrate-moves.js'
import type { ResolvedConfig } from '../config/resolve.js'
import type { LedgerContext, StoreDirectory } from '../ledger/context.js'
import { openSqliteMetadata, type SqliteMetadata } from '../metadata/sqlite/open.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { OpenOptions, SystemPorts } from '../options.js'
import type { ArchiveStore } from '../ports/archive-store.js'
import { foldDecisions, readDecisions } from '../rebuild/decisions.js'
import { type RebuildOptions, rebuildIndex } from '../rebuild/rebuild.js'
import type { RebuildReport } from '../rebuild/report.js'
import { archiveLocation } from './archive-location.js'
import { archiveSettings } from './archive-settings.js'
import { type ArchiveUser, archiveOpener, openerAt } from './archives.js'
import { policyResolver } from './configuration.js'
import { ringsOf } from './key-rings.js'

/** A log whose index is made again; its directory is locked and its stores are open. */
export interface IndexlessLog {
  readonly root: string
  readonly logId: string
  readonly stores: StoreDirectory
  readonly options: OpenOptions
  readonly config: ResolvedConfig
  readonly system: SystemPorts
}

/** How a rebuild goes about it. */
export type RebuildWishes = Pick<RebuildOptions, 'acceptLoss' | 'signal' | 'onProgress'>

/** What was made, and where the index that was there before is now. */
export interface RebuiltIndex extends RebuildReport {
  readonly file: string
  readonly keptAs: string | null
  /** The log is a namespace of a cluster: the file is a cache, and only what it says was read anew. */
  readonly cluster: boolean
}

/** A database is up to three files. */
const PARTS = ['', '-wal', '-shm'] as const

/**
 * Makes `index.db` anew from stores and archive. Order: a new file beside it, whole and synced; the old one out of the
 * way under another name, with its log, which SQLite would else apply to the new one; then the new one into its place.
 * A crash anywhere leaves the old index, or none, which the next start makes again. Invariant 12.
 */
export async function makeIndex(log: IndexlessLog, wishes: RebuildWishes): Promise<RebuiltIndex> {
  const { root, system } = log
  const file = join(root, 'index.db')
  const fresh = `${file}.new`
  await removeDatabase(system, fresh)
  const { clock, logger, disk } = system
  const metadata = openSqliteMetadata(fresh, { clock, logger, building: true })
  let report: RebuildReport
  try {
    report = await fill(log, metadata, wishes)
    await metadata.close()
  } catch (error) {
    await discard(system, metadata, fresh)
    throw error
  }
  await syncDatabase(system, fresh)
  await disk.syncDirectory(root)
  const keptAs = await putAside(system, root, file)
  await disk.rename(fresh, file)
  await disk.syncDirectory(root)
  logger.warn({ file, keptAs, segments: report.segments }, 'the index was made again from stores and archive')
  return { ...report, file, keptAs, cluster: false }
}

async function fill(
  log: IndexlessLog,
  metadata: SqliteMetadata,
  wishes: RebuildWishes,
): Promise<RebuildReport> {
  const { clock, logger } = log.system
  const ledger: LedgerContext = { stores: log.stores, metadata: metadata.ledgers, clock, logger }
  await metadata.index.setFact('log', log.logId)
  const archive = await openArchiveOf(log, ledger, metadata)
  try {
    const target = {
      index: metadata.index,
      adoptSegments: metadata.adoptSegments,
      reserveThrough: (id: bigint) => metadata.ledgers.reserveThrough(id),
    }
    const unreachable = archive.problem === null ? [] : [archive.problem]
    for (const { problem } of archive.own) if (problem !== null) unreachable.push(problem)
    const own = new Map(archive.own.flatMap(({ location, store }) => (store ? [[location, store]] : [])))
    const report = await rebuildIndex({ ...wishes, target, ledger, archive: archive.store, own, unreachable })
    for (const location of own.keys()) await metadata.index.setFact(ownerFactOf(location), log.logId)
    // Its owner object was found to be this log's: from here on the log opens no other archive (decision 0008).
    if (archive.store !== null) await metadata.index.setFact(ARCHIVE_OWNER_FACT, log.logId)
    return report
  } finally {
    await archive.store?.close()
    for (const { store } of archive.own) await store?.close()
  }
}

/** An archive that some streams have to themselves, as far as it is there. */
interface OwnArchive {
  readonly location: string
  readonly store: ArchiveStore | null
  readonly problem: string | null
}

/** Those that decisions tell of, and those that policies name: decisions may be lost. */
async function openOwnArchives(
  facts: ReadonlyMap<string, string>,
  named: readonly string[],
  user: ArchiveUser,
): Promise<OwnArchive[]> {
  const used = locationsIn(facts.get(OWN_ARCHIVES_FACT) ?? null)
  const opened: OwnArchive[] = []
  for (const location of new Set([...used, ...named])) {
    const opener = openerAt(location, null, user, ownerFactOf(location))
    try {
      opened.push({ location, store: await opener.open(), problem: null })
    } catch (error) {
      if (!isStratalogError(error)) throw error
      // One that was never used need not be there; of one that has our owner object nothing may be missing.
      const unused = !facts.has(ownerFactOf(location)) && error.code === 'archive_missing'
      if (!unused) opened.push({ location, store: null, problem: `${location}: ${error.message}` })
    }
  }
  return opened
}

/**
 * The log's own archive. Whether it ever had one its decisions say; without them (0.1.0 wrote none) an archive that is
 * not this log's counts as one that was never used: what would be missing then shows as holes.
 */
async function openArchiveOf(
  { root, logId, options, config, system }: IndexlessLog,
  ledger: LedgerContext,
  metadata: SqliteMetadata,
): Promise<{
  readonly store: ArchiveStore | null
  readonly problem: string | null
  readonly own: readonly OwnArchive[]
}> {
  const { facts, policies, streams } = foldDecisions((await readDecisions(ledger)).recorded)
  const used = facts.has(ARCHIVE_OWNER_FACT)
  const { signal } = new AbortController()
  // What the decisions say is put into the new index; that this archive is the log's is what is found out here.
  const fact = async (name: string) => (name === ARCHIVE_OWNER_FACT ? logId : (facts.get(name) ?? null))
  const index = { fact, setFact: (name: string, value: string) => metadata.index.setFact(name, value) }
  const current = () => config
  const rings = ringsOf(root, options, current, system, async (incarnation) => {
    const name = streams.get(incarnation)?.name ?? ''
    const { policy } = policyResolver(current).resolve(name, policies.get(incarnation) ?? null)
    return policy.encryption?.ring ?? null
  })
  const settings = archiveSettings(root, config)
  const user = { logId, index, system, signal, rings, settings }
  const opener = archiveOpener(root, options, config, user)
  const named = config.ownArchives.flatMap(({ value }) =>
    value === 'none' ? [] : [archiveLocation(value, root)],
  )
  const others: string[] = []
  for (const one of named)
    if (opener === null || !(await isSamePlace(index, one, opener.location))) others.push(one)
  const own = await openOwnArchives(facts, others, user)
  if (opener === null)
    return { store: null, problem: used ? 'the archive: the log has one and none is configured' : null, own }
  try {
    return { store: await opener.open(), problem: null, own }
  } catch (error) {
    if (!isStratalogError(error)) throw error
    const unused = !used && error.code === 'archive_missing'
    return { store: null, problem: unused ? null : error.message, own }
  }
}

/** Nobody needs half an index. What can't be removed is removed by the next rebuild. */
async function discard(system: SystemPorts, metadata: SqliteMetadata, file: string): Promise<void> {
  try {
    await metadata.close()
    await removeDatabase(system, file)
  } catch (error) {
    system.logger.warn({ err: error, file }, 'an unfinished index could not be removed')
  }
}

async function removeDatabase({ disk }: SystemPorts, file: string): Promise<void> {
  for (const part of PARTS)
    if ((await disk.stat(`${file}${part}`)) !== null) await disk.remove(`${file}${part}`)
}

/** Closing writes the log back into the file; one that is left would hold changes that the file has not. */
async function syncDatabase({ disk }: SystemPorts, file: string): Promise<void> {
  if ((await disk.stat(`${file}-wal`)) !== null)
    throw new StratalogError('io_failed', `${file} could not be completed: look at the disk and run it again`)
  const opened = await disk.open(file, 'write')
  try {
    await opened.dataSync()
  } finally {
    await opened.close()
  }
}

/** The file itself first: while it is there under its own name it must have its log beside it. */
async function putAside({ disk, clock }: SystemPorts, root: string, file: string): Promise<string | null> {
  const stamp = new Date(clock.nowMs()).toISOString().replaceAll(/[-:.]/g, '')
  let kept = `${file}.old-${stamp}`
  for (let again = 2; (await taken(disk, kept)) && again < 1_000; again += 1)
    kept = `${file}.old-${stamp}-${again}`
  let any = false
  for (const part of PARTS) {
    if ((await disk.stat(`${file}${part}`)) === null) continue
    await disk.rename(`${file}${part}`, `${kept}${part}`)
    any = true
  }
  if (any) await disk.syncDirectory(root)
  return any ? kept : null
}

async function taken(disk: SystemPorts['disk'], file: string): Promise<boolean> {
  const found = await Promise.all(PARTS.map((part) => disk.stat(`${file}${part}`)))
  return found.some((one) => one !== null)
}
