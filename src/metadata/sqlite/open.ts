import type { SegmentRow } from '../../model/segment.js'
import type { Clock } from '../../ports/clock.js'
import type { Coordination } from '../../ports/coordination.js'
import type { Logger } from '../../ports/logger.js'
import type { SegmentIndex } from '../../ports/segment-index.js'
import { SqliteCoordination } from './coordination.js'
import type { OpenDatabaseOptions } from './database.js'
import { SqliteDatabase } from './database.js'
import { SqliteLedgerMetadataStore } from './ledger-metadata.js'
import { MIGRATIONS } from './schema.js'
import { SqliteSegmentIndex } from './segment-index.js'

export interface SqliteMetadataOptions extends Omit<OpenDatabaseOptions, 'migrations'> {
  /** Times the waiting for leases. */
  readonly clock: Clock
  /** Hears of listeners that throw. */
  readonly logger: Logger
}

/** All metadata of one log in one file. */
export interface SqliteMetadata {
  readonly index: SegmentIndex
  readonly ledgers: SqliteLedgerMetadataStore
  readonly coordination: Coordination
  /** Adopts closed segments of one stream, in order, in one transaction. */
  adoptSegments(rows: readonly SegmentRow[]): Promise<void>
  /**
   * Whether the file was new or empty. Where there are stores with data already, it must be rebuilt from them
   * before anything is appended: its epochs and ids begin anew.
   */
  readonly created: boolean
  /** Loses all leases, ends all watches, closes the file. Idempotent. */
  close(): Promise<void>
}

/**
 * Opens the metadata in `file`, making it if there is none. The directory must be locked by the caller
 * (`lockDirectory`). Errors: those of `SqliteDatabase.open`; nothing is ever deleted.
 */
export function openSqliteMetadata(file: string, options: SqliteMetadataOptions): SqliteMetadata {
  const { clock, logger, ...rest } = options
  const database = SqliteDatabase.open(file, { ...rest, migrations: MIGRATIONS })
  try {
    const index = new SqliteSegmentIndex(database, logger)
    const ledgers = new SqliteLedgerMetadataStore(database)
    const coordination = new SqliteCoordination(database, clock)
    return {
      index,
      ledgers,
      coordination,
      adoptSegments: (rows) => index.adoptSegments(rows),
      created: database.created,
      async close() {
        // Leases first: who holds one has to stop before the file is gone.
        await coordination.close()
        await index.close()
        database.close()
      },
    }
  } catch (error) {
    // Statements are prepared while the parts are made: a damaged schema shows there.
    database.close()
    throw error
  }
}
