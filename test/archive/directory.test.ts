import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { directoryArchive } from '../../archive/directory/store.js'
import { encodeBase32 } from '../../src/format/base32.js'
import { isStratalogError } from '../../src/model/errors.js'
import { realDisk } from '../../src/system/disk.js'
import { archiveContext, bodyOf, memoryLogger } from '../helpers/archive.js'
import { type DiskCall, MemoryDisk } from '../helpers/memory-disk.js'

const NOW = 1_700_000_000_000
const ROOT = '/disk/archive'
const code = (expected: string) => (error: unknown) => {
  assert.ok(isStratalogError(error), `a StratalogError, not ${error}`)
  assert.equal(error.code, expected, error.message)
  return true
}

async function temporaryDirectory(): Promise<{ path: string; remove(): Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), 'stratalog-archive-'))
  return { path, remove: () => rm(path, { recursive: true, force: true }) }
}

async function memoryArchive(): Promise<{ disk: MemoryDisk }> {
  const disk = new MemoryDisk()
  await disk.makeDirectory('/disk')
  return { disk }
}

describe('opening a directory', () => {
  test('makes it with its marker, and opens it again', async () => {
    const { path, remove } = await temporaryDirectory()
    const root = join(path, 'archive')
    const store = await directoryArchive(root).open(archiveContext(realDisk()))
    await store.putIfAbsent('a/b', bodyOf('x'))
    assert.deepEqual((await readdir(root)).sort(), ['.tmp', 'a', 'stratalog-archive.json'])
    assert.deepEqual(JSON.parse(await readFile(join(root, 'stratalog-archive.json'), 'utf8')), { format: 1 })
    assert.deepEqual(await readdir(join(root, '.tmp')), [])
    const again = await directoryArchive(root).open(archiveContext(realDisk()))
    assert.deepEqual(await again.listFrom('', '', 10), [{ key: 'a/b', sizeBytes: 1 }])
    await remove()
  })

  test('does not make parents, and says what to do', async () => {
    const { path, remove } = await temporaryDirectory()
    const missing = directoryArchive(join(path, 'not', 'mounted')).open(archiveContext(realDisk()))
    await assert.rejects(
      missing,
      (error: Error) => code('archive_missing')(error) && /mount/.test(error.message),
    )
    assert.deepEqual(await readdir(path), [])
    await writeFile(join(path, 'file'), '')
    await assert.rejects(
      directoryArchive(join(path, 'file')).open(archiveContext(realDisk())),
      code('archive_missing'),
    )
    await remove()
  })

  test('one that must exist is never made: nothing is written where it is not', async () => {
    const { path, remove } = await temporaryDirectory()
    const existing = archiveContext(realDisk(), undefined, undefined, true)
    const missing = (error: Error) => code('archive_missing')(error) && /mounted/.test(error.message)
    await assert.rejects(directoryArchive(join(path, 'archive')).open(existing), missing)
    await assert.rejects(directoryArchive(path).open(existing), missing)
    assert.deepEqual(await readdir(path), [])
    const store = await directoryArchive(path).open(archiveContext(realDisk()))
    await store.putIfAbsent('a/b', bodyOf('x'))
    await store.close()
    const again = await directoryArchive(path).open(existing)
    assert.deepEqual(await again.listFrom('', '', 10), [{ key: 'a/b', sizeBytes: 1 }])
    await remove()
  })

  test("refuses someone else's files and leaves them alone", async () => {
    const { path, remove } = await temporaryDirectory()
    await writeFile(join(path, 'thesis.txt'), 'mine')
    await assert.rejects(directoryArchive(path).open(archiveContext(realDisk())), code('refused'))
    assert.deepEqual(await readdir(path), ['thesis.txt'])
    await remove()
  })

  test('takes the root of a fresh file system and what a crash in a first start left', async () => {
    const { path, remove } = await temporaryDirectory()
    await mkdir(join(path, 'lost+found'))
    await mkdir(join(path, '.tmp'))
    const store = await directoryArchive(path).open(archiveContext(realDisk()))
    assert.deepEqual(await store.listFrom('', '', 10), [])
    await remove()
  })

  test('notices a newer format and a damaged marker', async () => {
    const { path, remove } = await temporaryDirectory()
    const open = () => directoryArchive(path).open(archiveContext(realDisk()))
    const markers = [
      ['{"format":2}', 'version_unsupported'],
      ['{"format":"1"}', 'corrupt'],
      ['{}', 'corrupt'],
      ['null', 'corrupt'],
      ['{"form', 'corrupt'],
      ['', 'corrupt'],
    ] as const
    for (const [text, expected] of markers) {
      await writeFile(join(path, 'stratalog-archive.json'), text)
      await assert.rejects(open(), code(expected), text)
      assert.equal(await readFile(join(path, 'stratalog-archive.json'), 'utf8'), text)
    }
    await remove()
  })

  test('refuses a directory in which nothing can be written', async () => {
    for (const calls of [['open'], ['write'], ['makeDirectory']] as DiskCall[][]) {
      const { disk } = await memoryArchive()
      disk.fail = (call) => (calls.includes(call) ? 'access_denied' : null)
      await assert.rejects(directoryArchive(ROOT).open(archiveContext(disk)), code('access_denied'))
    }
  })

  test('removes leftovers older than a day, and only those', async () => {
    const { disk } = await memoryArchive()
    await directoryArchive(ROOT).open(archiveContext(disk))
    const made = (ageMs: number): string => `${encodeBase32(BigInt(NOW - ageMs), 10)}-${'0'.repeat(26)}`
    const hour = 3_600_000
    const keep = [made(23 * hour), made(-hour), 'notes.txt', `${made(48 * hour)}.txt`]
    for (const name of [...keep, made(25 * hour), made(400 * 24 * hour)]) {
      await (await disk.open(`${ROOT}/.tmp/${name}`, 'create')).close()
    }
    const store = await directoryArchive(ROOT).open(archiveContext(disk, NOW))
    assert.deepEqual((await disk.list(`${ROOT}/.tmp`)).sort(), [...keep].sort())
    assert.deepEqual(await store.listFrom('', '', 10), [])
  })

  test('a crash at any call of a first start is survived by the next', async () => {
    for (let at = 0; ; at++) {
      const { disk } = await memoryArchive()
      let calls = 0
      let failed = false
      disk.fail = () => {
        failed ||= calls++ === at
        return failed ? 'io_failed' : null
      }
      const opened = await directoryArchive(ROOT)
        .open(archiveContext(disk))
        .then(
          () => true,
          () => false,
        )
      disk.crash()
      const store = await directoryArchive(ROOT).open(archiveContext(disk, NOW + 1))
      await store.putIfAbsent('a', bodyOf('x'))
      assert.ok(at < 200)
      if (opened) return assert.ok(at > 10, `${at} calls`)
    }
  })
})

