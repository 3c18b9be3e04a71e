import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import Database from 'better-sqlite3'
import type { Migration, SqlRow, SqlValue } from '../../src/metadata/sqlite/database.js'
import { SqliteDatabase } from '../../src/metadata/sqlite/database.js'
import { sqliteError } from '../../src/metadata/sqlite/errors.js'
import {
  rowChecksum,
  SEGMENT_COLUMNS,
  STREAM_COLUMNS,
  segmentToSql,
  withChecksum,
} from '../../src/metadata/sqlite/rows.js'
import { MIGRATIONS } from '../../src/metadata/sqlite/schema.js'
import type { ErrorCode } from '../../src/model/errors.js'
import { isStratalogError } from '../../src/model/errors.js'
import { newStream, sealedRow, sealedSegments, writableStream } from '../contract/segment-rows.js'
import { openFor, temporaryDirectory } from './helpers.js'

const code = (expected: ErrorCode) => (error: unknown) => isStratalogError(error, expected)
const FIRST: Migration = (raw) =>
  raw.exec('CREATE TABLE a (x INTEGER NOT NULL) STRICT; INSERT INTO a VALUES (1)')
const SECOND: Migration = (raw) => raw.exec('ALTER TABLE a ADD COLUMN y TEXT')

describe('the index file', () => {
  let directory: string
  let remove: () => void
  let file: string
  beforeEach(() => {
    const made = temporaryDirectory()
    directory = made.directory
    remove = made.remove
    file = join(directory, 'index.db')
  })
  afterEach(() => remove())

  test('a new file is created, for its owner only; the next opening finds it', async () => {
    const first = openFor(file)
    assert.equal(first.created, true)
    assert.equal(statSync(file).mode & 0o777, 0o600)
    await first.index.createStream(newStream('a'))
    assert.equal(statSync(`${file}-wal`).mode & 0o777, 0o600)
    assert.equal(existsSync(`${file}-shm`), false)
    await first.close()
    await first.close()
    const second = openFor(file)
    assert.equal(second.created, false)
    assert.equal((await second.index.streamByName('a'))?.name, 'a')
    await second.close()
  })

  test('a file from before recalls is taken over, and damage in its segments stays noticed', async () => {
    const made = (path: string, damage: bigint) => {
      const old = SqliteDatabase.open(path, { migrations: MIGRATIONS.slice(0, 2) })
      const stream = ['a'.repeat(32), 'a', 'ms', 5n, null, null, null, null, 3n, null, null, null, 7n, null]
      const insert = (table: string, columns: readonly string[], values: readonly SqlValue[]) =>
        old
          .prepare(
            `INSERT INTO ${table} (${columns.join(', ')}) VALUES (${columns.map(() => '?').join(', ')})`,
          )
          .run(...values)
      old.write('make a file of version 2', () => {
        insert('streams', [...STREAM_COLUMNS.slice(0, -1), 'checksum', 'id'], [...withChecksum(stream), 1n])
        insert(
          'sums',
          [
            ...['stream', 'newest_segment', 'segments', 'records', 'hot_segments', 'hot_bytes'],
            ...['cold_segments', 'cold_bytes', 'both_bytes', 'checksum'],
          ],
          withChecksum([1n, 1n, 1n, 10n, 1n, 1_000n, 0n, 0n, 0n]),
        )
        const columns = segmentToSql(sealedRow('a'.repeat(32), 1n)).slice(0, -2)
        const checksum = rowChecksum(['a'.repeat(32), ...columns]) + damage
        insert(
          'segments',
          [...SEGMENT_COLUMNS.slice(0, -2), 'checksum', 'stream', 'txid_top', 'sealed_top'],
          [...columns, checksum, 1n, 109n, 1_000n],
        )
      })
      old.close()
    }
    made(file, 0n)
    const opened = openFor(file)
    assert.deepEqual(await opened.index.segment('a'.repeat(32), 1n), sealedRow('a'.repeat(32), 1n))
    await opened.close()
    made(join(directory, 'damaged.db'), 1n)
    assert.throws(
      () => openFor(join(directory, 'damaged.db')),
      (error) => isStratalogError(error, 'corrupt'),
    )
  })

  test('a file of 0.1.0 is taken over: its streams are not finished, and damage in it stays noticed', async () => {
    const [first] = MIGRATIONS
    const old = SqliteDatabase.open(file, { migrations: MIGRATIONS.slice(0, 1) })
    const columns = [
      ...[
        'incarnation',
        'name',
        'txid_mode',
        'created_ms',
        'parent_incarnation',
        'fork_segment',
        'fork_entry',
      ],
      ...['fork_slot', 'epoch', 'trimmed_segment', 'trimmed_entry', 'trimmed_slot', 'version', 'checksum'],
    ]
    const insert = old.prepare(
      `INSERT INTO streams (${columns.join(', ')}) VALUES (${columns.map(() => '?').join(', ')})`,
    )
    const row = (name: string) => [
      name.repeat(32),
      name,
      'ms',
      5n,
      null,
      null,
      null,
      null,
      3n,
      2n,
      1n,
      0n,
      7n,
    ]
    old.write('make a file of 0.1.0', () => {
      insert.run(...withChecksum(row('a')))
      insert.run(...withChecksum(row('b')))
    })
    old.close()
    assert.ok(first)
    const opened = openFor(file)
    const found = await opened.index.streamByName('a')
    assert.equal(found?.finishedMs, null)
    assert.equal(found?.epoch, 3n)
    assert.equal(`${found?.trimmedBelow}`, '2:1:0')
    const finished = await opened.index.updateStream('a'.repeat(32), 7, { finishedMs: 9 })
    assert.deepEqual(await opened.index.streamByName('a'), finished)
    await opened.close()
    const again = openFor(file)
    assert.equal((await again.index.streamByName('a'))?.finishedMs, 9)
    await again.close()

    const damaged = join(directory, 'damaged.db')
    const broken = SqliteDatabase.open(damaged, { migrations: MIGRATIONS.slice(0, 1) })
    broken.write('make a file of 0.1.0', () =>
      broken
        .prepare(`INSERT INTO streams (${columns.join(', ')}) VALUES (${columns.map(() => '?').join(', ')})`)
        .run(...withChecksum(row('a')).slice(0, -1), 12_345n),
    )
    broken.close()
    assert.throws(
      () => openFor(damaged),
      (error) => isStratalogError(error, 'corrupt'),
    )
  })

  test('segments of a file from before gaps had reasons are taken over, and damage in them stays noticed', async () => {
    const made = openFor(file)
    const stream = await writableStream(made.index, 'a')
    await sealedSegments(made.index, stream.incarnation, 3)
    const before = await made.index.listSegments(stream.incarnation, 0n, 10)
    await made.close()
    const asBefore = (damage: boolean) => {
      const old = new Database(file)
      const columns = SEGMENT_COLUMNS.slice(0, -2).map((column) => `segments.${column}`)
      const rows = old.prepare<unknown[], SqlRow>(`SELECT incarnation, ${columns.join(', ')} FROM segments
        JOIN streams ON streams.id = segments.stream ORDER BY segment`)
      const write = old.prepare('UPDATE segments SET checksum = ? WHERE segment = ?')
      for (const row of rows.safeIntegers(true).raw(true).all())
        write.run(damage ? 1n : rowChecksum(row), row[1])
      const known = STREAM_COLUMNS.slice(0, -1).join(', ')
      const streams = old.prepare<unknown[], SqlRow>(`SELECT ${known} FROM streams`)
      for (const row of streams.safeIntegers(true).raw(true).all())
        old.prepare('UPDATE streams SET checksum = ? WHERE incarnation = ?').run(rowChecksum(row), row[0])
      old.exec('ALTER TABLE streams DROP COLUMN parent_shares')
      old.exec(`DROP INDEX segments_owing; ALTER TABLE segments DROP COLUMN gap_reason; ALTER TABLE segments DROP COLUMN recalled_until_ms;
        CREATE INDEX segments_owing ON segments (stream, segment) WHERE state = 'cold'`)
      old.pragma('user_version = 2')
      old.close()
    }
    asBefore(false)
    const opened = openFor(file)
    assert.deepEqual(await opened.index.listSegments(stream.incarnation, 0n, 10), before)
    await opened.close()
    asBefore(true)
    assert.throws(
      () => openFor(file),
      (error) => isStratalogError(error, 'corrupt'),
    )
  })

  test('it is opened durable and checked', () => {
    const database = SqliteDatabase.open(file, { migrations: MIGRATIONS })
    const found = [
      'journal_mode',
      'synchronous',
      'foreign_keys',
      'trusted_schema',
      'user_version',
      'busy_timeout',
    ]
    assert.deepEqual(
      found.map((pragma) => database.pragma(pragma)),
      ['wal', 2, 1, 0, MIGRATIONS.length, 5_000],
    )
    database.close()
  })

  test('an older version is brought up step by step, keeping what is in it', () => {
    SqliteDatabase.open(file, { migrations: [FIRST] }).close()
    const database = SqliteDatabase.open(file, { migrations: [FIRST, SECOND] })
    assert.equal(database.created, false)
    assert.deepEqual(database.prepare('SELECT x, y FROM a').all(), [[1n, null]])
    database.close()
  })

  test('a step that fails leaves the file in the version before', () => {
    SqliteDatabase.open(file, { migrations: [FIRST] }).close()
    const bad: Migration = (raw) => {
      raw.exec('CREATE TABLE half (x)')
      raw.exec('INSERT INTO nowhere VALUES (1)')
    }
    assert.throws(() => SqliteDatabase.open(file, { migrations: [FIRST, bad] }), /nowhere/)
    const database = SqliteDatabase.open(file, { migrations: [FIRST, SECOND] })
    assert.equal(database.pragma('user_version'), 2)
    assert.deepEqual(database.prepare("SELECT name FROM sqlite_schema WHERE name = 'half'").all(), [])
    database.close()
  })

  test('a newer version is refused with both numbers, and left as it was', () => {
    SqliteDatabase.open(file, { migrations: [FIRST, SECOND] }).close()
    const before = readFileSync(file)
    assert.throws(
      () => SqliteDatabase.open(file, { migrations: [FIRST] }),
      (error) =>
        isStratalogError(error, 'version_unsupported') &&
        error.found === 2 &&
        error.expected === 1 &&
        /version 2.*up to 1.*newer stratalog/.test(error.message),
    )
    assert.deepEqual(readFileSync(file), before)
  })

  test("another program's database is refused and left as it was", () => {
    const other = new Database(file)
    other.exec('CREATE TABLE notes (text)')
    other.close()
    const before = readFileSync(file)
    assert.throws(() => openFor(file), code('corrupt'))
    assert.deepEqual(readFileSync(file), before)
  })

  test('tables that are missing are corrupt, not a bug', () => {
    const database = SqliteDatabase.open(file, { migrations: MIGRATIONS })
    database.prepare('DROP TABLE leases').run()
    database.close()
    assert.throws(() => openFor(file), code('corrupt'))
  })

  test('a directory that is not there, or is a file, is file_not_found', () => {
    assert.throws(() => openFor(join(directory, 'nope', 'index.db')), code('file_not_found'))
    writeFileSync(join(directory, 'plain'), '')
    assert.throws(() => openFor(join(directory, 'plain', 'index.db')), code('file_not_found'))
    mkdirSync(file)
    assert.throws(() => openFor(file), code('access_denied'))
  })

  test('a directory without the right to write is access_denied', async (context) => {
    await openFor(file).close()
    chmodSync(file, 0o444)
    chmodSync(directory, 0o555)
    try {
      const result = openAsUser(file)
      if (result === null) return context.skip('no other user to try as')
      assert.equal(result, 'access_denied')
      assert.ok(existsSync(file))
    } finally {
      chmodSync(directory, 0o700)
    }
  })

  test('a full disk is disk_full, loses nothing, and clears itself', () => {
    const database = SqliteDatabase.open(file, { migrations: [FIRST] })
    const insert = database.prepare("INSERT INTO a SELECT value FROM json_each('[' || ? || ']')")
    const many = Array(20_000).fill('12345678').join(',')
    database.pragma(`max_page_count = ${Number(database.pragma('page_count')) + 1}`)
    const write = () => database.write('fill it', () => insert.run(many))
    assert.throws(write, (error) => isStratalogError(error, 'disk_full') && error.retryable)
    assert.deepEqual(database.prepare('SELECT count(*) FROM a').get(), [1n])
    database.pragma('max_page_count = 100000')
    write()
    assert.deepEqual(database.prepare('SELECT count(*) FROM a').get(), [20_001n])
    database.close()
  })

  test('a file that another has open is directory_in_use after the timeout', () => {
    SqliteDatabase.open(file, { migrations: [FIRST] }).close()
    const other = new Database(file)
    other.exec('BEGIN IMMEDIATE')
    const open = () => SqliteDatabase.open(file, { migrations: [FIRST], busyTimeoutMs: 20 })
    assert.throws(open, (error) => isStratalogError(error, 'directory_in_use') && error.retryable)
    other.close()
    const database = open()
    assert.throws(open, code('directory_in_use'))
    database.close()
  })

  test('what throws within a transaction leaves nothing of it', () => {
    const database = SqliteDatabase.open(file, { migrations: [FIRST] })
    const insert = database.prepare('INSERT INTO a VALUES (?)')
    const failing = () =>
      database.write('add', () => {
        insert.run(2n)
        throw new Error('mine')
      })
    assert.throws(failing, /^Error: mine$/)
    assert.deepEqual(database.prepare('SELECT x FROM a').all(), [[1n]])
    // A wrong type is a bug of ours and must not look like a disk.
    assert.throws(
      () => database.write('add', () => insert.run('text')),
      (error) => error instanceof Database.SqliteError,
    )
    database.close()
    assert.throws(() => database.write('add', () => insert.run(3n)), code('closed'))
    assert.throws(() => database.read('look', () => insert.run(3n)), code('closed'))
  })

  test('what is written in one turn is one transaction, and one that refuses takes nobody along', async () => {
    const database = SqliteDatabase.open(file, { migrations: [FIRST] })
    const insert = database.prepare('INSERT INTO a VALUES (?)')
    let transactions = 0
    const write = database.write.bind(database)
    database.write = (doing, body) => {
      transactions += 1
      return write(doing, body)
    }
    const add = (value: bigint, after?: Error) =>
      database.writeSoon('add', () => {
        insert.run(value)
        if (after !== undefined) throw after
        return value
      })
    const rows = () => database.prepare('SELECT x FROM a ORDER BY x').all()
    const all = Promise.allSettled([
      add(2n),
      add(3n, new Error('mine')),
      add(4n).then(() => add(5n)),
      add(6n),
    ])
    assert.deepEqual(rows(), [[1n]])
    const [two, three, five] = await all
    assert.deepEqual(two, { status: 'fulfilled', value: 2n })
    assert.match(String(three.status === 'rejected' && three.reason), /^Error: mine$/)
    assert.deepEqual(five, { status: 'fulfilled', value: 5n })
    assert.deepEqual(rows(), [[1n], [2n], [4n], [5n], [6n]])
    assert.equal(transactions, 2)
    database.close()
  })

  test('a group that does not fit is tried one by one, and who does not fit hears it (invariant 10)', async () => {
    const database = SqliteDatabase.open(file, { migrations: [FIRST] })
    const insert = database.prepare("INSERT INTO a SELECT value FROM json_each('[' || ? || ']')")
    const many = Array(20_000).fill('12345678').join(',')
    database.pragma(`max_page_count = ${Number(database.pragma('page_count')) + 1}`)
    const add = (values: string) => database.writeSoon('fill it', () => insert.run(values))
    const [small, large, last] = await Promise.allSettled([add('2'), add(many), add('3')])
    assert.equal(small.status, 'fulfilled')
    assert.ok(large.status === 'rejected' && isStratalogError(large.reason, 'disk_full'))
    assert.equal(last.status, 'fulfilled')
    assert.deepEqual(database.prepare('SELECT x FROM a').all(), [[1n], [2n], [3n]])
    database.close()
  })

  test('what waits is written before the file is closed; after a failed fsync nobody of a group is', async () => {
    const database = SqliteDatabase.open(file, { migrations: [FIRST] })
    const insert = database.prepare('INSERT INTO a VALUES (?)')
    const added = database.writeSoon('add', () => insert.run(2n))
    database.close()
    await added
    const again = SqliteDatabase.open(file, { migrations: [FIRST] })
    assert.deepEqual(again.prepare('SELECT x FROM a').all(), [[1n], [2n]])
    const other = again.prepare('INSERT INTO a VALUES (?)')
    const failedSync = () => {
      throw new Database.SqliteError('disk I/O error', 'SQLITE_IOERR_FSYNC')
    }
    const group = [again.writeSoon('add', () => other.run(3n)), again.writeSoon('add', failedSync)]
    for (const one of await Promise.allSettled(group)) {
      assert.ok(one.status === 'rejected' && isStratalogError(one.reason, 'io_failed'))
    }
    assert.deepEqual(again.prepare('SELECT x FROM a').all(), [[1n], [2n]])
    again.close()
  })

  test('each code of SQLite becomes ours', () => {
    const expected: readonly (readonly [string, ErrorCode])[] = [
      ['SQLITE_CORRUPT', 'corrupt'],
      ['SQLITE_CORRUPT_INDEX', 'corrupt'],
      ['SQLITE_NOTADB', 'corrupt'],
      ['SQLITE_FULL', 'disk_full'],
      ['SQLITE_BUSY_SNAPSHOT', 'directory_in_use'],
      ['SQLITE_READONLY_DIRECTORY', 'access_denied'],
      ['SQLITE_CANTOPEN', 'access_denied'],
      ['SQLITE_IOERR_FSYNC', 'io_failed'],
      ['SQLITE_IOERR_NOMEM', 'internal'],
    ]
    for (const [sqliteCode, ours] of expected) {
      const cause = new Database.SqliteError('what SQLite said', sqliteCode)
      const mapped = sqliteError(cause, '/d/index.db', 'add a row')
      assert.ok(isStratalogError(mapped, ours), sqliteCode)
      assert.ok(mapped.message.includes('/d/index.db') && mapped.message.includes('add a row'))
      assert.equal(mapped.cause, cause)
    }
    const bug = new Database.SqliteError('UNIQUE', 'SQLITE_CONSTRAINT_UNIQUE')
    assert.equal(sqliteError(bug, 'f', 'x'), bug)
    assert.equal(sqliteError('text', 'f', 'x'), 'text')
  })

  test('after a failed fsync nothing is written any more', () => {
    const database = SqliteDatabase.open(file, { migrations: [FIRST] })
    const failedSync = () => {
      throw new Database.SqliteError('disk I/O error', 'SQLITE_IOERR_FSYNC')
    }
    assert.throws(() => database.write('add', failedSync), code('io_failed'))
    const insert = database.prepare('INSERT INTO a VALUES (2)')
    assert.throws(() => database.write('add', () => insert.run()), code('io_failed'))
    assert.deepEqual(database.prepare('SELECT x FROM a').all(), [[1n]])
    database.close()
  })
})

/** Opens the file as a user without rights and gives the code of the error; null where there is no such user. */
function openAsUser(file: string): string | null {
  const isRoot = process.getuid?.() === 0
  const module = new URL('../../src/metadata/sqlite/database.js', import.meta.url).href
  const script = `
    const { SqliteDatabase } = await import(${JSON.stringify(module)})
    ${isRoot ? 'process.setgid(65534); process.setuid(65534)' : ''}
    try {
      const database = SqliteDatabase.open(${JSON.stringify(file)}, { migrations: [() => undefined] })
      database.write('write', () => database.prepare('CREATE TABLE b (x)').run())
      process.stdout.write('opened')
    } catch (error) {
      process.stdout.write(String(error.code))
    }`
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' })
  return child.status === 0 ? child.stdout : null
}
