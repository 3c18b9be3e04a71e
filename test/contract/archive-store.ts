import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { isStratalogError } from '../../src/model/errors.js'
import type { ArchivedKey, ArchiveStore, ReplayableBody } from '../../src/ports/archive-store.js'

/** An engine's store, empty, with what removes it again. */
export interface OpenedArchive {
  readonly store: ArchiveStore
  cleanup(): Promise<void>
}

/** How much of a store is asked for. */
export interface ArchiveContractOptions {
  /** Names that are made and listed in pages: more than one answer of the store holds. @default 2500 */
  readonly names?: number
  /** Names that are listed by prefixes, in pages of several sizes. @default 300 */
  readonly listed?: number
  /** Sizes of bodies, the last of which is also read in ranges. @default 0, 1, 5 MiB + 1 */
  readonly bodyBytes?: readonly number[]
}

/** Every promise of `ArchiveStore` as a test; engines pass it against the real thing, empty. */
export function archiveContract(
  open: () => Promise<OpenedArchive>,
  name = 'archive',
  options: ArchiveContractOptions = {},
): void {
  describe(`${name}: contract of ArchiveStore`, () => {
    let opened: OpenedArchive | null = null
    const store = (): ArchiveStore => {
      assert.ok(opened, 'the store is open')
      return opened.store
    }
    before(async () => {
      opened = await open()
    })
    after(async () => {
      await opened?.store.close()
      await opened?.cleanup()
    })
    objects(store)
    sizes(store, options.bodyBytes ?? [0, 1, 5 * MIB + 1])
    refusals(store)
    races(store)
    failures(store)
    cancellations(store)
    listings(store, options.listed ?? 300)
    manyNames(store, options.names ?? 2500)
    deletions(store)
  })
}

type Store = () => ArchiveStore
const MIB = 1024 * 1024
const WRITERS = 16

const code = (expected: string) => (error: unknown) => {
  assert.ok(isStratalogError(error), `a StratalogError, not ${error}`)
  assert.equal(error.code, expected)
  return true
}

const bytes = (count: number): Buffer =>
  createHash('shake256', { outputLength: count }).update('bytes').digest()

function body(data: Uint8Array | string, chunkBytes = 65_536): ReplayableBody & { opened: number } {
  const all = Buffer.from(data)
  return {
    opened: 0,
    sizeBytes: all.length,
    async *open() {
      this.opened += 1
      // One buffer for all chunks: a chunk belongs to the consumer only until it asks for the next.
      const chunk = Buffer.alloc(chunkBytes)
      for (let at = 0; at < all.length; at += chunkBytes) {
        const part = all.subarray(at, at + chunkBytes)
        part.copy(chunk)
        yield chunk.subarray(0, part.length)
        chunk.fill(0xee)
      }
    },
  }
}

function objects(store: Store): void {
  test('an object reads back as it was written, whole and in ranges', async () => {
    const data = bytes(300_001)
    await store().putIfAbsent('objects/a', body(data))
    assert.deepEqual(await store().head('objects/a'), { key: 'objects/a', sizeBytes: data.length })
    assert.ok(data.equals(await store().readRange('objects/a', 0, data.length)))
    for (const [offset, length] of [
      [0, 1],
      [1, 65_536],
      [65_535, 2],
      [299_999, 2],
      [300_000, 1],
    ] as const) {
      const found = await store().readRange('objects/a', offset, length)
      assert.ok(data.subarray(offset, offset + length).equals(found), `${length} at ${offset}`)
    }
  })

  test('in order, in pieces of any size, a part of it or all, let go of at any time', async () => {
    const open = (offset: number, length: number) => store().readInOrder?.('objects/order', offset, length)
    const data = bytes(300_001)
    await store().putIfAbsent('objects/order', body(data))
    for (const [offset, pieces] of [
      [0, [1, 65_536, 234_464]],
      [7, [100_000, 3]],
      [300_000, [1]],
    ] as const) {
      const reading = open(offset, data.length - offset)
      let at = offset
      for (const piece of reading === undefined ? [] : pieces) {
        assert.ok(data.subarray(at, at + piece).equals((await reading?.next(piece)) ?? Buffer.alloc(0)))
        at += piece
      }
      reading?.close()
      reading?.close()
    }
    open(0, 10)?.close()
  })

  test('a range ends where the object ends', async () => {
    await store().putIfAbsent('objects/short', body('0123456789'))
    assert.equal(Buffer.from(await store().readRange('objects/short', 7, 100)).toString(), '789')
    assert.equal((await store().readRange('objects/short', 10, 1)).length, 0)
    assert.equal((await store().readRange('objects/short', 1000, 2 ** 40)).length, 0)
    assert.equal((await store().readRange('objects/short', 3, 0)).length, 0)
  })

  test('what is read belongs to the caller', async () => {
    await store().putIfAbsent('objects/owned', body('abc'))
    const first = await store().readRange('objects/owned', 0, 3)
    first.fill(0)
    assert.equal(Buffer.from(await store().readRange('objects/owned', 0, 3)).toString(), 'abc')
  })

  test('an empty object is an object', async () => {
    await store().putIfAbsent('objects/empty', body(''))
    assert.deepEqual(await store().head('objects/empty'), { key: 'objects/empty', sizeBytes: 0 })
    assert.equal((await store().readRange('objects/empty', 0, 10)).length, 0)
  })

  test('keys may be 200 bytes of the alphabet', async () => {
    const key = `objects/${'0az_~.-'.repeat(30)}`.slice(0, 200)
    await store().putIfAbsent(key, body('x'))
    assert.deepEqual(await store().head(key), { key, sizeBytes: 1 })
    assert.deepEqual(await store().listFrom(key, '', 10), [{ key, sizeBytes: 1 }])
  })
}

