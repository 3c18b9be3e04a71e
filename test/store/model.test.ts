import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import process from 'node:process'
import { test } from 'node:test'
import fc from 'fast-check'
import { isStratalogError } from '../../src/model/errors.js'
import type { LedgerSeal, SegmentStore } from '../../src/ports/segment-store.js'
import { MemoryDisk } from '../helpers/memory-disk.js'
import { afterPowerCut, entryOf, header, openStore } from '../helpers/store.js'

/*
 * Random calls, clean reopens and power cuts (with torn groups) against a model that knows what was
 * acknowledged. Invariants 1, 3 and 10 for one store: what was acknowledged is there or was ended by an
 * acknowledged seal or delete; nothing that was never added is there; a fence holds; without a power cut
 * absence is `missing`.
 */
const DIRECTORY = '/store'
const LEDGERS = 5

interface ModelLedger {
  opened: boolean
  fenced: boolean
  seal: LedgerSeal | null
  deleted: boolean
  readonly acknowledged: Map<bigint, number>
  /** Every size an entry was ever added with. */
  readonly tried: Map<bigint, Set<number>>
}

type Operation =
  | { readonly kind: 'open' | 'fence' | 'delete'; readonly ledger: number }
  | {
      readonly kind: 'add'
      readonly ledger: number
      readonly count: number
      readonly size: number
      readonly recovery: boolean
    }
  | { readonly kind: 'seal'; readonly ledger: number; readonly back: number }
  | { readonly kind: 'reopen' | 'cut' | 'cutInFlight' | 'control' }

const ledger = fc.integer({ min: 0, max: LEDGERS - 1 })
const operation: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ kind: fc.constant('open' as const), ledger }) },
  {
    weight: 20,
    arbitrary: fc.record({
      kind: fc.constant('add' as const),
      ledger,
      count: fc.integer({ min: 1, max: 12 }),
      size: fc.integer({ min: 0, max: 6_000 }),
      recovery: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('fence' as const), ledger }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('delete' as const), ledger }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('seal' as const), ledger, back: fc.nat(3) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom('reopen', 'cut', 'cutInFlight', 'control') }) },
)

class Run {
  disk = new MemoryDisk()
  store: SegmentStore
  readonly #ledgers = new Map<bigint, ModelLedger>()
  /** Ledger ids are never used again: a deleted one is followed by another. */
  readonly #ids: bigint[] = Array.from({ length: LEDGERS }, (_, at) => BigInt(at))
  #nextId = BigInt(LEDGERS)
  #controls = 0
  #wasCut = false
  readonly #keeps: () => boolean

  constructor(store: SegmentStore, disk: MemoryDisk, keeps: () => boolean) {
    this.store = store
    this.disk = disk
    this.#keeps = keeps
  }

  static async start(seed: number): Promise<Run> {
    let state = seed | 1
    const keeps = (): boolean => {
      state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9
      return (state >>> 16) % 2 === 0
    }
    const disk = new MemoryDisk()
    return new Run(await openStore(DIRECTORY, { disk, fileBytes: 64 << 10 }), disk, keeps)
  }