describe('failing', () => {
  const opened = async (): Promise<{
    disk: MemoryDisk
    store: Awaited<ReturnType<ReturnType<typeof directoryArchive>['open']>>
  }> => {
    const { disk } = await memoryArchive()
    return { disk, store: await directoryArchive(ROOT).open(archiveContext(disk)) }
  }

  test('each failure of the disk has its name, and the next try succeeds', async () => {
    const { disk, store } = await opened()
    const codes = [
      ['disk_full', 'archive_full'],
      ['access_denied', 'access_denied'],
      ['io_failed', 'archive_unavailable'],
    ] as const
    const calls: DiskCall[] = ['stat', 'open', 'write', 'dataSync', 'makeDirectory', 'link', 'syncDirectory']
    let tries = 0
    for (const [cause, expected] of codes) {
      for (const failing of calls) {
        const key = `try${tries++}/a`
        disk.fail = (call) => (call === failing ? cause : null)
        await assert.rejects(store.putIfAbsent(key, bodyOf('x')), code(expected), `${failing} ${cause}`)
        disk.fail = () => null
        assert.equal(await store.head(key), null, `${failing} leaves nothing`)
        assert.deepEqual(await disk.list(`${ROOT}/.tmp`), [])
        await store.putIfAbsent(key, bodyOf('x'))
      }
    }
    for (const failing of ['stat', 'open', 'read'] as const) {
      disk.fail = (call) => (call === failing ? 'io_failed' : null)
      await assert.rejects(store.readRange('try0/a', 0, 1), code('archive_unavailable'), failing)
    }
    disk.fail = (call) => (call === 'list' ? 'io_failed' : null)
    await assert.rejects(store.listFrom('', '', 1), code('archive_unavailable'))
    disk.fail = (call) => (call === 'remove' ? 'access_denied' : null)
    await assert.rejects(store.delete('try0/a'), code('access_denied'))
  })

  test('the names of all directories above an object are made durable, also of one that is there already', async () => {
    const { disk, store } = await opened()
    await disk.makeDirectory(`${ROOT}/a/b`)
    const synced: string[] = []
    disk.fail = (call, path) => {
      if (call === 'syncDirectory') synced.push(path)
      return null
    }
    await store.putIfAbsent('a/b/one', bodyOf('x'))
    assert.deepEqual(synced, [ROOT, `${ROOT}/a`, `${ROOT}/a/b`])
    await store.putIfAbsent('a/b/two', bodyOf('x'))
    assert.deepEqual(synced.slice(3), [`${ROOT}/a/b`])
    disk.files.clear()
    disk.directories.delete(`${ROOT}/a/b`)
    await assert.rejects(store.putIfAbsent('a/b/three', bodyOf('x')), code('archive_unavailable'))
    await store.putIfAbsent('a/b/three', bodyOf('x'))
  })

  test('a temporary file that stays is told, and the object is there', async () => {
    const { disk } = await memoryArchive()
    const lines: string[] = []
    const store = await directoryArchive(ROOT).open(archiveContext(disk, NOW, memoryLogger(lines)))
    disk.fail = (call, path) => (call === 'remove' && path.includes('.tmp') ? 'io_failed' : null)
    await store.putIfAbsent('a', bodyOf('x'))
    assert.equal((await store.head('a'))?.sizeBytes, 1)
    assert.equal(lines.length, 1)
  })

  test('what was stored survives a power cut; what was not leaves nothing (invariant 6)', async () => {
    for (let at = 0; ; at++) {
      const { disk, store } = await opened()
      let calls = 0
      let failed = false
      disk.fail = () => {
        failed ||= calls++ === at
        return failed ? 'io_failed' : null
      }
      const done = await store.putIfAbsent('a/b/c', bodyOf('whole')).then(
        () => true,
        () => false,
      )
      disk.crash()
      const after = await directoryArchive(ROOT).open(archiveContext(disk, NOW + 1))
      const found = await after.head('a/b/c')
      if (done) assert.equal(found?.sizeBytes, 5)
      if (found !== null) assert.equal(Buffer.from(await after.readRange('a/b/c', 0, 9)).toString(), 'whole')
      assert.ok(at < 200)
      if (done && !failed) return assert.ok(at > 8, `${at} calls`)
    }
  })

  test('an object of a process that died before its name was durable is made so for whoever is told of it (invariant 4)', async () => {
    const { disk, store } = await opened()
    let named = false
    disk.fail = (call) => {
      const dead = named
      named ||= call === 'link'
      return dead ? 'io_failed' : null
    }
    await assert.rejects(store.putIfAbsent('a/b/c', bodyOf('whole')))
    disk.fail = () => null
    const next = await directoryArchive(ROOT).open(archiveContext(disk, NOW + 1))
    assert.deepEqual(await next.head('a/b/c'), { key: 'a/b/c', sizeBytes: 5 })
    disk.crash()
    const last = await directoryArchive(ROOT).open(archiveContext(disk, NOW + 2))
    assert.equal(Buffer.from(await last.readRange('a/b/c', 0, 9)).toString(), 'whole')
  })

  test('a disk that is no longer mounted is missing, not empty (invariant 8)', async () => {
    const { path, remove } = await temporaryDirectory()
    const root = join(path, 'archive')
    const store = await directoryArchive(root).open(archiveContext(realDisk()))
    await store.putIfAbsent('a/b', bodyOf('x'))
    await rm(root, { recursive: true })
    for (const again of [false, true]) {
      if (again) await mkdir(root)
      await assert.rejects(store.head('a/b'), code('archive_missing'))
      await assert.rejects(store.readRange('a/b', 0, 1), code('archive_missing'))
      await assert.rejects(store.listFrom('', '', 1), code('archive_missing'))
      await assert.rejects(store.delete('a/b'), code('archive_missing'))
      await assert.rejects(store.putIfAbsent('a/c', bodyOf('x')), code('archive_missing'))
    }
    assert.deepEqual(await readdir(root), [])
    await remove()
  })

  test('a closed archive answers nothing, and its marker is no object', async () => {
    const { store } = await opened()
    await assert.rejects(store.delete('stratalog-archive.json'), code('invalid_argument'))
    await store.close()
    await assert.rejects(store.head('a'), code('closed'))
    await assert.rejects(store.listFrom('', '', 1), code('closed'))
  })
})

