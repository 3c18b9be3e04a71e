import { corrupt } from '../src/format/bytes.js'
import type { SegmentIndex } from '../src/ports/segment-index.js'

/**
 * The fact that says how far a migration is. Not a recorded one: whoever makes the index again begins the migration
 * again, and finds what is in the new place already.
 */
const MIGRATION_FACT = 'archive-migration'
const FORMAT = 1

/** A migration under way. */
export interface MigrationState {
  readonly from: string
  readonly to: string
  readonly beganMs: number
  /**
   * Keys that are being written: of what is under them in the new place nobody knows whether it is whole. Whatever else
   * is there was read back. Null: nothing was, as far as is known.
   */
  readonly unread: readonly string[] | null
}

type Facts = Pick<SegmentIndex, 'fact' | 'setFact'>

/** Null: there is none. */
export async function migrationOf(index: Pick<SegmentIndex, 'fact'>): Promise<MigrationState | null> {
  const text = await index.fact(MIGRATION_FACT)
  if (text === null || text === '') return null
  try {
    const { format, ...state } = JSON.parse(text) as { format?: unknown } & MigrationState
    if (format === FORMAT && typeof state.from === 'string' && typeof state.to === 'string') return state
    throw new Error(`format ${String(format)}`)
  } catch (cause) {
    throw corrupt(
      'how far the migration is can\'t be read from the index: end it with "stratalog migrate --abort --leave --yes"',
      { cause },
    )
  }
}

/** Null: it is over. */
export async function noteMigration(index: Facts, state: MigrationState | null): Promise<void> {
  await index.setFact(MIGRATION_FACT, state === null ? '' : JSON.stringify({ format: FORMAT, ...state }))
}
