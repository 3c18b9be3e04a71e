import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isStratalogError } from '../../src/model/errors.js'
import { MemoryDisk } from '../helpers/memory-disk.js'
import { openStore } from '../helpers/store.js'

const FILE_BYTES = 64 << 10

test('a decision that fits a file but not with its place in the index is refused, and holds up nothing', async () => {
  const disk = new MemoryDisk()
  const store = await openStore('/store', { disk, fileBytes: FILE_BYTES })
  let accepted = 0
  for (let bytes = 1_000; bytes < FILE_BYTES; bytes += 1_000) {
    const id = `c${bytes}`
    try {
      await store.putControl({ id, kind: 'k', body: 'x'.repeat(bytes) })
      accepted = bytes
    } catch (error) {
      assert.ok(isStratalogError(error, 'invalid_argument'), String(error))
    }
  }
  assert.ok(accepted > 16_000, `the largest that was taken has ${accepted} bytes`)
  const expected = await store.listControls()
  await store.close()
  const again = await openStore('/store', { disk, fileBytes: FILE_BYTES })
  assert.equal((await again.listControls()).length, expected.length)
  await again.close()
})
