import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { isClosed, type StreamRow } from '../../src/model/segment.js'
import { collectOrphanLedgers } from '../../tiering/orphan-ledgers.js'
import { changeStoreFacts, withWork } from '../../tiering/store-facts.js'
import { isFinished } from '../../tiering/store-work.js'
import type { Client } from './client.js'
import { checkRestore, rebuild } from './other-logs.js'
import type { StoreNode } from './store-node.js'
import { isKept } from './tiering-oracle.js'
import type { SimWorld } from './world.js'

const RETRIES_MAX = 40
const RETRY_MS = 3_000
const ROWS_MAX = 10_000

/**
 * The reckoning: everything dies and starts again, perhaps without power in between; then streams are recovered,
 * appended to, tiered, read from the start and compared with all that was ever confirmed.
 */
export async function finalChecks(world: SimWorld, cutPower: boolean): Promise<void> {
  const { clients, nodes, scheduler, archive, trace } = world
  trace.note(`the end begins${cutPower ? ', with a power cut' : ''}`)
  for (const client of clients) client.kill('the end begins')
  for (const node of nodes) {
    if (cutPower) node.cutPower()
    else await node.stop()
  }
  if (cutPower) archive?.powerCut()
  for (const node of nodes) if (!node.host.up) node.start()
  // A store whose superblock was hit by rot stays away: its copies are unreachable.
  await scheduler.wait(5_000)
  // One that died right before the end was to come back soon after.
  for (const one of clients) one.kill('it came back into the end')
  const client = present(clients[0], 'a client')
  client.clock.skewMs = 0
  client.start([])
  if (world.options.faults['archive-rot'] !== undefined) await checkMended(world, client)
  for (const stream of world.streams) await checkStream(world, client, stream)
  for (const node of nodes) if (node.lostId !== null) await checkReplaced(world, client, node, node.lostId)
  const { restores, rebuilds, finishes } = world.options
  if (rebuilds && !finishes) {
    const failed = await retried(world, () => rebuild(world, client))
    if (failed !== null) trace.violate(12, `the index can't be made again: ${failed}`)
    client.kill('the index is another one')
    client.start([])
    for (const stream of world.streams) await checkStream(world, client, stream)
  }
  // Last: what is restored is written to the stores of this log, where a log of its own would have its own. Those
  // ledgers bear the names of its streams and no decision tells of them: an index made from these stores after that
  // would be refused, and rightly so.
  if (restores && archive !== null) {
    const failed = await retried(world, () => checkRestore(world, client))
    if (failed !== null) trace.violate(7, `the archive can't be restored: ${failed}`)
  }
}

/**
 * A store that was formatted is replaced by the one that is there now. With all its copies made again, any other one
 * may be away (invariant 1).
 */
async function checkReplaced(world: SimWorld, client: Client, node: StoreNode, from: string): Promise<void> {
  const { trace, keeper, nodes, scheduler } = world
  // A replacement without a new store is one that is not begun yet: nothing would be copied.
  await world.until('the store that takes the place of a formatted one opens', () => node.isOpen)
  const to = present(node.storeId, 'the id of the new store')
  const location = node.host.name
  const startedMs = client.clock.nowMs()
  const work = { kind: 'replace', from, to, location, startedMs, bytesPerSecond: null } as const
  await changeStoreFacts(keeper, (facts) => withWork({ ...facts, retired: [from] }, from, work))
  const moved = await retried(world, async () => {
    const { upkeep, hub, tiering } = present(client.running, 'a client that runs')
    // What is open comes when it is closed.
    for (const stream of world.streams) {
      const newest = await world.metadata.index.newestSegment(stream.incarnation)
      if (newest !== null && !isClosed(newest.state)) await hub.seal(stream, newest.segment)
    }
    // What a crash left between a ledger and its row would stay open for ever: nobody else closes it.
    const orphans = { graceMs: 0, collect: true, signal: new AbortController().signal }
    await collectOrphanLedgers(tiering, orphans)
    const { works, failed } = await upkeep.work(() => {})
    const left = works.find((progress) => !isFinished(progress))
    if (failed.length > 0 || left !== undefined)
      throw new Error(
        `${String(failed[0])}, incomplete: ${left?.incompleteLedgers}, open: ${left?.openLedgers}`,
      )
  })
  if (moved !== null) trace.violate(0, `liveness: the copies of ${from} are not made again: ${moved}`)
  const away = world.random.pick(nodes.filter((one) => one !== node))
  away.kill('another store is away')
  for (const stream of world.streams) await checkRead(world, client, stream)
  away.start()
  await scheduler.wait(5_000)
}