function refusals(store: Store): void {
  test('what is not there is not found', async () => {
    assert.equal(await store().head('absent/a'), null)
    await assert.rejects(store().readRange('absent/a', 0, 1), code('object_not_found'))
  })

  test('a prefix of keys is no object', async () => {
    await store().putIfAbsent('prefix/of/key', body('x'))
    assert.equal(await store().head('prefix/of'), null)
    await assert.rejects(store().readRange('prefix/of', 0, 1), code('object_not_found'))
  })

  test('keys that are none are refused by every call', async () => {
    const wrong = [
      '',
      '/',
      '/a',
      'a/',
      'a//b',
      '../a',
      'a/../../b',
      'a/.',
      '.tmp/a',
      'A',
      'a b',
      'ä',
      'a\0',
      'a\\b',
    ]
    for (const key of [...wrong, 'a'.repeat(201)]) {
      const refused = code('invalid_argument')
      await assert.rejects(store().putIfAbsent(key, body('x')), refused, key)
      await assert.rejects(store().head(key), refused, key)
      await assert.rejects(store().readRange(key, 0, 1), refused, key)
      await assert.rejects(store().delete(key), refused, key)
    }
  })

  test('no object is ever overwritten', async () => {
    if (store().capabilities.putIfAbsent === 'none') return
    await store().putIfAbsent('taken/a', body('first'))
    await assert.rejects(store().putIfAbsent('taken/a', body('second')), code('object_exists'))
    assert.equal(Buffer.from(await store().readRange('taken/a', 0, 10)).toString(), 'first')
  })
}

function sizes(store: Store, wanted: readonly number[]): void {
  for (const size of wanted) {
    test(`a body of ${size} bytes reads back, whole and at its end`, async () => {
      const data = bytes(size)
      const key = `sizes/${size}`
      await store().putIfAbsent(key, body(data))
      assert.deepEqual(await store().head(key), { key, sizeBytes: size })
      assert.deepEqual(await store().listFrom(key, '', 10), [{ key, sizeBytes: size }])
      assert.ok(data.equals(await store().readRange(key, 0, size + 1)))
      const last = Math.max(0, size - 1000)
      assert.ok(data.subarray(last).equals(await store().readRange(key, last, 2000)))
      const ranges = Array.from({ length: 8 }, (_, i) => Math.floor((size * i) / 8))
      await Promise.all(
        ranges.map(async (offset) => {
          const found = await store().readRange(key, offset, 4097)
          assert.ok(data.subarray(offset, offset + 4097).equals(found), `4097 at ${offset}`)
        }),
      )
      await store().delete(key)
    })
  }
}

function races(store: Store): void {
  test(`of ${WRITERS} that create one key at once one wins, and the object is the winner's`, async () => {
    if (store().capabilities.putIfAbsent === 'none') return
    for (const sizeBytes of [10, 100_000]) {
      const key = `taken/race-${sizeBytes}`
      const letter = (i: number): string => String.fromCharCode(97 + i)
      const attempts = Array.from({ length: WRITERS }, (_, i) =>
        store().putIfAbsent(key, body(letter(i).repeat(sizeBytes + i))),
      )
      const settled = await Promise.allSettled(attempts)
      const winners = settled.flatMap(({ status }, i) => (status === 'fulfilled' ? [i] : []))
      for (const one of settled) if (one.status === 'rejected') code('object_exists')(one.reason)
      assert.equal(winners.length, 1)
      const winner = winners[0] ?? -1
      const found = Buffer.from(await store().readRange(key, 0, 200_000)).toString()
      assert.equal(found, letter(winner).repeat(sizeBytes + winner))
      assert.equal((await store().head(key))?.sizeBytes, sizeBytes + winner)
    }
  })
}

