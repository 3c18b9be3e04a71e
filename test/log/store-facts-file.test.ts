import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { test } from 'node:test'
import { isStratalogError } from '../../src/model/errors.js'
import { storeFactsFile } from '../../src/open/store-facts-file.js'
import { changeStoreFacts, readStoreFacts } from '../../tiering/store-facts.js'
import { MemoryDisk } from '../helpers/memory-disk.js'

const ROOT = '/log'

async function made(): Promise<MemoryDisk> {
  const disk = new MemoryDisk()
  await disk.makeDirectory(ROOT)
  return disk
}

const retire = (id: string) => (facts: Awaited<ReturnType<typeof readStoreFacts>>) => ({
  ...facts,
  retired: [...facts.retired, id],
})

test('a power cut at any step of a change leaves what was there or the change, whole', async () => {
  for (const call of ['remove', 'open', 'write', 'dataSync', 'rename', 'syncDirectory'] as const) {
    const disk = await made()
    const keeper = storeFactsFile(ROOT, disk)
    await changeStoreFacts(keeper, retire('one'))
    disk.fail = (failing) => (failing === call ? 'io_failed' : null)
    await assert.rejects(changeStoreFacts(keeper, retire('two')), call)
    disk.crash()
    const after = storeFactsFile(ROOT, disk)
    assert.deepEqual((await readStoreFacts(after)).retired, ['one'], call)
    await changeStoreFacts(after, retire('three'))
    disk.crash()
    assert.deepEqual((await readStoreFacts(after)).retired, ['one', 'three'], call)
  }
})

test('a log that has none remembers nothing; damage is named and never taken for nothing (invariant 8)', async () => {
  const disk = await made()
  const keeper = storeFactsFile(ROOT, disk)
  assert.deepEqual((await readStoreFacts(keeper)).places, [])
  for (const text of ['', '{', 'null', '{"places":[]}', '[1]']) {
    const bytes = Buffer.from(text)
    disk.files.set(`${ROOT}/stores.json`, { bytes, durable: bytes })
    await assert.rejects(readStoreFacts(keeper), (error) => isStratalogError(error, 'corrupt'))
  }
})
