import assert from 'node:assert/strict'
import { test } from 'node:test'
import { findTreeFaults, repairTree } from '../../src/metadata/distributedlog/repair.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { VersionedLedgerMetadata } from '../../src/ports/ledger-metadata.js'
import { realClock } from '../../src/system/clock.js'
import { openRow, sealedSegments, writableStream } from '../contract/segment-rows.js'
import { NAMESPACE, World } from './helpers.js'

const LEDGERS = `${NAMESPACE}/s1/<default>/ledgers`
const text = (value: string) => new TextEncoder().encode(value)

/** A stream whose first segment has both nodes, as a completion by single writes leaves it. */
async function halfDone(lastEntryId: bigint | null) {
  const world = new World()
  await world.bind()
  const { index, zk } = await world.process()
  const { incarnation } = await writableStream(index, 's1')
  await sealedSegments(index, incarnation, 1)
  await zk.create(`${LEDGERS}/inprogress_000000000000000001`, text('5;1001;100;1;0;0;-1'))
  const state: string = lastEntryId === null ? 'OPEN' : 'CLOSED'
  const read = async (ledgerId: bigint) => {
    if (ledgerId !== 1001n) throw new StratalogError('ledger_not_found', `no ledger ${ledgerId}`)
    const metadata = { state, lastEntryId: lastEntryId ?? -1n }
    return { ledgerId, version: 1, metadata } as unknown as VersionedLedgerMetadata
  }
  return {
    world,
    index,
    zk,
    incarnation,
    parts: { zk, clock: realClock(), namespace: NAMESPACE, ledgers: { read } },
  }
}

test('both nodes of a segment: the one in progress goes if the closed ledger bears the other out', async () => {
  const { world, index, incarnation, parts } = await halfDone(4n)
  const [fault] = await findTreeFaults(parts, 's1')
  assert.equal(fault?.kind, 'both_nodes')
  const { mended, left } = await repairTree(parts, 's1')
  assert.deepEqual([mended.length, left.length], [1, 0])
  assert.deepEqual(await findTreeFaults(parts, 's1'), [])
  await index.beginSegment(openRow(incarnation, 2n, { firstTxid: 500n }))
  await world.remove()
})

test('a ledger that is not closed, or ends below, is left alone (invariant 1)', async () => {
  for (const end of [null, 3n]) {
    const { world, parts } = await halfDone(end)
    const { mended, left } = await repairTree(parts, 's1')
    assert.deepEqual([mended.length, left[0]?.ops], [0, null])
    await world.remove()
  }
})

test('with a writer at work nothing is mended', async () => {
  const { world, zk, parts } = await halfDone(4n)
  const member = `${NAMESPACE}/s1/<default>/lock/member_x_s${'1'.padStart(10)}_`
  await zk.create(member, text('x'), { ephemeral: true, sequential: true })
  const { mended, left } = await repairTree(parts, 's1')
  assert.deepEqual([mended.length, left.length], [0, 1])
  assert.match(left[0]?.says ?? '', /writer holds its lock/)
  await world.remove()
})

test('a highest number that is behind is brought forward', async () => {
  const { world, zk, parts } = await halfDone(4n)
  await repairTree(parts, 's1')
  await zk.create(`${LEDGERS}/inprogress_000000000000000002`, text('5;1002;200;2;0;0;-1'))
  const [fault] = (await repairTree(parts, 's1')).mended
  assert.equal(fault?.kind, 'ledgers_behind')
  assert.equal(world.dump(LEDGERS)[0]?.split('\t')[2], 'text:2')
  await assert.rejects(findTreeFaults(parts, 's2'), (error) => isStratalogError(error, 'stream_not_found'))
  await world.remove()
})
