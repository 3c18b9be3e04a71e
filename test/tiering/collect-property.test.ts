import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import fc from 'fast-check'
import { putControl } from '../../archive/control-objects.js'
import { holdBody } from '../../archive/decisions.js'
import { verifySegmentObject } from '../../archive/segment-verify.js'
import { planSegmentObject, segmentObjectBody } from '../../archive/segment-writer.js'
import { attemptOf, decodeSegmentKey, encodeSegmentKey } from '../../src/format/archive-names.js'
import { Dlsn } from '../../src/model/dlsn.js'
import { StratalogError } from '../../src/model/errors.js'
import type { SegmentRow } from '../../src/model/segment.js'
import { collectOrphans } from '../../tiering/collect.js'
import type { TieringContext } from '../../tiering/context.js'
import { newStream, sealedRow } from '../contract/segment-rows.js'
import {
  bytesOf,
  countingRandom,
  fixedClock,
  keyOf,
  MemoryArchive,
  memoryLogger,
  sampleSegment,
  sourceOf,
} from '../helpers/archive.js'
import { allOf } from '../helpers/archived-log.js'
import { ungoverned } from '../helpers/stream-world.js'
import { openFor } from '../metadata/helpers.js'

const LOG = '1'.repeat(32)
const STATES = ['sealed', 'archived', 'cold', 'trimmed', 'gap', 'no row'] as const
const OBJECTS = ['committed', 'twin', 'broken twin', 'rival', 'broken rival'] as const

/** One segment: its row, and which objects are there. */
const segmentArbitrary = fc.record({
  state: fc.constantFrom(...STATES),
  objects: fc.uniqueArray(fc.constantFrom(...OBJECTS), { minLength: 0, maxLength: 5 }),
  damaged: fc.boolean(),
  held: fc.boolean(),
})
type Drawn = {
  state: (typeof STATES)[number]
  objects: (typeof OBJECTS)[number][]
  damaged: boolean
  held: boolean
}

let root = ''
let metadata: ReturnType<typeof openFor>
before(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-gc-'))
  metadata = openFor(join(root, 'index.db'))
})
after(async () => {
  await metadata.close()
  rmSync(root, { recursive: true, force: true })
})

/** An archive that stops answering after so many requests. */
class FailingArchive extends MemoryArchive {
  left = Number.POSITIVE_INFINITY
  #spend(): void {
    this.left -= 1
    if (this.left < 0) throw new StratalogError('archive_unavailable', 'injected', { retryable: true })
  }
  override async head(key: string) {
    this.#spend()
    return super.head(key)
  }
  override async readRange(key: string, offset: number, length: number) {
    this.#spend()
    return super.readRange(key, offset, length)
  }
  override async listFrom(prefix: string, from: string, limit: number) {
    this.#spend()
    return super.listFrom(prefix, from, limit)
  }
  override async delete(key: string) {
    this.#spend()
    await super.delete(key)
  }
}

interface Placed {
  readonly archive: FailingArchive
  readonly context: TieringContext
  readonly rows: readonly { row: SegmentRow | null; drawn: Drawn; keys: ReadonlyMap<string, string> }[]
}

async function place(drawn: readonly Drawn[], trimBelow: bigint, indexKnows: boolean): Promise<Placed> {
  const archive = new FailingArchive()
  const random = countingRandom()
  const { index } = metadata
  const stream = newStream(`s${Math.random()}`)
  const { incarnation } = stream
  let created = await index.createStream(stream)
  await putControl(archive, null, 1n, 'owner', { logId: LOG, epoch: '1' }, random)
  let number = 1n
  if (trimBelow > 1n) {
    await putControl(archive, incarnation, number++, 'trim', { below: `${trimBelow}:0:0` }, random)
    const trimmedBelow = new Dlsn(trimBelow, 0n, 0n)
    // A marker that the index does not have yet, or never had, is not enough.
    if (indexKnows) created = await index.updateStream(incarnation, created.version, { trimmedBelow })
  }
  const rows: { row: SegmentRow | null; drawn: Drawn; keys: Map<string, string> }[] = []
  for (const [at, one] of drawn.entries()) {
    const segment = BigInt(at + 1)
    const keys = await putObjects(archive, incarnation, segment, one, random)
    const digest = decodeSegmentKey(keys.get('digest') ?? '')?.contentDigest ?? ''
    keys.delete('digest')
    const committed = keys.get('committed')
    let row: SegmentRow | null = null
    // Rows are contiguous from the first: what has none lies above the newest.
    if (one.state !== 'no row' && rows.every((before) => before.row !== null)) {
      const named = one.state === 'archived' || one.state === 'cold'
      // What is trimmed may still owe its object.
      const owes = one.state === 'trimmed' && one.damaged && committed !== undefined
      const key =
        committed ??
        encodeSegmentKey({ ...decoded(keys, incarnation, segment, digest), attempt: '9999999999999' })
      row = await index.adoptSegment({
        ...sealedRow(incarnation, segment),
        state: one.state,
        ledgerId:
          one.state === 'cold' || one.state === 'trimmed' || one.state === 'gap' ? null : 5_000n + segment,
        ...(named || owes
          ? {
              contentDigest: digest,
              archivedMs: 1,
              object: { key, sizeBytes: archive.objects.get(key)?.length ?? 100, indexBytes: 60 },
            }
          : {}),
      })
    }
    if (one.held) {
      const from = { dlsn: new Dlsn(segment, 0n, 0n) }
      const until = { dlsn: new Dlsn(segment + 1n, 0n, 0n) }
      const hold = { id: `h${segment}`, from, until, reason: null, atMs: 1, by: null }
      await putControl(archive, incarnation, number++, at % 2 === 0 ? 'hold' : 'pin', holdBody(hold), random)
    }
    rows.push({ row, drawn: one, keys })
  }
  const context = {
    logId: LOG,
    ledger: { clock: fixedClock({ nowMs: 1_700_000_000_000 }), logger: memoryLogger() },
    index,
    coordination: ungoverned(),
    random,
    archive: async () => archive,
    policy: async () => ({ policy: { holds: [] }, origins: { holds: 'built in' } }),
  } as unknown as TieringContext
  return { archive, context, rows }
}