/** Invariant 9: the scrub finds what rotted in the archive, and mends it from the hot copy. */
async function checkMended(world: SimWorld, client: Client): Promise<void> {
  const failed = await retried(world, async () => {
    const state = await present(client.running, 'a client that runs').upkeep.coldScrubPass()
    const [alarm] = state?.alarms ?? []
    if (alarm !== undefined) throw new Error(`segment ${alarm.segment}: ${alarm.why}`)
  })
  if (failed !== null) world.trace.violate(9, `what rotted in the archive is not mended: ${failed}`)
}

async function checkStream(world: SimWorld, client: Client, stream: StreamRow): Promise<void> {
  const { trace } = world
  const appended = await retried(world, () => client.append(stream, [world.nextRecord()]))
  if (appended !== null) trace.violate(0, `liveness: ${stream.name} takes no append: ${appended}`)
  const tiered = await retried(world, async () => {
    const { failed } = await present(client.running, 'a client that runs').agent.runUntilSettled()
    if (failed.length > 0) throw new Error(JSON.stringify(failed[0]))
  })
  if (tiered !== null) trace.violate(0, `liveness: tiering of ${stream.name} does not settle: ${tiered}`)
  await checkRead(world, client, stream)
  if (world.options.finishes) await checkFinish(world, client, stream)
  await checkRows(world, stream)
}

/** A stream that is finished takes nothing more, from nobody, and holds what it held. */
async function checkFinish(world: SimWorld, client: Client, stream: StreamRow): Promise<void> {
  const { trace } = world
  const finished = await retried(world, () => client.finish(stream))
  if (finished !== null) trace.violate(0, `liveness: ${stream.name} can't be finished: ${finished}`)
  for (const one of [client, present(world.clients[1], 'another client')]) {
    if (!one.host.up) one.start([])
    const refused = await one.append(stream, [world.nextRecord()]).catch((error: unknown) => error)
    // The writer that finished it still has it: no other process gets that far.
    if (!isStratalogError(refused, 'stream_finished') && !isStratalogError(refused, 'conflict'))
      trace.violate(3, `${stream.name} is finished, and an append came to ${String(refused)}`)
  }
  await checkRead(world, client, stream)
}

/** What was ever confirmed is read, from the start, once each. */
async function checkRead(world: SimWorld, client: Client, stream: StreamRow): Promise<void> {
  const { trace, metadata, oracle } = world
  const read = await retried(world, async () => {
    const records = await client.readAll(stream)
    oracle.checkHistory(present(await metadata.index.stream(stream.incarnation), 'stream'), records)
  })
  if (read !== null) trace.violate(1, `${stream.name} can't be read: ${read}`)
}

/** Invariants 4, 5 and 7: what the index says is archived is, whole, and without a hole from the old end on. */
async function checkRows(world: SimWorld, stream: StreamRow): Promise<void> {
  const { metadata, oracle, trace } = world
  let missing: bigint | null = null
  for (const row of await metadata.index.listSegments(stream.incarnation, 0n, ROWS_MAX)) {
    if (row.state === 'archived' || row.state === 'cold') {
      if (missing !== null) trace.violate(5, `segment ${row.segment} is archived and ${missing} is not`)
      try {
        await oracle.checkArchived(row)
      } catch (error) {
        trace.violate(7, `segment ${row.segment} is ${row.state}: ${String(error).slice(0, 160)}`)
      }
    } else if (isKept(row)) missing ??= row.segment
  }
}

/** The last failure, or null once it worked. */
async function retried(world: SimWorld, work: () => Promise<void>): Promise<string | null> {
  let failure = ''
  for (let attempt = 0; attempt < RETRIES_MAX; attempt += 1) {
    try {
      await work()
      return null
    } catch (error) {
      failure = String(error).slice(0, 300)
      await world.scheduler.wait(RETRY_MS)
    }
  }
  return failure
}