  #model(slot: number): { id: bigint; model: ModelLedger } {
    const id = this.#ids[slot] ?? 0n
    const known = this.#ledgers.get(id)
    if (known !== undefined) return { id, model: known }
    const model = {
      opened: false,
      fenced: false,
      seal: null,
      deleted: false,
      acknowledged: new Map(),
      tried: new Map(),
    }
    this.#ledgers.set(id, model)
    return { id, model }
  }

  async apply(one: Operation): Promise<void> {
    switch (one.kind) {
      case 'open':
        return this.#open(one.ledger)
      case 'add':
        await Promise.all(this.#add(one.ledger, one.count, one.size, one.recovery))
        return
      case 'fence': {
        const { id, model } = this.#model(one.ledger)
        await this.store.fence(id)
        model.fenced = true
        return
      }
      case 'seal':
        return this.#seal(one.ledger, one.back)
      case 'delete': {
        const { id, model } = this.#model(one.ledger)
        await this.store.deleteLedger(id)
        if (model.opened || model.fenced) model.deleted = true
        this.#ids[one.ledger] = this.#nextId
        this.#nextId += 1n
        return
      }
      case 'control':
        await this.store.putControl({ id: `c${this.#controls}`, kind: 'x', body: 'y'.repeat(500) })
        this.#controls += 1
        return
      case 'reopen':
        await this.store.close()
        return this.#openAgain()
      case 'cut':
        return this.#cut()
      case 'cutInFlight': {
        const adds = [0, 1, 2].flatMap((slot) => this.#add(slot, 6, 2_500, true))
        // Some groups are written, some not, some torn.
        for (let turn = 0; turn < 12; turn += 1) await Promise.resolve()
        await this.#cut()
        await Promise.all(adds)
      }
    }
  }

  async #open(slot: number): Promise<void> {
    const { id, model } = this.#model(slot)
    await this.store.openLedger(header(id))
    model.opened = true
  }

  #add(slot: number, count: number, size: number, recovery: boolean): Promise<void>[] {
    const { id, model } = this.#model(slot)
    const from = BigInt(model.tried.size)
    return Array.from({ length: count }, async (_, at) => {
      const entryId = from + BigInt(at)
      model.tried.set(entryId, (model.tried.get(entryId) ?? new Set()).add(size))
      try {
        await this.store.addEntry(id, entryId, entryOf(id, entryId, size), { recovery })
      } catch (error) {
        this.#mayRefuse(error, model, recovery)
        return
      }
      assert.ok(recovery || !model.fenced, `a plain add to fenced ledger ${id} was acknowledged`)
      assert.ok(model.opened || model.fenced, `an add to unknown ledger ${id} was acknowledged`)
      model.acknowledged.set(entryId, size)
    })
  }

  #mayRefuse(error: unknown, model: ModelLedger, recovery: boolean): void {
    assert.ok(isStratalogError(error), String(error))
    if (error.code === 'fenced') assert.ok(!recovery && (model.fenced || model.seal !== null))
    else if (error.code === 'conflict') assert.ok(model.seal !== null)
    else if (error.code === 'ledger_not_found') assert.ok(!model.opened, 'an opened ledger is not known')
    else assert.ok(error.code === 'store_poisoned' && this.#wasCut, error.message)
  }

  async #seal(slot: number, back: number): Promise<void> {
    const { id, model } = this.#model(slot)
    if (model.seal !== null) return
    const last = [...model.acknowledged.keys()].reduce((max, entry) => (entry > max ? entry : max), -1n)
    const lastEntryId = last - BigInt(back) < -1n ? -1n : last - BigInt(back)
    const seal = { lastEntryId, lengthBytes: 5 }
    await this.store.sealLedger(id, seal)
    model.seal = seal
    model.fenced = true
    model.opened = true
  }

  async #cut(): Promise<void> {
    this.#wasCut = true
    this.disk = await afterPowerCut(this.disk, this.#keeps)
    await this.#openAgain()
  }

  async #openAgain(): Promise<void> {
    this.store = await openStore(DIRECTORY, { disk: this.disk, fileBytes: 64 << 10 })
    await this.check()
  }

  async check(): Promise<void> {
    assert.equal((await this.store.status()).corruptBytes, 0, 'a torn end was taken for damage')
    assert.equal((await this.store.listControls()).length, this.#controls)
    for (const [id, model] of this.#ledgers) {
      const beyond = BigInt(model.tried.size)
      for (let entryId = 0n; entryId <= beyond; entryId += 1n) await this.#checkEntry(id, model, entryId)
    }
    const listed = (await this.store.listLedgers(-1n, 1_000)).map(({ ledgerId }) => ledgerId)
    const expected = [...this.#ledgers].filter(([, one]) => (one.opened || one.fenced) && !one.deleted)
    assert.deepEqual(
      listed,
      expected.map(([id]) => id).sort((a, b) => (a < b ? -1 : 1)),
    )
  }

  async #checkEntry(id: bigint, model: ModelLedger, entryId: bigint): Promise<void> {
    const answer = await this.store.readEntry(id, entryId)
    const where = `entry ${entryId} of ledger ${id}`
    const ended = model.deleted || (model.seal !== null && entryId > model.seal.lastEntryId)
    if (ended) {
      assert.notEqual(answer.kind, 'entry', `${where} is beyond its end`)
      return
    }
    const size = model.acknowledged.get(entryId)
    if (size !== undefined) assert.equal(answer.kind, 'entry', `${where} was acknowledged`)
    if (answer.kind === 'suspect') assert.ok(this.#wasCut, `${where} is suspect without a power cut`)
    if (answer.kind !== 'entry') return
    const possible = [...(model.tried.get(entryId) ?? [])].map((tried) => entryOf(id, entryId, tried).bytes)
    assert.ok(
      possible.some((bytes) => Buffer.from(bytes).equals(answer.bytes)),
      `${where} was never added like that`,
    )
  }
}

test('random calls, reopens and power cuts agree with a model', { timeout: 120_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(operation, { minLength: 10, maxLength: 80, size: 'max' }),
      fc.integer(),
      async (operations, seed) => {
        const run = await Run.start(seed)
        for (const one of operations) await run.apply(one)
        await run.check()
        await run.store.close()
      },
    ),
    { numRuns: Number(process.env.TEST_RUNS ?? 60) },
  )
})
