import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { present } from '../../../src/model/assert.js'
import { isStratalogError } from '../../../src/model/errors.js'
import type { ArchiveStore } from '../../../src/ports/archive-store.js'
import { bodyOf } from '../../helpers/archive.js'
import {
  type FaultProxy,
  HTML_PAGE,
  LOST_ANSWER,
  type ProxyFault,
  SLOW_DOWN,
} from '../../helpers/fault-proxy.js'

/** A store behind a proxy. */
export interface FaultedArchive {
  /** Reaches its server through the proxy only. */
  readonly store: ArchiveStore
  /** The same archive, beside the proxy: what is truly there. */
  readonly direct: ArchiveStore
  readonly proxy: FaultProxy
  cleanup(): Promise<void>
}

/** What differs between engines. */
export interface ArchiveFaultOptions {
  /** The longest that one call may take, whatever happens to its requests. */
  readonly limitMs: number
}

/** More than a buffer of a socket holds, so that there is a middle to fail in. */
const SIZE = 700_000
const DATA = createHash('shake256', { outputLength: SIZE }).update('faults').digest()
const RANGE = { offset: 1000, length: 300_000 }
const ALWAYS = Number.POSITIVE_INFINITY
/** Most of the time is spent in waiting for what stalls, so several are had at once, each behind a proxy of its own. */
const AT_ONCE = 4
/** No call needs more requests than this. */
const REQUESTS_MAX = 40

/** One thing that happens to one request. What an engine can't notice is not among them. */
const FAULTS: readonly (readonly [name: string, fault: ProxyFault])[] = [
  ['reset before it is sent', { kind: 'reset', at: 'request' }],
  ['reset half way up', { kind: 'reset', at: 'request', afterBytes: 300_000 }],
  ['reset half way down', { kind: 'reset', at: 'response', afterBytes: 10 }],
  ['stalled before it is sent', { kind: 'stall', at: 'request' }],
  ['stalled half way up', { kind: 'stall', at: 'request', afterBytes: 300_000 }],
  ['stalled before the answer', { kind: 'stall', at: 'response' }],
  ['stalled half way down', { kind: 'stall', at: 'response', afterBytes: 10 }],
  ['an answer that is cut', { kind: 'cut', afterBytes: 10 }],
  ['an answer that is shorter and says so', { kind: 'resize', byBytes: -1 }],
  ['an answer that is longer and says so', { kind: 'resize', byBytes: 1 }],
  ['a body changed on its way up', { kind: 'flip', at: 'request', atByte: 350_000 }],
  ['the answer lost', LOST_ANSWER],
  ['a page with status 200', HTML_PAGE],
  ['a slow-down', SLOW_DOWN],
  ['an error of a gateway', { kind: 'answer', status: 502, body: '<html>Bad Gateway</html>' }],
]

/** What can happen to every request for a long time. */
const LASTING = [
  'reset before it is sent',
  'stalled before the answer',
  'a page with status 200',
  'a slow-down',
]

/** A call, what it must have come to, and what must be there afterwards. */
interface Operation {
  readonly name: string
  /** Changes nothing: what was prepared once is there for every call. */
  readonly reads?: boolean
  prepare(archive: FaultedArchive, key: string): Promise<void>
  run(store: ArchiveStore, key: string): Promise<unknown>
  /** Looks at what a call that succeeded returned and did. */
  succeeded(archive: FaultedArchive, key: string, result: unknown): Promise<void>
  /** Looks at what a call that failed left behind. */
  failed(archive: FaultedArchive, key: string): Promise<void>
}

/**
 * Under each fault, at each request that a call makes: it succeeds truly, or fails as `archive_unavailable` in time, and
 * the caller's next try comes to the right end. Never a partial or wrong object (invariant 6), never a wrong answer
 * (invariant 8), and never `object_exists` for one's own lost success.
 */
