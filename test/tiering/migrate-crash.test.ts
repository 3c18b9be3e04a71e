import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { listOwners, putControl } from '../../archive/control-objects.js'
import { planSegmentObject, segmentObjectBody } from '../../archive/segment-writer.js'
import { encodeSegmentKey } from '../../src/format/archive-names.js'
import { StratalogError } from '../../src/model/errors.js'
import { followMark } from '../../src/open/moved-archive.js'
import type { ArchiveStore, ReplayableBody } from '../../src/ports/archive-store.js'
import type { SegmentIndex } from '../../src/ports/segment-index.js'
import { ONLY_ATTEMPT } from '../../tiering/announce.js'
import type { TieringContext } from '../../tiering/context.js'
import { Migration } from '../../tiering/migrate.js'
import { movedFrom } from '../../tiering/migrate-moves.js'
import { abortMigration } from '../../tiering/migrate-places.js'
import { MovableArchive } from '../../tiering/migrate-store.js'
import {
  bodyOf,
  bytesOf,
  countingRandom,
  INCARNATION,
  keyOf,
  MemoryArchive,
  memoryLogger,
  sampleSegment,
  sourceOf,
} from '../helpers/archive.js'

const LOG = 'a'.repeat(32)

/** What survives a process: two places and an index. */
interface Disks {
  readonly old: MemoryArchive
  readonly fresh: MemoryArchive
  readonly facts: Map<string, string>
  /** Keys of whose storing the writer was told, with the bytes. */
  readonly acknowledged: Map<string, string>
}

const objects: { key: string; bytes: Buffer }[] = []
for (let segment = 1n; segment <= 3n; segment += 1n) {
  const { meta, payloads } = sampleSegment({ entries: 3, recordsPerEntry: 4, payloadBytes: 50 })
  const entries = sourceOf(payloads)
  const planned = await planSegmentObject({ ...meta, segment }, entries)
  const key = encodeSegmentKey(keyOf(planned, countingRandom(`${segment}`)))
  objects.push({ key, bytes: await bytesOf(segmentObjectBody(planned, entries)) })
}

async function newDisks(): Promise<Disks> {
  const at = (location: string) => Object.assign(new MemoryArchive(), { location }) as MemoryArchive
  const disks = { old: at('old'), fresh: at('new'), facts: new Map(), acknowledged: new Map() }
  await putControl(disks.old, null, 1n, 'owner', { logId: LOG, epoch: 1n }, ONLY_ATTEMPT)
  await putControl(
    disks.old,
    INCARNATION,
    1n,
    'name',
    { name: 'a', txidMode: 'custom', createdMs: 1, parent: null },
    countingRandom(),
  )
  for (const { key, bytes } of objects) await disks.old.putIfAbsent(key, bodyOf(bytes))
  return disks
}

class Killed extends Error {}

/** A process that is killed at its n-th call of a store or the index; `after`: the call still takes effect. */
class Life {
  calls = 0
  readonly #at: number
  readonly #when: 'before' | 'after'
  constructor(at: number, when: 'before' | 'after') {
    this.#at = at
    this.#when = when
  }

  get dead(): boolean {
    return this.calls >= this.#at
  }

