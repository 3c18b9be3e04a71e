import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { LedgerReader } from '../../src/ledger/reader.js'
import { listUnderreplicated } from '../../src/metadata/zookeeper/under-replication.js'
import { present } from '../../src/model/assert.js'
import type { ImpactDto } from '../../src/model/control-bookkeeper.js'
import { isStratalogError } from '../../src/model/errors.js'
import { lastEnsemble } from '../../src/model/ledger.js'
import { checkImpact, type ImpactParts } from '../../src/stores/impact.js'
import {
  appendPayloads,
  type ClusterClient,
  createLedger,
  digestOfEntries,
  openCluster,
  readLedger,
} from '../helpers/cluster.js'
import { type BookieServer, type Bookies, startBookies } from '../servers/bookkeeper.js'
import { skipWithout } from '../servers/cache.js'

const skip = await skipWithout('bookkeeper')
const SIZE = 1000

/** In a cluster of its own: a bookie that was stopped for longer than its session no longer moves anything. */
describe("a bookie is lost for good, and Java's autorecovery is there", { skip }, () => {
  let cluster: Bookies | undefined
  let opened: ClusterClient | undefined
  const ours = (): ClusterClient => present(opened, 'our client')
  const bookie = (id: string): BookieServer =>
    present(
      present(cluster, 'cluster').bookies.find((one) => one.id === id),
      `bookie ${id}`,
    )
  before(async () => {
    const config = { rwRereplicateBackoffMs: 500, auditorPeriodicBookieCheckInterval: 0 }
    cluster = await startBookies({ count: 4, sessionMs: 2500, autorecovery: true, config })
    const settings = { connectTimeoutMs: 2000, addTimeoutMs: 2000, readTimeoutMs: 2000 }
    opened = await openCluster(cluster, { settings })
  })
  after(async () => {
    await opened?.close()
    await cluster?.stop()
  })

  const members = async (ledgerId: bigint): Promise<readonly string[]> =>
    lastEnsemble((await ours().context.metadata.read(ledgerId)).metadata).members

  test('a bookie is drained as docs/operating.md says: asked about, stopped, decommissioned', async () => {
    const { context, registry, zk } = ours()
    const impact = async (id: string): Promise<ImpactDto> => {
      const index = { listStreams: async () => [] } as unknown as ImpactParts['index']
      const parts = { ledger: context, index, bookies: registry, needed: async () => 3, nearest: () => null }
      for await (const part of checkImpact(parts, id)) if (part.type === 'done') return part.impact
      throw new Error('it has no end')
    }
    const { ledgersPath } = present(cluster, 'cluster')
    const settled = async (): Promise<void> => {
      for (let tries = 0; (await listUnderreplicated(zk, ledgersPath, 10)).length > 0; tries++) {
        assert.ok(tries < 600, 'no ledger waits for copies')
        await sleep(100)
      }
    }
    const writer = await createLedger(ours())
    await appendPayloads(writer, 0n, 100, SIZE)
    await writer.close()
    await settled()
    const [leaves = ''] = await members(writer.ledgerId)
    const asked = await impact(leaves)
    assert.deepEqual([asked.safe, asked.why, asked.state, asked.writableLeft], [true, [], 'writable', 3])
    assert.ok(asked.ledgers > 0)
    await bookie(leaves).kill()
    // One that was killed counts as running until its session has ended, and is refused until then.
    for (let tries = 0; registry.all().some(({ id }) => id === leaves); tries++) {
      assert.ok(tries < 600, 'its session ends')
      await sleep(100)
    }
    // It waits until no ledger names the bookie, then takes it out of the cluster.
    await present(cluster, 'cluster').shell('decommissionbookie', '-bookieid', leaves)
    await settled()
    assert.ok(!(await members(writer.ledgerId)).includes(leaves))
    assert.ok(!(await registry.known()).includes(leaves))
    await assert.rejects(impact(leaves), (error) => isStratalogError(error, 'not_found'))
    // With three left each has a copy of every ledger, and nobody could take what another had.
    const [next = ''] = await members(writer.ledgerId)
    const last = await impact(next)
    assert.deepEqual([last.safe, last.irreplaceable > 0], [false, true])
    assert.match(last.why.join(), /start another first/)
    assert.equal((await readLedger(ours(), writer.ledgerId)).digest, digestOfEntries(100, SIZE))
    await present(cluster, 'cluster').add()
    for (let tries = 0; registry.writable().length < 4; tries++) {
      assert.ok(tries < 600, 'the new one is there')
      await sleep(100)
    }
  })

  test('a reader of ours goes on when a closed ledger was moved', async () => {
    const writer = await createLedger(ours())
    await appendPayloads(writer, 0n, 100, SIZE)
    await writer.close()
    const reader = await LedgerReader.open(ours().context, writer.ledgerId)
    assert.equal((await reader.readEntries(0n, 0n, 1)).length, 1)
    const before = await members(writer.ledgerId)
    await bookie(present(before[0], 'a member')).kill()
    const moved = async (): Promise<boolean> =>
      (await members(writer.ledgerId)).every((id) => id !== before[0])
    for (let tries = 0; !(await moved()); tries++) {
      // Java's auditor and worker take their time where others use the machine.
      assert.ok(tries < 1_200, 'Java moved the copies of the lost bookie')
      await sleep(100)
    }
    // What is left of the old members hangs: only the new one has the entries, and the reader knew the old ones.
    for (const id of before.slice(1)) bookie(id).pause()
    try {
      const entries = await reader.readEntries(0n, 99n, 1 << 20)
      assert.ok(entries.length > 0)
      assert.equal((await readLedger(ours(), writer.ledgerId)).digest, digestOfEntries(100, SIZE))
    } finally {
      await present(cluster, 'cluster').restart(before)
    }
  })
})
