import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import type { LedgerContext } from '../../src/ledger/context.js'
import { LedgerReader } from '../../src/ledger/reader.js'
import { recoverLedger } from '../../src/ledger/recovery.js'
import { LedgerWriter } from '../../src/ledger/writer.js'
import { parseGroups, parseRacks, rackDistance, spreadBeside } from '../../src/metadata/zookeeper/racks.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import { type LedgerMetadata, lastEnsemble } from '../../src/model/ledger.js'
import type { Quorum } from '../../src/model/quorum.js'
import { NOT_CLOSED, type SegmentRow } from '../../src/model/segment.js'
import type { SegmentIndex } from '../../src/ports/segment-index.js'
import { BookieDirectory, type LiveBookie } from '../../src/stores/bookies.js'
import { realClock } from '../../src/system/clock.js'
import { releaseLedger } from '../../tiering/evict.js'
import { appendText, type Process, QUORUM_322, World } from '../helpers/protocol.js'
import { seededRandom } from '../helpers/seeded-random.js'

/** Two bookies in each of three racks, of which the last is in another region; three of them are golden. */
const RACKS = parseRacks('s0 /eu/a\ns1 /eu/a\ns2 /eu/b\ns3 /eu/b\ns4 /us/c\ns5 /us/c', 'racks')
const GROUPS = parseGroups('s0 gold\ns2 gold silver\ns4 gold  # the third\ns5 silver', 'groups')

