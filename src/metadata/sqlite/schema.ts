import type { Migration, SqlRow } from './database.js'
import { checkRow, rowChecksum } from './rows.js'

/*
 * The tables of index.db. Each row of a table that can't be checked by what it points to carries a CRC32C of its
 * columns (rows.ts): SQLite has no page checksums, and a flipped bit must not send a reader to a wrong place
 * (invariant 9). Tables are STRICT: a wrong type is a bug of ours and throws.
 *
 *   streams    one row a living stream               policies   its own policy as JSON, where it has one
 *   sums       what the stream's segments add up to, kept in the transaction that changes them
 *   segments   one row a segment                     facts      named facts of the whole log
 *   ledgers    metadata of hot ledgers, in BookKeeper's serialised form
 *   counters   high-water marks of ids               leases     epochs, growing for ever
 */
const VERSION_1 = `
CREATE TABLE streams (
  id INTEGER PRIMARY KEY,
  incarnation TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL UNIQUE,
  txid_mode TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  parent_incarnation TEXT,
  fork_segment INTEGER, fork_entry INTEGER, fork_slot INTEGER,
  epoch INTEGER NOT NULL,
  trimmed_segment INTEGER, trimmed_entry INTEGER, trimmed_slot INTEGER,
  version INTEGER NOT NULL,
  checksum INTEGER NOT NULL
) STRICT;

CREATE TABLE sums (
  stream INTEGER PRIMARY KEY REFERENCES streams (id),
  newest_segment INTEGER,
  segments INTEGER NOT NULL,
  records INTEGER NOT NULL,
  hot_segments INTEGER NOT NULL, hot_bytes INTEGER NOT NULL,
  cold_segments INTEGER NOT NULL, cold_bytes INTEGER NOT NULL,
  both_bytes INTEGER NOT NULL,
  checksum INTEGER NOT NULL
) STRICT;

CREATE TABLE segments (
  id INTEGER PRIMARY KEY,
  stream INTEGER NOT NULL REFERENCES streams (id),
  segment INTEGER NOT NULL,
  state TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  ledger_id INTEGER,
  first_txid INTEGER NOT NULL,
  start_sequence_id INTEGER NOT NULL,
  opened_ms INTEGER NOT NULL,
  last_txid INTEGER NOT NULL,
  last_entry_id INTEGER NOT NULL,
  last_slot INTEGER NOT NULL,
  record_count INTEGER NOT NULL,
  length_bytes INTEGER NOT NULL,
  sealed_ms INTEGER,
  content_digest TEXT,
  object_key TEXT, object_size_bytes INTEGER, object_index_bytes INTEGER,
  archived_ms INTEGER,
  evicted_ms INTEGER,
  version INTEGER NOT NULL,
  checksum INTEGER NOT NULL,
  -- The largest last txid and completion time of this and all earlier segments: they grow with the segment even
  -- where a clock went back, so a search by them is one step down an index.
  txid_top INTEGER NOT NULL,
  sealed_top INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX segments_by_number ON segments (stream, segment);
CREATE INDEX segments_by_state ON segments (state, stream, segment);
CREATE INDEX segments_by_txid ON segments (stream, txid_top, segment);
CREATE INDEX segments_by_time ON segments (stream, sealed_top, segment);
CREATE INDEX segments_by_sequence_id ON segments (stream, start_sequence_id + record_count, segment)
  WHERE record_count > 0 AND state NOT IN ('open', 'recovering');
CREATE INDEX segments_hot ON segments (stream, segment) WHERE ledger_id IS NOT NULL;
CREATE INDEX segments_owing ON segments (stream, segment)
  WHERE (state = 'cold' AND ledger_id IS NOT NULL)
    OR (state = 'trimmed' AND (ledger_id IS NOT NULL OR object_key IS NOT NULL));

CREATE TABLE policies (
  stream INTEGER PRIMARY KEY REFERENCES streams (id),
  policy TEXT NOT NULL,
  checksum INTEGER NOT NULL
) STRICT;

CREATE TABLE facts (
  name TEXT PRIMARY KEY,
  value TEXT NOT NULL,
  checksum INTEGER NOT NULL
) STRICT;

CREATE TABLE ledgers (
  ledger_id INTEGER PRIMARY KEY,
  version INTEGER NOT NULL,
  metadata BLOB NOT NULL,
  checksum INTEGER NOT NULL
) STRICT;

CREATE TABLE counters (
  name TEXT PRIMARY KEY,
  next INTEGER NOT NULL,
  checksum INTEGER NOT NULL
) STRICT;

CREATE TABLE leases (
  name TEXT PRIMARY KEY,
  epoch INTEGER NOT NULL,
  holder TEXT NOT NULL,
  checksum INTEGER NOT NULL
) STRICT;
`

const STREAM_COLUMNS_1 =
  'incarnation, name, txid_mode, created_ms, parent_incarnation, fork_segment, fork_entry, fork_slot, epoch, ' +
  'trimmed_segment, trimmed_entry, trimmed_slot, version'

