import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { directoryArchive } from '../../archive/directory/store.js'
import { listKeys } from '../../archive/listing.js'
import type { ArchiveStore } from '../../src/ports/archive-store.js'
import type { Disk } from '../../src/ports/disk.js'
import { realDisk } from '../../src/system/disk.js'
import { archiveContext, bodyOf } from '../helpers/archive.js'

let root = ''
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-names-'))
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

/** An archive on the real disk, and how often directories were read; its clock is a minute ahead: all is long ago. */
async function open(clockAheadMs = 60_000): Promise<{ store: ArchiveStore; reads: () => number }> {
  let reads = 0
  const real = realDisk()
  const disk: Disk = {
    ...real,
    list: (path) => {
      reads += 1
      return real.list(path)
    },
  }
  const store = await directoryArchive(root).open(archiveContext(disk, Date.now() + clockAheadMs))
  reads = 0
  return { store, reads: () => reads }
}

const name = (i: number) => `a${i.toString().padStart(6, '0')}`

function fill(directory: string, count: number): void {
  mkdirSync(join(root, directory))
  for (let i = 0; i < count; i += 1) writeFileSync(join(root, directory, name(i)), '')
}

async function keys(store: ArchiveStore, prefix: string): Promise<string[]> {
  const found: string[] = []
  for await (const { key } of listKeys(store, prefix, '')) found.push(key)
  return found
}

describe('names of directories in an archive', () => {
  test('a listing of many pages reads a directory once', async () => {
    const { store, reads } = await open()
    fill('dir', 5_500)
    assert.deepEqual(
      await keys(store, 'dir/a'),
      Array.from({ length: 5_500 }, (_, i) => `dir/${name(i)}`),
    )
    assert.equal(reads(), 1)
  })

  test('what another process puts or removes meanwhile shows at once', async () => {
    const mine = await open()
    const others = await open()
    fill('dir', 1_500)
    const [first] = await mine.store.listFrom('dir/', '', 1)
    assert.equal(first?.key, `dir/${name(0)}`)
    await others.store.putIfAbsent('dir/a000001x', bodyOf('x'))
    await others.store.delete(`dir/${name(0)}`)
    // Whatever the clock of the file system can tell apart.
    utimesSync(join(root, 'dir'), new Date(), new Date(Date.now() - 5_000))
    const after = await mine.store.listFrom('dir/', '', 3)
    assert.deepEqual(
      after.map(({ key }) => key),
      [`dir/${name(1)}`, 'dir/a000001x', `dir/${name(2)}`],
    )
  })

  test('a directory that changed a moment ago is read again: its clock may not tell the next change', async () => {
    const { store, reads } = await open(0)
    fill('dir', 10)
    for (let i = 0; i < 3; i += 1) await store.listFrom('dir/', '', 5)
    assert.equal(reads(), 3)
  })

  test('what this process does shows at once, without a clock', async () => {
    const { store } = await open()
    fill('dir', 10)
    for (let i = 0; i < 50; i += 1) {
      await store.listFrom('dir/', '', 1)
      await store.putIfAbsent(`dir/b${i}`, bodyOf('x'))
      assert.ok((await keys(store, 'dir/b')).includes(`dir/b${i}`))
      await store.delete(`dir/b${i}`)
      assert.deepEqual(await keys(store, 'dir/b'), [])
    }
  })

  test('a prefix that names a file, or nothing, has no keys', async () => {
    const { store } = await open()
    await store.putIfAbsent('dir/file', bodyOf('x'))
    for (const prefix of ['dir/file/', 'dir/file/x/', 'none/', 'dir/none/x'])
      assert.deepEqual(await keys(store, prefix), [], prefix)
  })
})