describe('bookies with racks and groups', () => {
  let world: World
  let process: Process
  let up: string[]
  let opened: BookieDirectory[]
  beforeEach(() => {
    world = new World(realClock(), 6)
    process = world.process()
    up = ['s0', 's1', 's2', 's3', 's4', 's5']
    opened = []
  })
  afterEach(async () => {
    await world.end()
  })

  const live = (): LiveBookie[] =>
    up.map((id) => {
      const rack = RACKS(id, id)
      return { id, host: id, port: 1, readOnly: false, ...(rack === undefined ? {} : { rack }) }
    })
  const context = async (
    options: { here?: string; groups?: boolean; seed?: number } = {},
  ): Promise<LedgerContext> => {
    const { here, groups = true, seed = 1 } = options
    const random = { fraction: seededRandom(seed) }
    const stores = await BookieDirectory.open({
      bookies: { all: live, known: async () => up, changed: () => ({ close: () => undefined }) },
      open: ({ id }) =>
        present(
          process.stores.find((store) => store.id === id),
          id,
        ),
      spread: (bookies, staying) => spreadBeside(bookies, staying, random),
      ...(groups ? { groupsOf: GROUPS } : {}),
      ...(here === undefined ? {} : { distance: ({ rack }) => rackDistance(here, rack) }),
      logger: process.context.logger,
    })
    opened.push(stores)
    const { health: _, ...rest } = process.context
    return { ...rest, stores }
  }
  const ledger = (of: LedgerContext, quorum: Quorum = QUORUM_322) =>
    LedgerWriter.create(of, { quorum, segment: null, preceding: null })
  const rackOf = (id: string) => RACKS(id, id) ?? ''
  const store = (id: string) =>
    present(
      process.stores.find((one) => one.id === id),
      id,
    )
  const failing = () =>
    Promise.reject(new StratalogError('store_unavailable', 'it is away', { retryable: true }))

  test('the one that takes the place of another is in a rack that those that stay lack', async () => {
    for (let seed = 0; seed < 20; seed += 1) {
      const of = await context({ seed })
      const writer = await ledger(of)
      await appendText(writer, 'before')
      const [lost = '', ...staying] = writer.members
      const fault = store(lost).fault
      store(lost).fault = { before: failing }
      await appendText(writer, 'after')
      while (writer.members.includes(lost)) await appendText(writer, 'more')
      store(lost).fault = fault
      const came = present(
        writer.members.find((id) => !staying.includes(id)),
        'another one',
      )
      assert.ok(!staying.map(rackOf).includes(rackOf(came)), `${came} beside ${staying.join(' and ')}`)
      await writer.close()
    }
  })

  test('recovery keeps to the racks, and to the group that the members have in common', async () => {
    const of = await context()
    const writer = await ledger(of, { ensemble: 2, copies: 2, ack: 2, min: 2, group: 'silver' })
    assert.deepEqual([...writer.members].sort(), ['s2', 's5'])
    // s5 has nothing of it and takes nothing: another is put in its place.
    store('s5').fault = { before: (call) => (call === 'addEntry' ? failing() : undefined) }
    await assert.rejects(appendText(writer, 'one'))
    writer.abandon(new StratalogError('closed', 'it died'))
    await recoverLedger(of, writer.ledgerId)
    const { members } = lastEnsemble((await of.metadata.read(writer.ledgerId)).metadata)
    assert.ok(members.includes('s2'))
    const [other = ''] = members.filter((id) => id !== 's2')
    assert.ok(['s0', 's4'].includes(other), `${other} is golden, as s2 is`)
  })

  test('copies stay in the group that the policy names, and it says so where it is too small', async () => {
    const of = await context()
    const gold = { ...QUORUM_322, group: 'gold' }
    const writer = await ledger(of, gold)
    assert.deepEqual([...writer.members].sort(), ['s0', 's2', 's4'])
    await appendText(writer, 'before')
    // Nobody of the group is left to take its place: the ledger goes on with two, and leaves it never.
    store('s4').fault = { before: failing }
    for (let i = 0; i < 5; i += 1) await appendText(writer, 'after')
    assert.deepEqual([...writer.members].sort(), ['s0', 's2', 's4'])
    await writer.close()
    up = ['s0', 's1', 's3', 's5']
    await assert.rejects(ledger(of, gold), (error) => {
      assert.ok(isStratalogError(error, 'not_enough_stores'))
      return /2 writable stores in the group gold \(quorum\.group\) are needed and 1 can be written/.test(
        error.message,
      )
    })
    await assert.rejects(ledger(await context({ groups: false }), gold), (error) => {
      assert.ok(isStratalogError(error, 'config_invalid'))
      return /group gold .*bookkeeper\.groups-file, or write quorum: \{ group: any \}/.test(error.message)
    })
    await assert.rejects(ledger(process.context, gold), (error) => isStratalogError(error, 'config_invalid'))
  })

  test('the nearest copy is read, and the next one where it is away', async () => {
    const of = await context({ here: '/us/c' })
    const writer = await ledger(of)
    const count = 600
    for (let i = 0; i < count; i += 1) void appendText(writer, `${i}`).catch(() => undefined)
    await appendText(writer, 'last')
    await writer.close()
    const reads = new Map<string, number>()
    for (const one of process.stores)
      one.fault = {
        before: (call) => {
          if (call === 'readEntries' || call === 'readEntry') reads.set(one.id, (reads.get(one.id) ?? 0) + 1)
        },
      }
    const readAll = async (): Promise<string[]> => {
      reads.clear()
      const reader = await LedgerReader.open(of, writer.ledgerId)
      for (let next = 0n; next <= BigInt(count); ) {
        const entries = await reader.readEntries(next, BigInt(count), 200)
        next += BigInt(entries.length)
      }
      return [...reads.keys()]
    }
    const nearest = present(
      writer.members.find((id) => rackOf(id) === '/us/c'),
      'one near',
    )
    assert.deepEqual(await readAll(), [nearest])
    up = up.filter((id) => id !== nearest)
    const others = await readAll()
    assert.ok(others.length > 0 && !others.includes(nearest), others.join())
  })

  describe('a ledger that is deleted', () => {
    const incarnation = 'c'.repeat(32)
    const row = (over: Partial<SegmentRow>): SegmentRow => ({
      ...NOT_CLOSED,
      ...{ incarnation, segment: 3n, state: 'trimmed', epoch: 1n, ledgerId: null, gapReason: 'dropped' },
      ...{ firstTxid: 1n, startSequenceId: 0n, openedMs: 1, sealedMs: 2, ...over },
    })
    /** What the row is afterwards; the index is asked for nothing else. */
    const release = (of: LedgerContext, given: SegmentRow): Promise<SegmentRow> => {
      const updateSegment = async (found: object, patch: object) => ({ ...found, ...patch }) as SegmentRow
      return releaseLedger({ ledger: of, index: { updateSegment } as unknown as SegmentIndex }, given)
    }
    const made = async (
      of: LedgerContext,
      options: {
        segment?: bigint
        state?: 'OPEN' | 'CLOSED'
        label?: boolean
        texts?: readonly string[]
      } = {},
    ) => {
      const { segment = 3n, state = 'CLOSED', label = true, texts = ['one', 'two'] } = options
      const named = { stream: 's', epoch: 1n, openedMs: 1, firstTxid: 1n, startSequenceId: 0n }
      const about = label ? { incarnation, segment, ...named } : null
      const writer = await LedgerWriter.create(of, { quorum: QUORUM_322, segment: about, preceding: null })
      for (const text of texts) await appendText(writer, text)
      if (state === 'OPEN') return { ledgerId: writer.ledgerId, lastEntryId: -1n, lengthBytes: 0, writer }
      return { ledgerId: writer.ledgerId, ...(await writer.close()), writer }
    }
    const gone = async (of: LedgerContext, ledgerId: bigint) =>
      assert.rejects(of.metadata.read(ledgerId), (error) => isStratalogError(error, 'ledger_not_found'))
    const refused = (error: unknown) =>
      isStratalogError(error, 'refused') && /not shown to be that of segment 3/.test(error.message)

    test('goes though bookies of it are down, or left: they free by themselves what metadata do not name', async () => {
      const of = await context()
      const { ledgerId, lastEntryId, lengthBytes, writer } = await made(of)
      up = up.filter((id) => !writer.members.includes(id))
      for (const id of writer.members) store(id).fault = { before: failing }
      assert.equal((await release(of, row({ ledgerId, lastEntryId, lengthBytes }))).ledgerId, null)
      await gone(of, ledgerId)
      // Again, as after a crash before the row was changed.
      assert.equal((await release(of, row({ ledgerId, lastEntryId, lengthBytes }))).ledgerId, null)
    })

    test('is the one that the row means: by its label, else by where it ends (invariant 8)', async () => {
      const of = await context()
      // Ours is known in any state, as one that a recall left half-way.
      const half = await made(of, { state: 'OPEN' })
      await release(of, row({ state: 'cold', ledgerId: half.ledgerId, recalledUntilMs: 9 }))
      await gone(of, half.ledgerId)
      // Java's has no label; a row from the name of an object has its size for the length of the ledger.
      const javas = await made(of, { label: false })
      const { ledgerId, lastEntryId } = javas
      const object = { key: 'k', sizeBytes: javas.lengthBytes + 7, indexBytes: 1 }
      const wrong = [
        row({ ledgerId }),
        row({ ledgerId, lastEntryId, lengthBytes: javas.lengthBytes + 1 }),
        row({ ledgerId, lastEntryId: lastEntryId + 1n, lengthBytes: javas.lengthBytes }),
      ]
      for (const one of wrong) await assert.rejects(release(of, one), refused)
      await of.metadata.read(ledgerId)
      const lengthBytes = Number((await of.metadata.read(ledgerId)).metadata.lengthBytes)
      await release(of, row({ ledgerId, lastEntryId, lengthBytes, object }))
      await gone(of, ledgerId)
    })

    test('is never one that only has the number: the cluster was formatted, and another has it by now', async () => {
      const of = await context()
      const others = await Promise.all([
        made(of, { segment: 4n }),
        made(of, { label: false, state: 'OPEN' }),
        made(of, { label: false, texts: ['another', 'history', 'altogether'] }),
        made(of, { label: false, texts: [] }),
      ])
      for (const { ledgerId } of others) {
        await assert.rejects(release(of, row({ ledgerId, lastEntryId: 1n, lengthBytes: 6 })), refused)
        await assert.rejects(release(of, row({ ledgerId })), refused)
        await of.metadata.read(ledgerId)
      }
      await Promise.all(others.map(({ writer }) => writer.abandon(new StratalogError('closed', 'over'))))
    })

    test('is looked at again where it changed between the look and the deletion', async () => {
      const of = await context()
      const { ledgerId, lastEntryId, lengthBytes } = await made(of, { label: false })
      const change = async (patch: Partial<LedgerMetadata>) => {
        const { metadata, version } = await of.metadata.read(ledgerId)
        await of.metadata.compareAndSet(ledgerId, version, { ...metadata, ...patch })
      }
      const { metadata } = of
      // Autorecovery put another bookie into the ensemble: it is the same ledger.
      let changes = 2
      const racing: LedgerContext['metadata'] = {
        allocateId: () => metadata.allocateId(),
        create: (...args) => metadata.create(...args),
        read: (...args) => metadata.read(...args),
        compareAndSet: (...args) => metadata.compareAndSet(...args),
        list: (...args) => metadata.list(...args),
        delete: async (...args) => {
          changes -= 1
          if (changes >= 0) await change(changes === 0 ? { lastEntryId: 99n } : { ctimeMs: 1n })
          return metadata.delete(...args)
        },
      }
      const raced = { ...of, metadata: racing }
      await assert.rejects(release(raced, row({ ledgerId, lastEntryId, lengthBytes })), refused)
      assert.equal(changes, 0)
      await release(raced, row({ ledgerId, lastEntryId: 99n, lengthBytes }))
      await gone(of, ledgerId)
    })
  })

  test('a file of groups that can not be read names its line', () => {
    for (const text of ['s0 gold\ns1', 's0 gold\ns1 any'])
      assert.throws(
        () => parseGroups(text, 'groups.txt'),
        (error) => isStratalogError(error, 'config_invalid') && /groups\.txt, line 2/.test(error.message),
      )
    assert.deepEqual(parseGroups('h gold silver', 'g')('x:1', 'h'), ['gold', 'silver'])
    assert.deepEqual(
      [rackDistance('/eu/a', '/eu/a'), rackDistance('/eu/a', '/eu/b'), rackDistance('/eu/a', undefined)],
      [0, 1, 2],
    )
  })
})