/** Version 2: streams can be finished. Their checksums cover the new column; a damaged row stays noticed. */
function addFinished(database: Parameters<Migration>[0]): void {
  database.exec('ALTER TABLE streams ADD COLUMN finished_ms INTEGER')
  const read = database.prepare<unknown[], SqlRow>(`SELECT ${STREAM_COLUMNS_1}, checksum FROM streams`)
  const write = database.prepare('UPDATE streams SET checksum = ? WHERE incarnation = ?')
  for (const row of read.safeIntegers(true).raw(true).all()) {
    checkRow(row, `stream ${String(row[1])}`)
    write.run(rowChecksum([...row.slice(0, -1), null]), row[0])
  }
}

const SEGMENT_COLUMNS_2 =
  'segment, state, segments.epoch, ledger_id, first_txid, start_sequence_id, opened_ms, last_txid, last_entry_id, ' +
  'last_slot, record_count, length_bytes, sealed_ms, content_digest, object_key, object_size_bytes, ' +
  'object_index_bytes, archived_ms, evicted_ms, segments.version'

/** Version 3: gaps say why they are, and those that were dropped owe the deletion of their hot copy. */
function addGapReason(database: Parameters<Migration>[0]): void {
  database.exec('ALTER TABLE segments ADD COLUMN gap_reason TEXT')
  const read = database.prepare<unknown[], SqlRow>(
    `SELECT segments.id, incarnation, ${SEGMENT_COLUMNS_2}, segments.checksum
    FROM segments JOIN streams ON streams.id = segments.stream WHERE segments.id > ? ORDER BY segments.id LIMIT 10000`,
  )
  const page = read.safeIntegers(true).raw(true)
  const write = database.prepare('UPDATE segments SET checksum = ? WHERE id = ?')
  for (let rows = page.all(-1); rows.length > 0; rows = page.all(rows.at(-1)?.[0])) {
    for (const [id, ...row] of rows) {
      checkRow(row, `segment ${String(row[1])} of ${String(row[0])}`)
      write.run(rowChecksum([...row.slice(0, -1), null]), id)
    }
  }
  database.exec(`DROP INDEX segments_owing;
CREATE INDEX segments_owing ON segments (stream, segment)
  WHERE (state = 'cold' AND ledger_id IS NOT NULL)
    OR (state = 'gap' AND gap_reason = 'dropped' AND ledger_id IS NOT NULL)
    OR (state = 'trimmed' AND (ledger_id IS NOT NULL OR object_key IS NOT NULL));`)
}

const SEGMENT_COLUMNS_3 = `${SEGMENT_COLUMNS_2}, gap_reason`
const ROWS_AT_ONCE = 10_000

/** Version 4: segments can be recalled. Checksums cover the new column; a million rows are not held at once. */
function addRecalled(database: Parameters<Migration>[0]): void {
  database.exec('ALTER TABLE segments ADD COLUMN recalled_until_ms INTEGER')
  const read = database.prepare<unknown[], SqlRow>(
    `SELECT id, (SELECT incarnation FROM streams WHERE streams.id = segments.stream), ${SEGMENT_COLUMNS_3}, checksum
     FROM segments WHERE id > ? ORDER BY id LIMIT ${ROWS_AT_ONCE}`,
  )
  const write = database.prepare('UPDATE segments SET checksum = ? WHERE id = ?')
  for (let after: SqlRow[number] = 0n; ; ) {
    const page = read.safeIntegers(true).raw(true).all(after)
    for (const [id = 0n, ...row] of page) {
      checkRow(row, `segment ${String(row[1])} of ${String(row[0])}`)
      write.run(rowChecksum([...row.slice(0, -1), null]), id)
      after = id
    }
    if (page.length < ROWS_AT_ONCE) return
  }
}

const STREAM_COLUMNS_2 = `${STREAM_COLUMNS_1}, finished_ms`

/** Version 5: clones share the objects of their parent. Checksums cover the new column. */
function addShares(database: Parameters<Migration>[0]): void {
  database.exec('ALTER TABLE streams ADD COLUMN parent_shares INTEGER')
  const read = database.prepare<unknown[], SqlRow>(`SELECT ${STREAM_COLUMNS_2}, checksum FROM streams`)
  const write = database.prepare('UPDATE streams SET checksum = ? WHERE incarnation = ?')
  for (const row of read.safeIntegers(true).raw(true).all()) {
    checkRow(row, `stream ${String(row[1])}`)
    write.run(rowChecksum([...row.slice(0, -1), null]), row[0])
  }
}

/** Every version there was, in order. A released step is never changed; a change is a new step. */
export const MIGRATIONS: readonly Migration[] = [
  (database) => {
    database.exec(VERSION_1)
  },
  addFinished,
  addGapReason,
  addRecalled,
  addShares,
]
