import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { before, describe, test } from 'node:test'
import { isStratalogError } from '../../src/model/errors.js'
import type { SegmentStore } from '../../src/ports/segment-store.js'
import { logName } from '../../src/store/local/names.js'
import { readSuperblock } from '../../src/store/local/superblock.js'
import { MemoryDisk } from '../helpers/memory-disk.js'
import { afterPowerCut, cloneOf, entryOf, header, openStore } from '../helpers/store.js'

const DIRECTORY = '/store'
const FILE_BYTES = 64 << 10
const LEDGERS = [1n, 2n, 3n]
const FENCED = 9n

interface Acknowledged {
  readonly ledgerId: bigint
  readonly entryId: bigint
  readonly bytes: Buffer
}

const open = (disk: MemoryDisk): Promise<SegmentStore> =>
  openStore(DIRECTORY, { disk, fileBytes: FILE_BYTES })

/** Several files of entries, all of them acknowledged, with a fence, a delete and a seal among them. */
async function fill(store: SegmentStore): Promise<Acknowledged[]> {
  const acknowledged: Acknowledged[] = []
  for (const ledgerId of [...LEDGERS, 4n, FENCED]) await store.openLedger(header(ledgerId))
  await store.fence(FENCED)
  const add = async (ledgerId: bigint, entryId: bigint): Promise<void> => {
    const entry = entryOf(ledgerId, entryId, Number((entryId * 397n) % 3_000n))
    await store.addEntry(ledgerId, entryId, entry)
    if (ledgerId !== 4n) acknowledged.push({ ledgerId, entryId, bytes: Buffer.from(entry.bytes) })
  }
  for (let round = 0n; round < 20n; round += 1n)
    await Promise.all([...LEDGERS, 4n].map((id) => add(id, round)))
  await store.deleteLedger(4n)
  await store.sealLedger(3n, { lastEntryId: 19n, lengthBytes: 1 })
  await Promise.all([1n, 2n].map((id) => add(id, 20n)))
  await store.openLedger(header(5n))
  await add(5n, 0n)
  return acknowledged
}

/**
 * Each acknowledged entry reads as it was, or is refused aloud; `suspects` counts what may have been a torn
 * end.
 */
async function check(
  store: SegmentStore,
  acknowledged: readonly Acknowledged[],
  where: string,
): Promise<number> {
  let suspects = 0
  for (const { ledgerId, entryId, bytes } of acknowledged) {
    try {
      const answer = await store.readEntry(ledgerId, entryId)
      assert.notEqual(
        answer.kind,
        'missing',
        `${where}: entry ${entryId} of ledger ${ledgerId} is said to be missing`,
      )
      if (answer.kind === 'entry') assert.ok(bytes.equals(answer.bytes), `${where}: other bytes`)
      else suspects += 1
    } catch (error) {
      assert.ok(isStratalogError(error, 'corrupt'), `${where}: ${String(error)}`)
    }
  }
  for (const ledgerId of LEDGERS) {
    for (const bytes of await runOf(store, ledgerId)) {
      const entryId = Buffer.from(bytes).readBigInt64BE(8)
      const expected = acknowledged.find((one) => one.ledgerId === ledgerId && one.entryId === entryId)
      assert.ok(expected?.bytes.equals(bytes), `${where}: a run of ledger ${ledgerId} has other bytes`)
    }
  }
  await assert.rejects(
    store.addEntry(FENCED, 0n, entryOf(FENCED, 0n, 1)),
    (error) => isStratalogError(error) && ['fenced', 'corrupt', 'ledger_not_found'].includes(error.code),
    `${where}: the fence is gone`,
  )
  return suspects
}

async function runOf(store: SegmentStore, ledgerId: bigint): Promise<Uint8Array[]> {
  try {
    return await store.readEntries(ledgerId, 0n, 100n, 1 << 20)
  } catch (error) {
    assert.ok(isStratalogError(error, 'corrupt'))
    return []
  }
}

function logFiles(disk: MemoryDisk): string[] {
  return [...disk.files.keys()].filter((path) => path.includes('/log-')).sort()
}

