import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { test } from 'node:test'
import fc from 'fast-check'
import { LedgerReader } from '../../src/ledger/reader.js'
import { recoverLedger } from '../../src/ledger/recovery.js'
import type { LedgerWriter } from '../../src/ledger/writer.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { ensembleAt } from '../../src/model/ledger.js'
import type { Quorum } from '../../src/model/quorum.js'
import type { LedgerSeal } from '../../src/ports/segment-store.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { failure, type StoreCall } from '../helpers/memory-store.js'
import {
  appendText,
  newLedger,
  type Outcome,
  type Process,
  quiet,
  World,
  watched,
} from '../helpers/protocol.js'

/** What happens next. `pick` chooses among what is on its way then. */
type Step =
  | { readonly kind: 'append'; readonly text: string }
  | { readonly kind: 'arrive' | 'answer' | 'deliver' | 'fail'; readonly pick: number }
  | { readonly kind: 'commit' | 'told' | 'lost' | 'later' }
  | { readonly kind: 'down' | 'up' | 'fence'; readonly store: number }
  | { readonly kind: 'recover' }

const QUORUMS: readonly Quorum[] = [
  { ensemble: 3, copies: 3, ack: 2, min: 2 },
  { ensemble: 3, copies: 3, ack: 3, min: 3 },
  { ensemble: 3, copies: 2, ack: 2, min: 2 },
  { ensemble: 5, copies: 3, ack: 2, min: 3 },
  { ensemble: 2, copies: 2, ack: 1, min: 1 },
  { ensemble: 1, copies: 1, ack: 1, min: 1 },
]

const pick = fc.nat(1_000)
const store = fc.nat(6)
const of = <K extends string>(...kinds: K[]) => fc.constantFrom(...kinds)
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 8, arbitrary: fc.record({ kind: of('append'), text: fc.string({ maxLength: 3 }) }) },
  { weight: 30, arbitrary: fc.record({ kind: of('arrive', 'answer', 'deliver'), pick }) },
  { weight: 4, arbitrary: fc.record({ kind: of('fail'), pick }) },
  { weight: 5, arbitrary: fc.record({ kind: of('commit', 'told') }) },
  { weight: 1, arbitrary: fc.record({ kind: of('lost', 'later') }) },
  { weight: 2, arbitrary: fc.record({ kind: of('down', 'up'), store }) },
)
/** Others come at most once each: after them there is not much left for the writer to do. */
const steps: fc.Arbitrary<Step[]> = fc
  .tuple(
    fc.array(step, { minLength: 20, maxLength: 80 }),
    fc.nat(120),
    fc.nat(120),
    fc.record({ kind: of('fence'), store }),
  )
  .map(([all, fenceAt, recoverAt, fence]) =>
    all.flatMap((one, at) => [
      ...(at === fenceAt ? [fence] : []),
      ...(at === recoverAt ? [{ kind: 'recover' as const }] : []),
      one,
    ]),
  )

interface Case {
  readonly quorum: Quorum
  readonly spare: number
  readonly steps: readonly Step[]
  /** Stores that recoverers never see; readers have to do without the first Qa−1 of them. */
  readonly gone: readonly number[]
  /** Calls that fail for those who recover, each on one store. */
  readonly trouble: readonly { readonly store: number; readonly call: StoreCall }[]
  readonly restarted: boolean
}

/** A call on its way: it has come to pass or not, its answer is out or not. */
interface Held {
  readonly arrive: () => void
  readonly answer: () => void
  readonly fail: () => void
  arrived: boolean
}

/** Holds a call twice: before it comes to pass, and before its answer comes back. */
function held(calls: Held[]): { before: Promise<void>; after: Promise<void> } {
  let answer = () => {}
  let lose = (_: Error) => {}
  const after = new Promise<void>((free, reject) => {
    answer = free
    lose = reject
  })
  after.catch(() => undefined)
  const before = new Promise<void>((resolve, reject) => {
    const one: Held = {
      arrived: false,
      arrive: () => {
        one.arrived = true
        resolve()
      },
      answer,
      fail: () => (one.arrived ? lose : reject)(failure('io_failed', 'EIO')),
    }
    calls.push(one)
  })
  return { before, after }
}