test('listings agree with a sorted list of keys, whatever they are', async () => {
  const part = fc.string({
    unit: fc.constantFrom('a', 'b', '0', '-', '~', '_', '.'),
    minLength: 1,
    maxLength: 3,
  })
  const key = fc
    .array(
      part.filter((text) => !text.startsWith('.')),
      { minLength: 1, maxLength: 3 },
    )
    .map((parts) => parts.join('/'))
  const keys = fc.uniqueArray(key, { maxLength: 25 })
  const query = fc.record({
    after: fc.oneof(key, fc.constant('')),
    prefix: fc.oneof(key, fc.constant(''), part),
    limit: fc.integer({ min: 1, max: 6 }),
  })
  await fc.assert(
    fc.asyncProperty(keys, fc.array(query, { minLength: 1, maxLength: 10 }), async (all, queries) => {
      // A directory can't hold an object and objects below it.
      const stored = all.filter((one) => !all.some((other) => other.startsWith(`${one}/`))).sort()
      const disk = new MemoryDisk()
      await disk.makeDirectory('/disk')
      const store = await directoryArchive(ROOT).open(archiveContext(disk))
      for (const one of stored) await store.putIfAbsent(one, bodyOf('x'))
      for (const { after, prefix, limit } of queries) {
        const wanted = stored.filter((one) => one > after && one.startsWith(prefix)).slice(0, limit)
        assert.deepEqual(
          (await store.listFrom(prefix, after, limit)).map((found) => found.key),
          wanted,
        )
      }
    }),
    { numRuns: 200 },
  )
})