export function archiveFaults(
  open: () => Promise<FaultedArchive>,
  name: string,
  options: ArchiveFaultOptions,
): void {
  describe(`${name}: faults between an engine and its server`, { concurrency: AT_ONCE }, () => {
    const all: FaultedArchive[] = []
    const idle: FaultedArchive[] = []
    before(async () => {
      for (let i = 0; i < AT_ONCE; i += 1) all.push(await open())
      idle.push(...all)
    })
    after(async () => {
      for (const { store, direct, proxy, cleanup } of all) {
        await store.close()
        await direct.close()
        await proxy.close()
        await cleanup()
      }
    })
    /** As many tests run at once as there are archives, so that one is idle whenever a test begins. */
    const withOne = async (work: (archive: FaultedArchive) => Promise<void>): Promise<void> => {
      const archive = present(idle.pop(), 'an idle archive')
      try {
        await work(archive)
      } finally {
        archive.proxy.clear()
        idle.push(archive)
      }
    }
    for (const operation of OPERATIONS) {
      for (const [what, fault] of FAULTS) {
        test(`${operation.name}: ${what}, at each of its requests`, () =>
          withOne((archive) => eachRequest(archive, operation, fault, options)))
      }
      test(`${operation.name}: what lasts has a name and an end`, () =>
        withOne((archive) => lasting(archive, operation, options)))
    }
  })
}

let keys = 0
const newKey = (): string => `faults/k${String(keys++).padStart(6, '0')}`

/** What calls that only read were prepared with. */
const prepared = new WeakMap<FaultedArchive, Map<string, string>>()

async function keyFor(archive: FaultedArchive, operation: Operation): Promise<string> {
  const keys = prepared.get(archive) ?? new Map<string, string>()
  prepared.set(archive, keys)
  const key = keys.get(operation.name) ?? newKey()
  if (!keys.has(operation.name)) await operation.prepare(archive, key)
  if (operation.reads === true) keys.set(operation.name, key)
  return key
}

async function eachRequest(
  archive: FaultedArchive,
  operation: Operation,
  fault: ProxyFault,
  options: ArchiveFaultOptions,
): Promise<void> {
  for (let nth = 1; ; nth += 1) {
    assert.ok(nth < REQUESTS_MAX, `a call makes more than ${REQUESTS_MAX} requests`)
    const key = await keyFor(archive, operation)
    const injection = archive.proxy.inject({ nth }, fault)
    await suffered(archive, operation, key, options)
    injection.remove()
    if (injection.hits === 0) return
  }
}

async function lasting(
  archive: FaultedArchive,
  operation: Operation,
  options: ArchiveFaultOptions,
): Promise<void> {
  for (const [what, fault] of FAULTS.filter(([name]) => LASTING.includes(name))) {
    const key = await keyFor(archive, operation)
    const injection = archive.proxy.inject({ times: ALWAYS }, fault)
    assert.equal(await suffered(archive, operation, key, options), false, `${what} can't be overcome`)
    injection.remove()
    assert.ok(injection.hits > 0)
  }
}

/** Makes the call and looks at what came of it; the caller's next try, without faults, must come to the right end. */
async function suffered(
  archive: FaultedArchive,
  operation: Operation,
  key: string,
  options: ArchiveFaultOptions,
): Promise<boolean> {
  const began = archive.proxy.requests.length
  const requests = (): string =>
    archive.proxy.requests
      .slice(began)
      .map(({ method, path, status, fault }) => `${method} ${path} ${status} ${fault ?? ''}`)
      .join('\n')
  let result: unknown
  try {
    result = await inTime(operation.run(archive.store, key), options.limitMs)
  } catch (error) {
    assert.ok(isStratalogError(error, 'archive_unavailable'), `${described(error)}\n${requests()}`)
    assert.ok(error.retryable, 'it can be tried again')
    await operation.failed(archive, key)
    archive.proxy.clear()
    await againAfter(archive, operation, key)
    return false
  }
  archive.proxy.clear()
  try {
    await operation.succeeded(archive, key, result)
  } catch (error) {
    throw new Error(`${described(error)}\n${requests()}`, { cause: error })
  }
  return true
}

