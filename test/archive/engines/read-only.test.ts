import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { directoryArchive } from '../../../archive/directory/store.js'
import { hdfsArchive } from '../../../archive/hdfs/engine.js'
import { type ErrorCode, isStratalogError } from '../../../src/model/errors.js'
import { openLog } from '../../../src/open.js'
import type { ArchiveContext, ArchiveStore } from '../../../src/ports/archive-store.js'
import { silentLogger } from '../../../src/system/logger.js'
import { archiveContext, bodyOf, memoryLogger } from '../../helpers/archive.js'
import { MemoryDisk } from '../../helpers/memory-disk.js'
import { fillSegments, readAll, rowsOf } from '../../helpers/tiered-log.js'
import { FakeHdfs, fail } from '../hdfs/fake-hdfs.js'
import { FakeS3, refuse } from '../s3/fake-s3.js'
import { networkContext } from './network-context.js'

/** A place that takes writes or not, as is wanted. */
interface Place {
  open(more: Partial<ArchiveContext>): Promise<ArchiveStore>
  /** Nothing can be written there; true: it can again. */
  setWritable(writable: boolean): void
  close(): Promise<void>
}

interface Case {
  readonly name: string
  readonly code: ErrorCode
  start(): Promise<Place>
}

function directory(code: 'access_denied' | 'disk_full'): () => Promise<Place> {
  return async () => {
    const disk = new MemoryDisk()
    await disk.makeDirectory('/disk')
    const refused = ['write', 'link', ...(code === 'disk_full' ? [] : ['makeDirectory'])]
    return {
      open: (more) => directoryArchive('/disk/archive').open({ ...archiveContext(disk), ...more }),
      setWritable: (writable) => {
        disk.fail = (call) => (!writable && refused.includes(call) ? code : null)
      },
      close: async () => undefined,
    }
  }
}

function s3(status: number, name: string, noted: boolean): () => Promise<Place> {
  return async () => {
    const fake = await new FakeS3().start()
    const context = networkContext()
    // What this process found out a week ago it believes no more.
    let laterMs = 0
    const clock = { ...context.clock, nowMs: () => Date.now() + laterMs }
    return {
      open: (more) => fake.open({}, { ...context, clock, ...more }),
      setWritable: (writable) => {
        if (!noted) fake.objects.delete('p/.stratalog-archive')
        if (!noted) laterMs = 8 * 86_400_000
        fake.intercept = ({ method }, response) => {
          if (writable || method === 'GET' || method === 'HEAD') return undefined
          refuse(response, status, name)
          return 'done'
        }
      },
      close: () => fake.stop(),
    }
  }
}

function hdfs(exception: string, message: string): () => Promise<Place> {
  return async () => {
    const fake = await FakeHdfs.start()
    const engine = hdfsArchive(`hdfs://${fake.host}/archive`, { user: 'tester' })
    return {
      open: (more) => engine.open({ ...networkContext(), ...more }),
      setWritable: (writable) => {
        fake.twist = ({ method }, response) => {
          if (writable || method === 'GET') return false
          fail(response, 403, exception, message)
          return true
        }
      },
      close: () => fake.close(),
    }
  }
}

const CASES: readonly Case[] = [
  { name: 'a directory that is read-only', code: 'access_denied', start: directory('access_denied') },
  { name: 'a directory on a full disk', code: 'archive_full', start: directory('disk_full') },
  { name: 'S3 without the right to write', code: 'access_denied', start: s3(403, 'AccessDenied', true) },
  { name: 'S3 that is full', code: 'archive_full', start: s3(507, 'XMinioStorageFull', true) },
  { name: 'S3 of which nothing is noted', code: 'access_denied', start: s3(403, 'AccessDenied', false) },
  {
    name: 'HDFS in safe mode',
    code: 'archive_unavailable',
    start: hdfs('SafeModeException', 'Cannot create file. Name node is in safe mode.'),
  },
  {
    name: 'HDFS whose quota is used up',
    code: 'archive_full',
    start: hdfs('DSQuotaExceededException', 'The DiskSpace quota of /archive is exceeded'),
  },
  {
    name: 'HDFS without the right to write',
    code: 'access_denied',
    start: hdfs('AccessControlException', 'Permission denied: user=tester, access=WRITE'),
  },
]