function cancellations(store: Store): void {
  test('an upload cancelled at any time leaves nothing or the whole object', async () => {
    const data = bytes(3 * MIB)
    for (const afterMs of [0, 1, 3, 10, 30]) {
      const key = `cancelled/${afterMs}`
      const signal = AbortSignal.timeout(afterMs)
      const stored = await store()
        .putIfAbsent(key, body(data), { signal })
        .then(
          () => true,
          () => false,
        )
      const found = await store().head(key)
      if (stored) assert.ok(found !== null, 'what was acknowledged is there')
      if (found !== null) assert.ok(data.equals(await store().readRange(key, 0, data.length + 1)))
      else await store().putIfAbsent(key, body(data))
      await store().delete(key)
    }
  })

  test('a read and a listing can be cancelled while they are under way', async () => {
    await store().putIfAbsent('cancelled/read', body(bytes(3 * MIB)))
    for (const afterMs of [0, 1, 3]) {
      const read = store().readRange('cancelled/read', 0, 3 * MIB, AbortSignal.timeout(afterMs))
      const bytesRead = await read.then(
        (found) => found.length,
        () => 3 * MIB,
      )
      assert.equal(bytesRead, 3 * MIB, 'never a part')
      await store()
        .listFrom('', '', 100, AbortSignal.timeout(afterMs))
        .catch((error: unknown) => assert.ok(error instanceof Error))
    }
    await store().delete('cancelled/read')
  })
}

function failures(store: Store): void {
  test('a body that throws half-way leaves nothing, and its key can be taken', async () => {
    const broken: ReplayableBody = {
      sizeBytes: 200_000,
      async *open() {
        yield Buffer.alloc(100_000)
        throw new RangeError('half-way')
      },
    }
    await assert.rejects(store().putIfAbsent('failed/a', broken))
    assert.equal(await store().head('failed/a'), null)
    assert.deepEqual(await store().listFrom('failed/', '', 10), [])
    await store().putIfAbsent('failed/a', body('whole'))
    assert.equal((await store().head('failed/a'))?.sizeBytes, 5)
  })

  test('a body of another size than it states leaves nothing', async () => {
    for (const sizeBytes of [1, 3]) {
      const wrong: ReplayableBody = { ...body('ab'), sizeBytes }
      await assert.rejects(store().putIfAbsent('failed/size', wrong))
      assert.equal(await store().head('failed/size'), null)
    }
  })

  test('an aborted upload leaves nothing', async () => {
    const abort = new AbortController()
    const endless: ReplayableBody = {
      sizeBytes: 1_000_000_000,
      async *open() {
        for (let i = 0; i < 10_000; i++) {
          if (i === 5) abort.abort(new Error('enough'))
          yield Buffer.alloc(100_000)
        }
      },
    }
    await assert.rejects(
      store().putIfAbsent('failed/abort', endless, { signal: abort.signal }),
      /enough|abort/i,
    )
    assert.equal(await store().head('failed/abort'), null)
  })

  test('a signal that is aborted already ends every call', async () => {
    await store().putIfAbsent('failed/signal', body('x'))
    const signal = AbortSignal.abort(new Error('enough'))
    await assert.rejects(store().putIfAbsent('failed/late', body('x'), { signal }))
    await assert.rejects(store().head('failed/signal', signal))
    await assert.rejects(store().readRange('failed/signal', 0, 1, signal))
    await assert.rejects(store().listFrom('', '', 1, signal))
    await assert.rejects(store().delete('failed/signal', signal))
    assert.equal((await store().head('failed/signal'))?.sizeBytes, 1)
  })
}