const described = (error: unknown): string =>
  isStratalogError(error) ? `${error.code}: ${error.message}` : String(error)

/** Each connection that the faults left half dead may cost one more call, for which no try is left: six at most. */
async function againAfter(
  archive: FaultedArchive,
  operation: Operation,
  key: string,
  triesLeft = 5,
): Promise<void> {
  try {
    await operation.succeeded(archive, key, await operation.run(archive.store, key))
  } catch (error) {
    if (isStratalogError(error) && error.retryable && triesLeft > 0)
      return againAfter(archive, operation, key, triesLeft - 1)
    // The call that failed may have stored the object: this one is another's then, and must find it whole.
    if (!isStratalogError(error, 'object_exists')) throw error
    await isWhole(archive, key)
  }
}

async function inTime<T>(work: Promise<T>, limitMs: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`the call did not end within ${limitMs} ms`)), limitMs)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

async function isWhole({ direct }: FaultedArchive, key: string): Promise<void> {
  assert.deepEqual(await direct.head(key), { key, sizeBytes: SIZE })
  assert.ok(DATA.equals(await direct.readRange(key, 0, SIZE + 1)), 'the bytes are those that were stored')
}

const stored = ({ direct }: FaultedArchive, key: string): Promise<void> =>
  direct.putIfAbsent(key, bodyOf(DATA))

const unchanged = (archive: FaultedArchive, key: string): Promise<void> => isWhole(archive, key)

const OPERATIONS: readonly Operation[] = [
  {
    name: 'putIfAbsent',
    prepare: async () => undefined,
    run: (store, key) => store.putIfAbsent(key, bodyOf(DATA)),
    succeeded: (archive, key) => isWhole(archive, key),
    failed: async (archive, key) => {
      if ((await archive.direct.head(key)) !== null) await isWhole(archive, key)
    },
  },
  {
    name: 'head',
    reads: true,
    prepare: stored,
    run: (store, key) => store.head(key),
    succeeded: async (archive, key, result) => {
      assert.deepEqual(result, { key, sizeBytes: SIZE })
      await unchanged(archive, key)
    },
    failed: unchanged,
  },
  {
    name: 'head of what is not there',
    reads: true,
    prepare: async () => undefined,
    run: (store, key) => store.head(key),
    succeeded: async (_, __, result) => assert.equal(result, null),
    failed: async () => undefined,
  },
  {
    name: 'readRange',
    reads: true,
    prepare: stored,
    run: (store, key) => store.readRange(key, RANGE.offset, RANGE.length),
    succeeded: async (_, __, result) => {
      const wanted = DATA.subarray(RANGE.offset, RANGE.offset + RANGE.length)
      assert.ok(result instanceof Uint8Array && wanted.equals(result), 'exactly the bytes')
    },
    failed: unchanged,
  },
  {
    name: 'listFrom',
    reads: true,
    prepare: async (archive, key) => {
      for (const i of [1, 2, 3]) await archive.direct.putIfAbsent(`${key}/${i}`, bodyOf('x'))
    },
    run: (store, key) => store.listFrom(`${key}/`, `${key}/1`, 10),
    succeeded: async (_, key, result) =>
      assert.deepEqual(
        result,
        [2, 3].map((i) => ({ key: `${key}/${i}`, sizeBytes: 1 })),
      ),
    failed: async () => undefined,
  },
  {
    name: 'delete',
    prepare: stored,
    run: (store, key) => store.delete(key),
    succeeded: async ({ direct }, key) => assert.equal(await direct.head(key), null),
    failed: async (archive, key) => {
      if ((await archive.direct.head(key)) !== null) await isWhole(archive, key)
    },
  },
]
