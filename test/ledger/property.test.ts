import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { test } from 'node:test'
import fc from 'fast-check'
import { LedgerReader } from '../../src/ledger/reader.js'
import { recoverLedger } from '../../src/ledger/recovery.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { Quorum } from '../../src/model/quorum.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure } from '../helpers/memory-store.js'
import { appendText, newLedger, quiet, World, watched } from '../helpers/protocol.js'

type Step =
  | { readonly kind: 'append'; readonly text: string }
  | { readonly kind: 'arrive'; readonly pick: number }
  | { readonly kind: 'answer'; readonly pick: number }
  | { readonly kind: 'fail'; readonly pick: number }
  | { readonly kind: 'fence'; readonly store: number }

const QUORUMS: readonly Quorum[] = [
  { ensemble: 3, copies: 3, ack: 2, min: 2 },
  { ensemble: 3, copies: 3, ack: 3, min: 3 },
  { ensemble: 3, copies: 2, ack: 2, min: 2 },
  { ensemble: 5, copies: 3, ack: 2, min: 3 },
  { ensemble: 1, copies: 1, ack: 1, min: 1 },
]

const pick = fc.nat(1_000)
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ kind: fc.constant('append' as const), text: fc.string({ maxLength: 9 }) }),
  },
  { weight: 12, arbitrary: fc.record({ kind: fc.constant('arrive' as const), pick }) },
  { weight: 12, arbitrary: fc.record({ kind: fc.constant('answer' as const), pick }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('fail' as const), pick }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('fence' as const), store: fc.nat(4) }) },
)

/** An add on its way: it has reached the replica or not, its answer is out or not. */
interface Sent {
  readonly arrive: () => void
  readonly answer: () => void
  readonly fail: () => void
  arrived: boolean
}

/** Null where a recovery says that it has to be tried again. */
function notYet(error: unknown): null {
  if (isStratalogError(error, 'ledger_recovering') && error.retryable) return null
  throw error
}

/** Runs a schedule on a writer, kills it, lets others recover with `away` stores gone, and checks what is left. */
async function crashAndRecover(
  quorum: Quorum,
  steps: readonly Step[],
  away: number,
  restarted: boolean,
): Promise<void> {
  const world = new World(new ManualClock(), quorum.ensemble)
  try {
    const writing = world.process()
    const sent: Sent[] = []
    for (const store of writing.stores) {
      // An add is held twice: before it reaches the replica, and before its answer reaches the writer.
      const answers = new Map<bigint, Promise<void>>()
      store.fault = {
        before: (call, _, entryId) => {
          if (call !== 'addEntry' || entryId === null) return
          return new Promise((resolve, reject) => {
            let answer = () => {}
            answers.set(
              entryId,
              new Promise((free) => {
                answer = free
              }),
            )
            const one: Sent = {
              arrived: false,
              arrive: () => {
                one.arrived = true
                resolve()
              },
              answer,
              fail: () => reject(failure('io_failed', 'EIO')),
            }
            sent.push(one)
          })
        },
        after: (call, _, entryId) =>
          call === 'addEntry' && entryId !== null ? answers.get(entryId) : undefined,
      }
    }
    const writer = await newLedger(writing.context, quorum)
    const appended: { text: string; outcome: ReturnType<typeof watched<{ entryId: bigint }>> }[] = []
    for (const one of steps) {
      if (one.kind === 'append') {
        appended.push({ text: one.text, outcome: watched(appendText(writer, one.text)) })
      } else if (one.kind === 'fence') {
        await world.process().stores[one.store % quorum.ensemble]?.fence(writer.ledgerId)
      } else {
        const waiting = sent.filter(({ arrived }) => arrived === (one.kind === 'answer'))
        const chosen = waiting[one.pick % Math.max(1, waiting.length)]
        if (chosen !== undefined) {
          chosen[one.kind]()
          if (one.kind !== 'arrive') sent.splice(sent.indexOf(chosen), 1)
        }
      }
      await quiet(1)
    }
    await quiet()
    const acknowledged = appended.filter(({ outcome }) => outcome.value !== undefined).length
    if (restarted) for (const replica of world.replicas) replica.restart()

    const others = [world.process(), world.process()]
    for (const { stores } of others) for (const store of stores.slice(0, away)) store.state = 'unreachable'
    const recover = () =>
      Promise.all(others.map(({ context }) => recoverLedger(context, writer.ledgerId).catch(notYet)))
    let seals = await recover()
    if (seals.includes(null)) {
      // An entry that was found can't be put on Qa stores without those that are away: nothing is decided till then.
      assert.ok(away > 0, 'all stores are there')
      for (const { stores } of others) for (const store of stores) store.state = 'writable'
      seals = await recover()
    }
    assert.deepEqual(seals[0], seals[1])
    const seal = present(seals[0], 'seal')

    // The writer was not dead after all: what it had sent arrives now. It may still learn of copies that were durable
    // before the fence, of entries that recovery found then, and of no others (invariant 3).
    for (const one of sent.splice(0)) {
      one.arrive()
      one.answer()
    }
    await quiet()
    const late = appended.filter(({ outcome }) => outcome.value !== undefined).length
    assert.ok(
      BigInt(late) <= seal.lastEntryId + 1n,
      `entry ${late - 1} was acknowledged beyond the end at ${seal.lastEntryId}`,
    )
    assert.ok(late >= acknowledged)

    const reading = world.process()
    assert.deepEqual(await recoverLedger(reading.context, writer.ledgerId), seal, 'recovery again')
    const reader = await LedgerReader.open(reading.context, writer.ledgerId)
    let length = 0
    for (let id = 0n; id <= seal.lastEntryId; id += 1n) {
      const [entry] = await reader.readEntries(id, id, 1)
      const text = present(appended[Number(id)], 'what was appended').text
      assert.equal(Buffer.from(present(entry, 'entry').payload).toString(), text)
      length += Buffer.byteLength(text)
      assert.equal(present(entry, 'entry').lengthBytes, BigInt(length))
    }
    assert.equal(seal.lengthBytes, length)
  } finally {
    await world.end()
  }
}

test('whatever a writer and its stores did: what it acknowledged is recovered, dense and whole', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...QUORUMS),
      fc.array(step, { maxLength: 60 }),
      fc.nat(2),
      fc.boolean(),
      (quorum, steps, away, restarted) =>
        crashAndRecover(quorum, steps, Math.min(away, quorum.ack - 1), restarted),
    ),
    { numRuns: 250 },
  )
})