  async call<T>(work: () => Promise<T> | T): Promise<T> {
    await new Promise((resolve) => setImmediate(resolve))
    if (this.dead) throw new Killed()
    this.calls += 1
    if (this.dead && this.#when === 'before') throw new Killed()
    const value = await work()
    if (this.dead) throw new Killed()
    return value
  }

  store(memory: MemoryArchive): ArchiveStore {
    return {
      location: memory.location,
      capabilities: memory.capabilities,
      putIfAbsent: (key, body: ReplayableBody) => this.call(() => memory.putIfAbsent(key, body)),
      head: (key) => this.call(() => memory.head(key)),
      readRange: (key, offset, length, signal) =>
        this.call(() => memory.readRange(key, offset, length, signal)),
      listFrom: (prefix, after, limit) => this.call(() => memory.listFrom(prefix, after, limit)),
      delete: (key) => this.call(() => memory.delete(key)),
      close: () => Promise.resolve(),
    }
  }
}

interface Process {
  readonly context: TieringContext
  readonly archive: MovableArchive
  readonly target: ArchiveStore
}

/** Opens the archive as a log does, with a configuration that names the old place. */
async function start(disks: Disks, life: Life): Promise<Process> {
  const { facts } = disks
  const index = {
    fact: (name: string) => life.call(() => facts.get(name) ?? null),
    setFact: (name: string, value: string) => life.call(() => void facts.set(name, value)),
    listStreams: async () => [],
    stream: async () => null,
    segment: async () => null,
  } as unknown as SegmentIndex
  const logger = memoryLogger()
  const clock = {
    nowMs: () => 1_000,
    monotonicMs: () => 0,
    setTimer: () => ({ cancel: () => undefined }),
    sleep: async () => undefined,
  }
  const openAt = async (location: string) =>
    life.store(location === 'old' ? disks.old : location === 'new' ? disks.fresh : assert.fail(location))
  const store = await followMark(
    { logId: LOG, index, logger, openAt },
    await openAt(await movedFrom(index, 'old')),
  )
  const archive = new MovableArchive(store, { clock, logger })
  const context = {
    logId: LOG,
    index,
    ledger: { clock, logger },
    random: countingRandom(),
    archive: async () => archive,
    policy: async () => assert.fail('there are no streams'),
  } as unknown as TieringContext
  return { context, archive, target: life.store(disks.fresh) }
}

/** Stores small objects as long as it lives, and remembers those it was told are stored. */
async function write({ archive }: Process, disks: Disks, count: number, name: string): Promise<void> {
  for (let at = 0; at < count; at += 1) {
    const key = `7000000000000000000000000/x${name}${at}`
    await archive.putIfAbsent(key, bodyOf(`${name} ${at}`))
    disks.acknowledged.set(key, `${name} ${at}`)
    for (let turn = 0; turn < 10; turn += 1) await new Promise((resolve) => setImmediate(resolve))
  }
}

const unlessKilled = (error: unknown) => {
  if (!(error instanceof Killed)) throw error
}

const options = { signal: new AbortController().signal }

/** Exactly one place counts, and it has all that was acknowledged. Invariants 1, 5 and 6 of what is archived. */
async function checkDisks({ old, fresh, acknowledged }: Disks): Promise<'old' | 'new'> {
  const left = (await listOwners(old)).at(-1)
  const arrived = (await listOwners(fresh)).at(-1)
  const moved = left?.mark?.kind === 'moved'
  const counts = moved ? fresh : old
  if (!moved) {
    assert.equal(left?.logId, LOG)
    // Whoever comes upon the other one must not take it for an archive.
    assert.ok(arrived === undefined || arrived.mark?.kind === 'arriving', 'two places are the archive')
  }
  const all = [...objects, ...[...acknowledged].map(([key, text]) => ({ key, bytes: Buffer.from(text) }))]
  for (const { key, bytes } of all) assert.deepEqual(counts.objects.get(key), bytes, `${key} is lost`)
  return moved ? 'new' : 'old'
}

/** One migration beside a writer, killed at a call; then another process that goes on. */
async function scenario(at: number, when: 'before' | 'after'): Promise<boolean> {
  const disks = await newDisks()
  const life = new Life(at, when)
  try {
    const one = await start(disks, life)
    const writing = write(one, disks, 6, 'p').catch(unlessKilled)
    await new Migration(one.context, one.archive, one.target, options).run().finally(() => writing)
    await write(one, disks, 1, 'q')
  } catch (error) {
    unlessKilled(error)
  }
  const before = await checkDisks(disks)
  const two = await start(disks, new Life(Number.POSITIVE_INFINITY, 'before'))
  assert.equal(two.archive.location, before, 'the next process goes on in the place that counts')
  await write(two, disks, 1, 'r')
  await checkDisks(disks)
  if (before === 'old') {
    await new Migration(two.context, two.archive, two.target, options).run()
    await write(two, disks, 1, 's')
  }
  assert.equal(await checkDisks(disks), 'new')
  const owner = (await listOwners(disks.fresh)).at(-1)
  assert.deepEqual([owner?.logId, owner?.epoch, owner?.mark], [LOG, 2n, null])
  assert.equal(disks.facts.get('archive-migration'), '')
  return life.dead
}

describe('a migration that is killed', () => {
  for (const when of ['before', 'after'] as const) {
    test(`at any call, ${when} it takes effect: one place counts, and it has everything`, async () => {
      let at = 1
      while (await scenario(at, when)) at += 1
      assert.ok(at > 60, `${at} calls`)
    })
  }

  test('leaves nothing unread: what came over with a flipped bit and was not read back is written anew', async () => {
    // Killed right after a put whose bytes were changed on the way: the next run can't know and has to look.
    for (let nth = 1; nth <= 3; nth += 1) {
      const disks = await newDisks()
      const life = new Life(Number.POSITIVE_INFINITY, 'after')
      const one = await start(disks, life)
      let puts = 0
      const target: ArchiveStore = {
        ...one.target,
        putIfAbsent: async (key, body) => {
          await one.target.putIfAbsent(key, body)
          const stored = disks.fresh.objects.get(key)
          if (!key.includes('/s') || stored === undefined || ++puts !== nth) return
          stored[stored.length >> 1] = (stored[stored.length >> 1] ?? 0) ^ 1
          throw new Killed()
        },
      }
      await assert.rejects(new Migration(one.context, one.archive, target, options).run(), Killed)
      const two = await start(disks, new Life(Number.POSITIVE_INFINITY, 'before'))
      await new Migration(two.context, two.archive, two.target, options).run()
      assert.equal(await checkDisks(disks), 'new')
    }
  })

  test('and aborted: nothing of it is left, and the old place counts', async () => {
    for (let at = 10; at < 80; at += 7) {
      const disks = await newDisks()
      const life = new Life(at, 'after')
      try {
        const one = await start(disks, life)
        await new Migration(one.context, one.archive, one.target, options).run()
        continue
      } catch (error) {
        unlessKilled(error)
      }
      if ((await checkDisks(disks)) === 'new') continue
      // The abort is killed too, and run again.
      for (const lives of [3, 9, Number.POSITIVE_INFINITY]) {
        const two = await start(disks, new Life(lives + 8, 'before')).catch(() => null)
        if (two === null) continue
        await abortMigration(two.context, two.archive, two.target, options.signal).catch(unlessKilled)
        assert.equal(await checkDisks(disks), 'old')
      }
      assert.equal(disks.fresh.objects.size, 0)
      const three = await start(disks, new Life(Number.POSITIVE_INFINITY, 'before'))
      await new Migration(three.context, three.archive, three.target, options).run()
      assert.equal(await checkDisks(disks), 'new')
    }
  })
})

describe('a switch whose answer is lost', () => {
  test('nothing is written anywhere until it is known, and nothing is lost', async () => {
    const disks = await newDisks()
    const { archive, context, target } = await start(disks, new Life(Number.POSITIVE_INFINITY, 'before'))
    let down = false
    const old = archive.current
    const away = () =>
      Promise.reject(new StratalogError('archive_unavailable', 'away: injected', { retryable: true }))
    const list = old.listFrom.bind(old)
    const put = old.putIfAbsent.bind(old)
    Object.assign(old, {
      listFrom: (...args: Parameters<typeof list>) => (down ? away() : list(...args)),
      putIfAbsent: async (...args: Parameters<typeof put>) => {
        if (down) return away()
        await put(...args)
        // The mark is stored, and nobody hears of it.
        if (!args[0].includes('-owner-')) return
        down = true
        return away()
      },
    })
    await assert.rejects(new Migration(context, archive, target, options).run(), {
      code: 'archive_unavailable',
    })
    await assert.rejects(archive.putIfAbsent('7000000000000000000000000/xlate', bodyOf('late')), {
      code: 'archive_unavailable',
    })
    assert.ok(await archive.head(objects[0]?.key ?? ''), 'what is there is read all the same')
    down = false
    await archive.putIfAbsent('7000000000000000000000000/xlate', bodyOf('late'))
    assert.equal(archive.location, 'new')
    assert.ok(disks.fresh.objects.has('7000000000000000000000000/xlate'))
    assert.equal(await checkDisks(disks), 'new')
  })

  test('a place that does not take the mark stays the archive', async () => {
    const disks = await newDisks()
    const process = await start(disks, new Life(Number.POSITIVE_INFINITY, 'before'))
    const old = process.archive.current
    const put = old.putIfAbsent.bind(old)
    let full = true
    Object.assign(old, {
      putIfAbsent: (...args: Parameters<typeof put>) =>
        full ? Promise.reject(new StratalogError('archive_full', 'no room: injected')) : put(...args),
    })
    const run = () => new Migration(process.context, process.archive, process.target, options).run()
    await assert.rejects(run(), { code: 'archive_full' })
    assert.equal(await checkDisks(disks), 'old')
    full = false
    await write(process, disks, 1, 'p')
    await run()
    assert.equal(await checkDisks(disks), 'new')
  })
})