describe('an archive that can be read and not written', () => {
  for (const { name, code, start } of CASES) {
    const refused = (error: unknown) => isStratalogError(error, code)

    test(`${name}: a new one is refused at once`, async () => {
      const place = await start()
      try {
        place.setWritable(false)
        await assert.rejects(place.open({}), refused)
      } finally {
        await place.close()
      }
    })

    test(`${name}: one that was used is read, refuses writes by name, and takes them when it can`, async () => {
      const place = await start()
      try {
        const first = await place.open({})
        await first.putIfAbsent('a/one', bodyOf('one'))
        const { capabilities } = first
        await first.close()
        place.setWritable(false)
        const lines: string[] = []
        const store = await place.open({ existing: true, logger: memoryLogger(lines) })
        assert.deepEqual(
          lines.filter((line) => /not written/.test(line)),
          ['the archive can be read and not written now'],
        )
        assert.deepEqual(await store.listFrom('', '', 10), [{ key: 'a/one', sizeBytes: 3 }])
        assert.equal(Buffer.from(await store.readRange('a/one', 0, 3)).toString(), 'one')
        await assert.rejects(store.putIfAbsent('a/two', bodyOf('two')), refused)
        assert.equal(await store.head('a/two'), null)
        place.setWritable(true)
        // Several at once: what it can do is found out once for all of them.
        await Promise.all([2, 3, 4].map((i) => store.putIfAbsent(`a/${i}`, bodyOf(`${i}`))))
        assert.equal((await store.listFrom('', '', 10)).length, 4)
        assert.deepEqual(store.capabilities, capabilities, 'what it can do is known now')
        await store.close()
      } finally {
        await place.close()
      }
    })
  }

  test('its directory for temporary files may have gone: the next write but one makes it again', async () => {
    const disk = new MemoryDisk()
    await disk.makeDirectory('/disk')
    const store = await directoryArchive('/disk/archive').open(archiveContext(disk))
    disk.directories.delete('/disk/archive/.tmp')
    await assert.rejects(store.putIfAbsent('a/one', bodyOf('one')), (error) =>
      isStratalogError(error, 'archive_unavailable'),
    )
    await store.putIfAbsent('a/one', bodyOf('one'))
  })

  test('a log that is opened on one reads its history, says DOWN, loses nothing and goes on by itself', async () => {
    const root = join(tmpdir(), `stratalog-read-only-${process.pid}`)
    const fake = await FakeHdfs.start()
    const open = () =>
      openLog(root, {
        archive: `hdfs://${fake.host}/archive`,
        hdfs: { user: 'tester' },
        tiering: 'off',
        control: 'off',
        config: 'none',
        storeFileBytes: 4 * 2 ** 20,
        defaults: { hot: { for: 0 }, evict: { lag: 0 } },
        system: { logger: silentLogger() },
      })
    try {
      {
        await using log = await open()
        await fillSegments(log, 'a', 1)
        await log.tier.run()
        assert.equal((await rowsOf(log, 'a'))[0]?.state, 'cold')
        // Copied before and hot no more; this one waits on the stores.
        await fillSegments(log, 'b', 1)
      }
      fake.twist = ({ method }, response) => {
        if (method === 'GET') return false
        fail(response, 403, 'DSQuotaExceededException', 'The DiskSpace quota of /archive is exceeded')
        return true
      }
      await using log = await open()
      const { cold } = await readAll(log, 'a')
      assert.equal(cold, 10)
      for (let pass = 0; pass < 3; pass += 1) await log.tier.run({ until: 'once' })
      const { archive } = await log.tier.status()
      assert.equal(archive.archive, 'down')
      assert.match(archive.lastError ?? '', /setSpaceQuota/)
      assert.ok(archive.errors.some(({ code }) => code === 'archive_full'))
      // Invariant 4: what was not verified there stays where it is; and cold history is read all the while.
      assert.equal((await rowsOf(log, 'b'))[0]?.state, 'sealed')
      assert.equal((await readAll(log, 'b')).texts.length, 10)
      assert.equal((await readAll(log, 'a')).texts.length, 10)
      fake.twist = () => false
      for (let pass = 0; pass < 3; pass += 1) await log.tier.run()
      assert.equal((await log.tier.status()).archive.archive, 'ok')
      assert.equal((await rowsOf(log, 'b'))[0]?.state, 'cold')
      assert.equal((await readAll(log, 'b')).texts.length, 10)
    } finally {
      await fake.close()
      rmSync(root, { recursive: true, force: true })
    }
  })
})
