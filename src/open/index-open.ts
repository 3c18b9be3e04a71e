import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { SqliteMetadata } from '../metadata/sqlite/open.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import { policyQuorum } from '../model/quorum.js'
import type { LedgerMetadataStore } from '../ports/ledger-metadata.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import { catchUp, lastSequence, recordWhatLacks } from '../rebuild/catch-up.js'
import {
  DecisionWriter,
  type FoundDecisions,
  foldDecisions,
  readDecisions,
  spreadDecisions,
} from '../rebuild/decisions.js'
import { RecordedIndex } from '../rebuild/recorded-index.js'
import { RecordedLedgers } from '../rebuild/recorded-ledgers.js'
import { checkIndex, type Identity, indexMissing } from './identity.js'
import { checkIndexAge } from './index-age.js'
import type { IndexlessLog } from './rebuild-index.js'

/** The metadata of an open log, with its decisions on the stores. */
export interface OpenIndex {
  readonly metadata: SqliteMetadata
  readonly index: SegmentIndex
  readonly ledgers: LedgerMetadataStore
}

/**
 * Opens the index of a log whose stores are open. One that is gone, damaged or older than the stores is made again
 * where that loses nothing: every store and the archive answer, and no segment is missing. Else it is refused with
 * what is missing, and nothing was changed. Nothing is ever appended to an index behind its stores.
 */
export async function openIndex(log: IndexlessLog, identity: Identity): Promise<OpenIndex> {
  const opened = await openSound(log, identity).catch((error: unknown) => error)
  if (!(opened instanceof Error)) return record(log, opened as Sound)
  const mendable = isStratalogError(opened, 'index_missing') || isStratalogError(opened, 'corrupt')
  if (identity.created || !mendable) throw opened
  log.system.logger.warn({ err: opened }, 'the index is made again from stores and archive')
  const { makeIndex } = await import('./rebuild-index.js')
  await makeIndex(log, { acceptLoss: false }).catch((cause: unknown) => {
    if (!isStratalogError(cause)) throw cause
    throw new StratalogError(opened.code, `${opened.message}; ${cause.message}`, {
      cause,
      found: opened.found,
    })
  })
  return record(log, await openSound(log, identity))
}

interface Sound {
  readonly metadata: SqliteMetadata
  readonly found: FoundDecisions
}

/** The index as it is, checked against log and stores; closed again where it is not to be used. */
async function openSound(log: IndexlessLog, identity: Identity): Promise<Sound> {
  const { root, system, stores } = log
  const file = join(root, 'index.db')
  // Looked at before it is opened: opening would make an empty one, which the next start would take for the index.
  if (!identity.created && !existsSync(file)) throw indexMissing(root)
  const { openSqliteMetadata } = await import('../metadata/sqlite/open.js')
  const { clock, logger } = system
  const metadata = openSqliteMetadata(file, { clock, logger })
  try {
    await checkIndex(metadata.index, identity, root)
    const found = await readDecisions({ stores, metadata: metadata.ledgers, clock, logger })
    if (!identity.created) {
      const { index, ledgers } = metadata
      const decided = foldDecisions(found.recorded)
      await checkIndexAge(root, { index, ledgers, stores: stores.all(), decided })
    }
    return { metadata, found }
  } catch (error) {
    await metadata.close()
    throw error
  }
}

/** From here on what is decided is on the stores before the index has it. */
async function record(log: IndexlessLog, { metadata, found }: Sound): Promise<OpenIndex> {
  const { system, stores, config } = log
  const { clock, logger, random } = system
  try {
    const context = { stores, metadata: metadata.ledgers, clock, logger }
    await spreadDecisions(context, found)
    await catchUp(metadata.index, found, logger)
    const decided = foldDecisions(found.recorded)
    const storesMin = policyQuorum(config.policyFor('').policy, stores.all().length).min
    const sequence = await lastSequence(metadata.index, found)
    const decisions = new DecisionWriter(context, random, storesMin, sequence)
    const index = new RecordedIndex({ index: metadata.index, decisions, clock, decided })
    await recordWhatLacks(context, index, decisions, decided)
    const ledgers = new RecordedLedgers(metadata.ledgers, decisions, decided.idsThrough)
    return { metadata, index, ledgers }
  } catch (error) {
    await metadata.close()
    throw error
  }
}