for (const ending of ['clean', 'cut off'] as const) {
  describe(`damage to a store whose end was ${ending}`, () => {
    let base: MemoryDisk
    let acknowledged: Acknowledged[]
    let checks = 0
    before(async () => {
      const disk = new MemoryDisk()
      const store = await open(disk)
      acknowledged = await fill(store)
      if (ending === 'clean') await store.close()
      base = ending === 'clean' ? disk : await afterPowerCut(disk, () => false)
    })

    async function damaged(
      damage: (disk: MemoryDisk) => void,
      where: string,
    ): Promise<{ suspects: number; corrupt: number }> {
      const disk = await cloneOf(base)
      damage(disk)
      const store = await open(disk)
      const suspects = await check(store, acknowledged, where)
      const { corruptBytes } = await store.status()
      await store.close()
      // What was found out outlives the next clean run. Every time would take long.
      checks += 1
      if (checks % 3 !== 0) return { suspects, corrupt: corruptBytes }
      const again = await open(disk)
      const suspectsAgain = await check(again, acknowledged, `${where}, opened again`)
      assert.equal(suspectsAgain, suspects, `${where}: suspects changed`)
      await again.close()
      return { suspects, corrupt: corruptBytes }
    }

    test('there is enough to damage, and undamaged nothing is in doubt', async () => {
      assert.ok(logFiles(base).length >= 3)
      const { suspects, corrupt } = await damaged(() => undefined, 'undamaged')
      assert.equal(suspects, 0)
      assert.equal(corrupt, 0)
      const store = await open(await cloneOf(base))
      for (const { ledgerId, entryId } of acknowledged) {
        assert.equal((await store.readEntry(ledgerId, entryId)).kind, 'entry')
      }
      // Deleted and above a seal: certain in any case. Otherwise only a clean end makes certain.
      assert.equal((await store.readEntry(4n, 0n)).kind, 'missing')
      assert.equal((await store.readEntry(3n, 20n)).kind, 'missing')
      assert.equal((await store.readEntry(1n, 21n)).kind, ending === 'clean' ? 'missing' : 'suspect')
      assert.equal((await store.readEntry(77n, 0n)).kind, ending === 'clean' ? 'missing' : 'suspect')
    })

    test('one flipped bit anywhere loses nothing in silence', async () => {
      let corrupt = 0
      for (const path of logFiles(base)) {
        const size = base.files.get(path)?.bytes.byteLength ?? 0
        for (let at = 0; at < size; at += at % 4096 < 96 ? 43 : 1_999) {
          const found = await damaged((disk) => {
            const bytes = disk.files.get(path)?.bytes ?? Buffer.alloc(0)
            bytes[at] = (bytes[at] ?? 0) ^ (1 << (at % 8))
          }, `${path} at ${at}`)
          if (found.corrupt > 0) corrupt += 1
          // The mark of a clean end says that all before it was durable: damage there is never taken for a
          // torn end.
          if (ending === 'clean') assert.equal(found.suspects, 0, `${path} at ${at}`)
        }
      }
      assert.ok(corrupt > 50, `only ${corrupt} flips were found to be damage`)
    })

    test('a file cut short anywhere loses nothing in silence', async () => {
      for (const path of logFiles(base)) {
        for (let length = 0; length < FILE_BYTES; length += 4_799) {
          await damaged((disk) => {
            const content = disk.files.get(path)
            if (content !== undefined) content.bytes = content.bytes.subarray(0, length)
          }, `${path} cut at ${length}`)
        }
      }
    })

    test('a file of zeros, and a file that is gone', async () => {
      const superblock = await readSuperblock(base, DIRECTORY)
      const rewritten = new Set(superblock?.rewritten.map(({ generation }) => generation))
      const newest = superblock?.files.findLast((generation) => !rewritten.has(generation)) ?? 0n
      // A file that was replaced may still have its name: it is no part of the store.
      for (const path of (superblock?.files ?? []).map((file) => `${DIRECTORY}/${logName(file)}`)) {
        const last = path === `${DIRECTORY}/${logName(newest)}`
        const zeros = await damaged((disk) => disk.files.get(path)?.bytes.fill(0), `${path} zeros`)
        const gone = await damaged((disk) => disk.files.delete(path), `${path} gone`)
        // Of the newest file nothing says how far it was durable; all others are known to have been.
        if (!last) assert.ok(zeros.corrupt > 0 && gone.corrupt > 0, path)
        else assert.ok(zeros.suspects > 0 && gone.suspects > 0, path)
      }
    })

    test('zeroed pages', async () => {
      for (const path of logFiles(base)) {
        for (let page = 0; page < (base.files.get(path)?.bytes.length ?? 0); page += 4096) {
          const where = `${path} page ${page}`
          await damaged((disk) => disk.files.get(path)?.bytes.fill(0, page, page + 4096), where)
        }
      }
    })
  })
}

test('a damaged body costs its entry and nothing else', async () => {
  const disk = new MemoryDisk()
  const store = await open(disk)
  await store.openLedger(header(1n))
  await Promise.all([0n, 1n, 2n].map((id) => store.addEntry(1n, id, entryOf(1n, id, 3_000))))
  await store.close()
  const [path] = logFiles(disk)
  const bytes = disk.files.get(path ?? '')?.bytes ?? Buffer.alloc(0)
  const at = bytes.indexOf(Buffer.from(entryOf(1n, 1n, 3_000).bytes)) + 1_000
  bytes[at] = (bytes[at] ?? 0) ^ 1
  const again = await open(disk)
  assert.equal((await again.readEntry(1n, 0n)).kind, 'entry')
  await assert.rejects(again.readEntry(1n, 1n), (error) => isStratalogError(error, 'corrupt'))
  assert.equal((await again.readEntry(1n, 2n)).kind, 'entry')
  assert.equal((await again.readEntry(1n, 3n)).kind, 'missing')
  assert.equal((await again.readEntries(1n, 0n, 9n, 1 << 20)).length, 1)
  assert.ok((await again.status()).corruptBytes > 0)
  // A repair writes the entry anew.
  await again.addEntry(1n, 1n, entryOf(1n, 1n, 3_000), { recovery: true })
  assert.equal((await again.readEntry(1n, 1n)).kind, 'entry')
  await again.close()
  const repaired = await open(disk)
  assert.equal((await repaired.readEntries(1n, 0n, 9n, 1 << 20)).length, 3)
  await repaired.close()
})

test('a frame of a later version is not skipped', async () => {
  const disk = new MemoryDisk()
  const store = await open(disk)
  await store.openLedger(header(1n))
  // Without a clean end there is no index block that stands for the frames.
  const cut = await afterPowerCut(disk, () => false)
  const { crc32c } = await import('../../src/format/checksum.js')
  const { frameSeed, GROUP_HEADER_BYTES, FRAME_HEADER_BYTES } = await import('../../src/store/local/frame.js')
  const [path] = logFiles(cut)
  const bytes = cut.files.get(path ?? '')?.bytes ?? Buffer.alloc(0)
  const frame = bytes.subarray(GROUP_HEADER_BYTES, GROUP_HEADER_BYTES + FRAME_HEADER_BYTES)
  frame[4] = 99
  frame.writeUInt32BE(crc32c(frame.subarray(4), frameSeed(store.id, 1n)), 0)
  await assert.rejects(open(cut), (error) => isStratalogError(error, 'version_unsupported'))
})