function decoded(keys: ReadonlyMap<string, string>, incarnation: string, segment: bigint, digest: string) {
  const any = decodeSegmentKey([...keys.values()][0] ?? '')
  return {
    ...(any ?? {
      lastEntryId: 1n,
      lastSlot: 0n,
      recordCount: 1n,
      startSequenceId: 0n,
      firstTxid: 1n,
      lastTxid: 1n,
      completionMs: 1,
      indexBytes: 60,
    }),
    incarnation,
    segment,
    contentDigest: digest === '' ? '0'.repeat(64) : digest,
  }
}

async function putObjects(
  archive: MemoryArchive,
  incarnation: string,
  segment: bigint,
  drawn: Drawn,
  random: ReturnType<typeof countingRandom>,
): Promise<Map<string, string>> {
  const keys = new Map<string, string>()
  for (const [kind, payloadBytes] of [
    ['own', 20],
    ['other', 21],
  ] as const) {
    const { meta, payloads } = sampleSegment({ entries: 2, recordsPerEntry: 2, payloadBytes })
    const entries = sourceOf(payloads)
    const planned = await planSegmentObject({ ...meta, incarnation, segment }, entries)
    const bytes = await bytesOf(segmentObjectBody(planned, entries))
    if (kind === 'own') keys.set('digest', encodeSegmentKey(keyOf(planned, random)))
    const put = (name: string, broken: boolean) => {
      const key = encodeSegmentKey({ ...keyOf(planned, random), attempt: attemptOf(random.bytes(8)) })
      const body = Buffer.from(bytes)
      if (broken) body[body.length >> 1] = (body[body.length >> 1] ?? 0) ^ 1
      archive.objects.set(key, body)
      keys.set(name, key)
    }
    for (const name of drawn.objects) {
      const rival = name.endsWith('rival')
      if (rival === (kind === 'own')) continue
      put(name, name.startsWith('broken') || (name === 'committed' && drawn.damaged))
    }
  }
  return keys
}

async function isWhole(archive: FailingArchive, key: string): Promise<boolean> {
  const parsed = decodeSegmentKey(key)
  if (parsed === null || !archive.objects.has(key)) return false
  return verifySegmentObject(archive, key, parsed).then(
    () => true,
    () => false,
  )
}

/** Whether everything that anybody needs is still there. */
async function check({ archive, rows }: Placed, trimBelow: bigint): Promise<void> {
  archive.left = Number.POSITIVE_INFINITY
  for (const [at, { row, drawn, keys }] of rows.entries()) {
    const segment = BigInt(at + 1)
    const there = (name: string) => archive.objects.has(keys.get(name) ?? '')
    const where = `${JSON.stringify(drawn)} segment ${segment}`
    const all = [...keys.keys()]
    // Holds and pins keep all; so do segments nobody can judge: gaps, what is not copied yet, what has no row.
    const unjudged = row === null || row.state === 'trimmed' ? segment >= trimBelow : !isArchived(row)
    if (drawn.held || unjudged) assert.ok(all.every(there), where)
    if (row === null || !isArchived(row)) continue
    // Invariant 8: what the row names, what it could be mended from, and what contradicts it.
    if (keys.has('committed')) assert.ok(there('committed'), where)
    if (keys.has('rival')) assert.ok(there('rival'), where)
    const mendable = keys.has('twin') || (keys.has('committed') && !drawn.damaged)
    if (!mendable) continue
    const names = ['committed', 'twin'].flatMap((name) => keys.get(name) ?? [])
    const whole = await Promise.all(names.map((key) => isWhole(archive, key)))
    assert.ok(whole.includes(true), where)
  }
}

function isArchived({ state }: SegmentRow): boolean {
  return state === 'archived' || state === 'cold'
}

describe('the collector', () => {
  // Never what a row, a twin-only segment, a hold or a pin needs; cut off at any request; and run again after that.
  test('deletes nothing that anybody needs, whatever there is and wherever it is cut off', async () => {
    let deleted = 0
    let cut = 0
    await fc.assert(
      fc.asyncProperty(
        fc.array(segmentArbitrary, { minLength: 1, maxLength: 4 }),
        fc.integer({ min: 1, max: 3 }),
        fc.boolean(),
        fc.integer({ min: 5, max: 120 }),
        async (drawn, below, indexKnows, requests) => {
          const placed = await place(drawn as Drawn[], BigInt(below), indexKnows)
          const trimBelow = indexKnows ? BigInt(below) : 1n
          const before = placed.archive.objects.size
          const options = { graceMs: 0, collect: true, signal: new AbortController().signal }
          placed.archive.left = requests
          await allOf(collectOrphans(placed.context, options)).catch((error: unknown) => {
            assert.ok(error instanceof StratalogError && error.code === 'archive_unavailable', String(error))
            cut += 1
          })
          await check(placed, trimBelow)
          await allOf(collectOrphans(placed.context, options))
          await check(placed, trimBelow)
          deleted += before - placed.archive.objects.size
        },
      ),
      { numRuns: 120 },
    )
    // A collector that deletes nothing, and a cut that never comes, prove nothing.
    assert.ok(deleted > 8, `${deleted} deleted`)
    assert.ok(cut > 5, `${cut} cut off`)
  })
})
