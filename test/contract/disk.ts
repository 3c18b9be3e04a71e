import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { present } from '../../src/model/assert.js'
import type { Disk } from '../../src/ports/disk.js'

/** A disk with an empty directory of its own to work in. */
export interface DiskSubject {
  readonly disk: Disk
  readonly directory: string
  cleanup(): Promise<void>
}

/** Every promise of src/ports/disk.ts that can be seen without cutting the power. */
export function diskContract(name: string, open: () => Promise<DiskSubject>): void {
  const withDisk = (title: string, body: (disk: Disk, path: (name: string) => string) => Promise<void>) =>
    test(title, async () => {
      const { disk, directory, cleanup } = await open()
      try {
        await body(disk, (file) => `${directory}/${file}`)
      } finally {
        await cleanup()
      }
    })

  describe(`Disk contract: ${name}`, () => {
    withDisk(
      'writes chunks one after another and reads them back, as far as the file goes',
      async (disk, path) => {
        const file = await disk.open(path('a'), 'create')
        await file.write([Buffer.from('one '), Buffer.alloc(0), Buffer.from('two')], 0)
        await file.write([Buffer.from('TWO')], 4)
        await file.dataSync()
        assert.equal(await file.sizeBytes(), 7)
        const target = new Uint8Array(10)
        assert.equal(await file.read(target, 0), 7)
        assert.equal(Buffer.from(target.subarray(0, 7)).toString(), 'one TWO')
        assert.equal(await file.read(target, 100), 0)
        await file.close()
      },
    )

    withDisk('more chunks than one system call takes', async (disk, path) => {
      const file = await disk.open(path('many'), 'create')
      const chunks = Array.from({ length: 3_000 }, (_, i) => Buffer.from([i % 251]))
      await file.write(chunks, 5)
      const target = new Uint8Array(3_000)
      assert.equal(await file.read(target, 5), 3_000)
      assert.deepEqual(Buffer.from(target), Buffer.concat(chunks))
      await file.close()
    })

    withDisk('modes: create refuses what is there, write and read what is not', async (disk, path) => {
      await assert.rejects(disk.open(path('a'), 'read'), { code: 'file_not_found' })
      await assert.rejects(disk.open(path('a'), 'write'), { code: 'file_not_found' })
      await (await disk.open(path('a'), 'create')).close()
      await assert.rejects(disk.open(path('a'), 'create'), { code: 'file_exists' })
      await (await disk.open(path('a'), 'write')).close()
    })

    withDisk('preallocates zeros, keeps what is there, truncates', async (disk, path) => {
      const file = await disk.open(path('a'), 'create')
      await file.write([Buffer.from('x')], 0)
      await file.preallocate(100_000)
      assert.equal(await file.sizeBytes(), 100_000)
      const target = new Uint8Array(2)
      await file.read(target, 0)
      assert.deepEqual([...target], [120, 0])
      await file.truncate(1)
      assert.equal(await file.sizeBytes(), 1)
      await file.close()
    })

    withDisk('renames over, links only to a free name, removes, lists', async (disk, path) => {
      for (const name of ['a', 'b']) {
        const file = await disk.open(path(name), 'create')
        await file.write([Buffer.from(name)], 0)
        await file.close()
      }
      await assert.rejects(disk.link(path('a'), path('b')), { code: 'file_exists' })
      await disk.link(path('a'), path('c'))
      await disk.rename(path('a'), path('b'))
      await disk.syncDirectory(path('.').slice(0, -2))
      assert.deepEqual((await disk.list(path('.').slice(0, -2))).sort(), ['b', 'c'])
      await disk.remove(path('c'))
      await assert.rejects(disk.remove(path('c')), { code: 'file_not_found' })
      assert.equal(await disk.stat(path('c')), null)
      const { modifiedMs = 0, ...about } = present(await disk.stat(path('b')), 'a file')
      assert.deepEqual(about, { sizeBytes: 1, directory: false })
      assert.ok(modifiedMs >= 0)
    })

    withDisk('directories with their parents; absent ones are named', async (disk, path) => {
      await disk.makeDirectory(path('x/y/z'))
      await disk.makeDirectory(path('x/y/z'))
      assert.equal((await disk.stat(path('x/y')))?.directory, true)
      await assert.rejects(disk.list(path('none')), { code: 'file_not_found' })
    })

    withDisk('says how much space there is, and on which device', async (disk, path) => {
      const space = await disk.space(path('.').slice(0, -2))
      assert.ok(space.freeBytes >= 0 && space.totalBytes >= space.freeBytes && space.device.length > 0)
    })
  })
}