function listings(store: Store, count: number): void {
  const keys = [
    ...Array.from({ length: count }, (_, i) => `list/many/${String(i).padStart(4, '0')}`),
    ...[
      'list/a',
      'list/a-b',
      'list/a.b/c',
      'list/a0',
      'list/a_',
      'list/b-/x',
      'list/b/x',
      'list/b/y/z',
      'list/b~',
    ],
    'list/z/deep/deeper/deepest',
  ].sort()

  const page = async (prefix: string, after: string, limit: number): Promise<string[]> => {
    const found: ArchivedKey[] = await store().listFrom(prefix, after, limit)
    assert.ok(found.length <= limit, `${found.length} keys of at most ${limit}`)
    assert.ok(found.every(({ sizeBytes }) => sizeBytes === 1))
    return found.map(({ key }) => key)
  }

  test('keys are listed at once, in byte order, above `after`, by prefix, in pages', async () => {
    await inParallel(keys, (key) => store().putIfAbsent(key, body('x')))
    assert.deepEqual(await page('list/', '', 10_000), keys)
    for (const prefix of [
      'list/b',
      'list/b/',
      'list/a',
      'list/many/01',
      'list/z/deep/d',
      'list/none',
      'list/many/0123',
    ]) {
      const wanted = keys.filter((key) => key.startsWith(prefix))
      assert.deepEqual(await page(prefix, '', 10_000), wanted, prefix)
      for (const limit of [1, 7, 100]) {
        const paged: string[] = []
        for (;;) {
          const next = await page(prefix, paged.at(-1) ?? '', limit)
          paged.push(...next)
          // Whoever lists takes a page that is not full for the last one.
          if (next.length < limit) break
        }
        assert.deepEqual(paged, wanted, `${prefix} in pages of ${limit}`)
      }
    }
  })

  test('`after` need not be a key, nor have the prefix', async () => {
    for (const after of [
      'list/a',
      'list/a-',
      'list/a.',
      'list/a/',
      'list/b/y',
      'list/b0',
      'list/many/0123x',
      'a',
      'zz',
      '~',
    ]) {
      const wanted = keys.filter((key) => key > after).slice(0, 5)
      assert.deepEqual(await page('list/', after, 5), wanted, after)
    }
    assert.deepEqual(await page('list/b/', 'list/a', 10), ['list/b/x', 'list/b/y/z'])
  })
}

function manyNames(store: Store, count: number): void {
  test(`${count} names are listed in pages, from any of them on`, async () => {
    // Characters that sort below and above the / that divides parts: a listing by folders gets their order wrong.
    const odd = ['-', '.x', '/0', '/~', '0', '_', '~', '--/a', '.y/a', '~~/a']
    const keys = Array.from({ length: count }, (_, i) => {
      const number = String(Math.floor(i / odd.length)).padStart(5, '0')
      return `names/n${number}${odd[i % odd.length]}`
    }).sort()
    await inParallel(keys, (key) => store().putIfAbsent(key, body('x')))
    const paged: string[] = []
    for (;;) {
      const next = await store().listFrom('names/', paged.at(-1) ?? '', 999)
      assert.ok(next.length <= 999)
      paged.push(...next.map(({ key }) => key))
      if (next.length < 999) break
    }
    assert.deepEqual(paged, keys)
    for (const at of [0, 998, 1000, count - 3].filter((i) => i >= 0 && i < count)) {
      const found = await store().listFrom('names/', keys[at] ?? '', 2)
      assert.deepEqual(
        found.map(({ key }) => key),
        keys.slice(at + 1, at + 3),
      )
    }
    const gone = keys.slice(0, odd.length + 1)
    await inParallel(gone, (key) => store().delete(key))
    assert.equal((await store().listFrom('names/', '', 1))[0]?.key, keys[gone.length])
  })
}

/** Sixteen at a time. */
async function inParallel(keys: readonly string[], work: (key: string) => Promise<void>): Promise<void> {
  let next = 0
  const worker = async (): Promise<void> => {
    for (let key = keys[next++]; key !== undefined; key = keys[next++]) await work(key)
  }
  await Promise.all(Array.from({ length: WRITERS }, worker))
}

function deletions(store: Store): void {
  test('a deleted object is gone at once; deleting is idempotent', async () => {
    await store().putIfAbsent('delete/a', body('x'))
    await store().putIfAbsent('delete/b', body('x'))
    await store().delete('delete/a')
    await store().delete('delete/a')
    await store().delete('delete/never/was')
    assert.equal(await store().head('delete/a'), null)
    await assert.rejects(store().readRange('delete/a', 0, 1), code('object_not_found'))
    assert.deepEqual(await store().listFrom('delete/', '', 10), [{ key: 'delete/b', sizeBytes: 1 }])
    await store().putIfAbsent('delete/a', body('again'))
    assert.equal((await store().head('delete/a'))?.sizeBytes, 5)
  })
}
