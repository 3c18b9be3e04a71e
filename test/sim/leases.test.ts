import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Coordination, Lease } from '../../src/ports/coordination.js'
import { optionsOf, type SimOptions } from './options.js'
import { Host } from './scheduler.js'
import { SimWorld } from './world.js'

/** Longer than an answer that was lost is waited for, and than a message that is delayed is under way. */
const SETTLED_MS = 60_000

const NAME = 'writer/1'

/** What a process gets of the coordination, once everything about it has happened. */
async function settled(world: SimWorld, asked: Promise<unknown>): Promise<unknown> {
  const outcome = asked.catch((error: unknown) => error)
  const untilMs = world.scheduler.nowMs + SETTLED_MS
  await world.scheduler.run(() => false, { untilMs, eventsMax: 1_000 })
  return Promise.race([outcome, 'nothing'])
}

async function withFaults(
  faults: SimOptions['faults'],
  work: (world: SimWorld, connect: (host: Host) => Coordination) => Promise<void>,
): Promise<void> {
  const world = new SimWorld({ ...optionsOf(1), faults })
  try {
    await work(world, (host) => world.metadata.client(host).coordination)
  } finally {
    await world.end()
  }
}

const options = { holder: 'a test', waitMs: 0 }

test('a lease whose grant nobody heard of is free again', async () => {
  await withFaults({ 'metadata-lost-answer': 1 }, async (world, connect) => {
    const [unlucky, other] = [new Host('unlucky'), new Host('other')]
    world.scheduler.start(unlucky)
    world.scheduler.start(other)
    const unheard = await settled(world, connect(unlucky).acquire(NAME, options))
    assert.match(String(unheard), /no answer from metadata/)
    world.network.heal()
    const lease = (await settled(world, connect(other).acquire(NAME, options))) as Lease
    assert.equal(lease.epoch, 2n, 'the first one was granted')
    // One that was heard of is kept, by a live process, against all others (invariant 3).
    assert.match(String(await settled(world, connect(unlucky).acquire(NAME, options))), /held by other/)
  })
})

test('what a process asked for before it died is not given to its next life', async () => {
  await withFaults({}, async (world, connect) => {
    const [mortal, other] = [new Host('mortal'), new Host('other')]
    world.scheduler.start(mortal)
    world.scheduler.start(other)
    const asked = connect(mortal).acquire(NAME, options)
    world.scheduler.kill(mortal)
    world.scheduler.start(mortal)
    assert.equal(await settled(world, asked), 'nothing', 'the one who asked is dead')
    const lease = (await settled(world, connect(other).acquire(NAME, options))) as Lease
    assert.equal(lease.name, NAME)
  })
})