/** One of those that have arrived, or have not. */
function waiting(calls: readonly Held[], arrived: boolean, at: number): Held | undefined {
  const among = calls.filter((call) => call.arrived === arrived)
  return among[at % Math.max(1, among.length)]
}

/** The same, gone from the list. */
function take(calls: Held[], arrived: boolean, at: number): Held | undefined {
  const taken = waiting(calls, arrived, at)
  if (taken !== undefined) calls.splice(calls.indexOf(taken), 1)
  return taken
}

/** Null where a recovery says that it has to be tried again. */
function notYet(error: unknown): null {
  if (isStratalogError(error, 'ledger_recovering') && error.retryable) return null
  throw error
}

class Run {
  readonly world: World
  readonly writing: Process
  readonly adds: Held[] = []
  readonly changes: Held[] = []
  readonly appended: { readonly text: string; readonly outcome: Outcome<{ entryId: bigint }> }[] = []
  readonly recoveries: Promise<LedgerSeal | null>[] = []
  readonly #case: Case
  readonly #clock = new ManualClock()

  constructor(one: Case) {
    this.#case = one
    this.world = new World(this.#clock, one.quorum.ensemble + one.spare)
    this.writing = this.world.process()
    for (const memory of this.writing.stores) {
      const answers = new Map<bigint, Promise<void>>()
      memory.fault = {
        before: (call, _, entryId) => {
          if (call !== 'addEntry' || entryId === null) return
          const { before, after } = held(this.adds)
          answers.set(entryId, after)
          return before
        },
        after: (call, _, entryId) =>
          call === 'addEntry' && entryId !== null ? answers.get(entryId) : undefined,
      }
    }
    let answer: Promise<void> | undefined
    this.writing.metadata.fault = {
      before: () => {
        const { before, after } = held(this.changes)
        answer = after
        return before
      },
      after: () => answer,
    }
  }

  /** Entries acknowledged so far: they come in order. */
  get acknowledged(): number {
    const last = this.appended.findLastIndex(({ outcome }) => outcome.value !== undefined)
    assert.ok(this.appended.slice(0, last + 1).every(({ outcome }) => outcome.value !== undefined))
    return last + 1
  }

  /** A process that can't reach some stores. */
  without(count: number): Process {
    const process = this.world.process()
    const there = [...new Set(this.#case.gone)].filter((at) => at < process.stores.length)
    for (const at of there.slice(0, count)) present(process.stores[at], 'store').state = 'unreachable'
    return process
  }

  /** A process that recovers under difficulties. */
  recoverer(): Process {
    const process = this.without(this.#case.gone.length)
    for (const { store: at, call } of this.#case.trouble) {
      present(process.stores[at % process.stores.length], 'store').fault = {
        before: (called) => {
          if (called === call) throw failure('io_failed', 'EIO')
        },
      }
    }
    return process
  }

  recover(writer: LedgerWriter, process: Process): Promise<LedgerSeal | null> {
    return recoverLedger(process.context, writer.ledgerId).catch(notYet)
  }

  async step(writer: LedgerWriter, one: Step): Promise<void> {
    const { stores } = this.writing
    switch (one.kind) {
      case 'append':
        this.appended.push({ text: one.text, outcome: watched(appendText(writer, one.text)) })
        break
      case 'down':
      case 'up':
        present(stores[one.store % stores.length], 'store').state =
          one.kind === 'up' ? 'writable' : 'unreachable'
        break
      case 'fence':
        await this.world.process().stores[one.store % stores.length]?.fence(writer.ledgerId)
        break
      case 'recover':
        this.recoveries.push(this.recover(writer, this.recoverer()))
        break
      case 'later':
        await this.#clock.advance(16_000)
        break
      case 'commit':
        waiting(this.changes, false, 0)?.arrive()
        break
      case 'told':
        take(this.changes, true, 0)?.answer()
        break
      case 'lost':
        take(this.changes, true, 0)?.fail()
        break
      case 'arrive':
        waiting(this.adds, false, one.pick)?.arrive()
        break
      case 'answer':
        take(this.adds, true, one.pick)?.answer()
        break
      case 'deliver': {
        const call = take(this.adds, false, one.pick)
        call?.arrive()
        call?.answer()
        break
      }
      case 'fail':
        take(this.adds, false, one.pick)?.fail()
    }
  }

  /** Whatever is on its way arrives, and its answer. */
  async release(): Promise<void> {
    while (this.adds.length + this.changes.length > 0) {
      for (const one of [...this.changes.splice(0), ...this.adds.splice(0)]) {
        one.arrive()
        one.answer()
      }
      await quiet()
    }
  }

  /** Invariant 1: each entry from `first` up to `end` is on Qa stores of the ensemble where others will look for it. */
  async checkCopies(writer: LedgerWriter, first: number, end: number): Promise<void> {
    const { metadata } = await this.world.metadata.ledgers.read(writer.ledgerId)
    for (let id = BigInt(first); id < end; id += 1n) {
      const members = ensembleAt(metadata, id)
      const copies = members.filter((member) =>
        this.world.replicas[Number(member.slice(1))]?.ledger(writer.ledgerId).entries.has(id),
      )
      assert.ok(copies.length >= metadata.ackQuorum, `of ${members} only ${copies} have entry ${id}`)
    }
  }

  /** Everything up to the end is there, in order and whole, with the stores that are gone still gone. */
  async checkContents(writer: LedgerWriter, seal: LedgerSeal): Promise<void> {
    const reader = await LedgerReader.open(this.without(this.#case.quorum.ack - 1).context, writer.ledgerId)
    let length = 0
    for (let id = 0n; id <= seal.lastEntryId; id += 1n) {
      const [entry] = await reader.readEntries(id, id, 1)
      const { text } = present(this.appended[Number(id)], 'what was appended')
      assert.equal(Buffer.from(present(entry, 'entry').payload).toString(), text)
      length += Buffer.byteLength(text)
      assert.equal(present(entry, 'entry').lengthBytes, BigInt(length))
    }
    assert.equal(seal.lengthBytes, length)
  }
}

/**
 * Runs a schedule on a writer whose stores and metadata answer when and as they like, kills it, lets others recover
 * without some stores, lets what was on its way arrive after all, and checks what is left.
 */
async function crashAndRecover(one: Case): Promise<void> {
  const run = new Run(one)
  try {
    const writer = await newLedger(run.writing.context, one.quorum)
    for (const next of one.steps) {
      const before = run.acknowledged
      await run.step(writer, next)
      await quiet(2)
      await run.checkCopies(writer, before, run.acknowledged)
    }
    await quiet()
    await Promise.all(run.recoveries)
    const { acknowledged } = run
    if (one.restarted) for (const replica of run.world.replicas) replica.restart()

    const recover = (processes: Process[]) =>
      Promise.all(processes.map((process) => run.recover(writer, process)))
    let seals = await recover([run.recoverer(), run.recoverer()])
    if (seals.includes(null)) {
      // An entry that was found can't be put on Qa stores without those that are away: nothing is decided till then.
      assert.ok(one.gone.length + one.trouble.length > 0, 'all stores are there')
      seals = await recover([run.world.process(), run.world.process()])
    }
    assert.deepEqual(seals[0], seals[1])
    const seal = present(seals[0], 'seal')
    assert.ok(
      seal.lastEntryId >= BigInt(acknowledged) - 1n,
      `${acknowledged} acknowledged, end at ${seal.lastEntryId}`,
    )

    await run.checkCopies(writer, 0, Number(seal.lastEntryId) + 1)

    // The writer was not dead after all: what it had sent arrives now. It may still learn of copies that were durable
    // before the fence, of entries that recovery found then, and of no others (invariant 3).
    await run.release()
    const late = run.acknowledged
    assert.ok(
      BigInt(late) <= seal.lastEntryId + 1n,
      `entry ${late - 1} was acknowledged beyond the end at ${seal.lastEntryId}`,
    )
    assert.deepEqual(await run.recover(writer, run.recoverer()), seal, 'recovery again')
    await run.checkContents(writer, seal)
  } finally {
    await run.world.end()
  }
}

test('whatever a writer, its stores and the metadata did: what it acknowledged is recovered (invariants 1, 2, 3)', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        quorum: fc.constantFrom(...QUORUMS),
        spare: fc.nat(2),
        steps,
        gone: fc.array(store, { maxLength: 2 }),
        trouble: fc.array(fc.record({ store, call: of('fence', 'readEntry', 'addEntry') }), { maxLength: 2 }),
        restarted: fc.boolean(),
      }),
      crashAndRecover,
    ),
    { numRuns: 250 },
  )
})
