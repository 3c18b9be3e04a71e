import type { StoreFacts, StorePlace } from '../../tiering/store-facts.js'
import type { StoreDirectory } from '../ledger/context.js'
import { present } from '../model/assert.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { SystemPorts } from '../options.js'
import type { Clock } from '../ports/clock.js'
import type { Logger } from '../ports/logger.js'
import type { SegmentStore, StoreStatus } from '../ports/segment-store.js'
import { openLocalStore } from '../store/local/store.js'
import { readSuperblock } from '../store/local/superblock.js'
import { absentStore } from './absent.js'

/** How long a store may take to say how it is before a new ledger is placed without it. */
const STATUS_TIMEOUT_MS = 5_000

export interface LocalDirectoryOptions extends SystemPorts {
  readonly logId: string
  readonly fileBytes: number
  /** Memory of each store for its indexes; null: what is built in. */
  readonly indexBytesMax?: number | null
  /** Make the stores where there are none. */
  readonly create: boolean
  /** What is remembered of the places (tiering/store-facts.ts). @default nothing */
  readonly remembered?: Pick<StoreFacts, 'places' | 'retired' | 'out'>
  /** What to do where none of them is left, for the message that says so. */
  readonly allLost?: string
}

/** Where a store is or would be, as the configuration names it. */
export interface OpenPlace {
  readonly directory: string
  readonly at: string
  readonly store: SegmentStore
  /** The store that belongs here could not be opened: `store` stands in for it. */
  readonly absent: boolean
}

/** The local segment stores of a log, one a directory. */
export class LocalDirectory implements StoreDirectory {
  readonly #options: LocalDirectoryOptions
  #places: readonly OpenPlace[]
  #stores: readonly SegmentStore[]
  /** Take no new ledgers. */
  #out: ReadonlySet<string>
  /** Were replaced: are not opened again. */
  #retired: ReadonlySet<string>
  readonly #clock: Clock
  readonly #logger: Logger
  #next = 0

  private constructor(places: readonly OpenPlace[], options: LocalDirectoryOptions) {
    this.#options = options
    this.#places = places
    this.#stores = places.map(({ store }) => store)
    this.#out = new Set(options.remembered?.out)
    this.#retired = new Set(options.remembered?.retired)
    this.#clock = options.clock
    this.#logger = options.logger
  }

  /**
   * Opens all of them. One that is lost or damaged is stood in for, so that the others' copies can be read; one that
   * is somebody else's or of a newer version is an error, and what was opened is closed again.
   */
  static async open(directories: readonly string[], options: LocalDirectoryOptions): Promise<LocalDirectory> {
    const { create, logger } = options
    const places = directories.map((directory) => placeOf(directory, options))
    const found = await Promise.all(places.map(({ at }) => storeIdAt(at, options)))
    const known = found.flatMap((id) => id ?? [])
    if (new Set(known).size < known.length) throw sameDirectory(directories)
    const retired = new Set(options.remembered?.retired)
    const results = await Promise.allSettled(places.map(({ at }) => openAt(at, create, retired, options)))
    const opened = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
    const lost = results.flatMap((result, i) =>
      result.status === 'rejected'
        ? [{ place: present(places[i], 'place'), error: result.reason as unknown }]
        : [],
    )
    const fatal = lost.find(({ error }) => create || opened.length === 0 || !mayBeAbsent(error))
    const twice = new Set(opened.map((store) => store.id)).size < opened.length
    if (fatal === undefined && !twice) {
      const there = results.flatMap((result, i) =>
        result.status === 'fulfilled'
          ? [{ ...present(places[i], 'place'), store: result.value, absent: false }]
          : [],
      )
      // Disks may have changed places: an id that was opened elsewhere is not absent here.
      const seen = new Set(opened.map((store) => store.id))
      const absent = lost.map(({ place: { directory, at, id }, error }) => {
        logger.error(
          { err: error, directory: at },
          'a store is not there: its copies are unreachable, the log goes on with the others',
        )
        const stood = id === null || seen.has(id) ? undefined : id
        const store = absentStore(at, error as StratalogError, stood)
        return { directory, at, store, absent: true }
      })
      return new LocalDirectory([...there, ...absent], options)
    }
    await Promise.allSettled(opened.map((store) => store.close()))
    if (!create && opened.length === 0 && lost.every(({ error }) => mayBeAbsent(error)))
      throw noneLeft(
        lost.map(({ error }) => error as StratalogError),
        options.allLost ?? null,
      )
    if (fatal !== undefined) throw fatal.error
    throw sameDirectory(directories)
  }

  get(id: string): SegmentStore | null {
    return this.#stores.find((store) => store.id === id) ?? null
  }

  all(): readonly SegmentStore[] {
    return this.#stores
  }

  /** Where each is, those that are not there too. */
  places(): readonly OpenPlace[] {
    return this.#places
  }

  /** These take no new ledgers from now on. */
  takeOut(ids: readonly string[]): void {
    this.#out = new Set(ids)
  }

  /** These are not opened again, wherever they come back. */
  retire(ids: readonly string[]): void {
    this.#retired = new Set(ids)
  }

  /**
   * Opens the store in `at`, making one where there is none, in the place of one that is not there. `refused` or
   * `corrupt` where `at` holds anything else: another log's store, files of a store without its superblock.
   */
  async settle(directory: string, at: string): Promise<SegmentStore> {
    // Looked at before it is opened: a second opening would begin files anew beside the first one.
    const found = await storeIdAt(at, this.#options)
    if (found !== null && this.get(found) !== null && !this.#isAbsent(found)) {
      throw new StratalogError(
        'refused',
        `${at} is the store of another place of this log: name a new directory`,
        { found },
      )
    }
    const store = await openAt(at, true, this.#retired, this.#options)
    const others = this.#places.filter((place) => place.directory !== directory)
    // One that takes no writes any more can still be read: it goes on giving its copies until the log is closed.
    const left = this.#places.filter((place) => place.directory === directory && !place.absent)
    const leaving = [
      ...this.#stores.filter((one) => !this.#isPlaced(one)),
      ...left.map((place) => place.store),
    ]
    this.#places = [...others, { directory, at, store, absent: false }]
    this.#stores = [...this.#places.map((place) => place.store), ...leaving]
    return store
  }

  #isAbsent(id: string): boolean {
    return this.#places.some((place) => place.store.id === id && place.absent)
  }

  #isPlaced(store: SegmentStore): boolean {
    return this.#places.some((place) => place.store === store)
  }

  /** Those that take writes, beginning with another one each time, so that ledgers spread. */
  async writable(): Promise<SegmentStore[]> {
    const states = await Promise.all(
      this.#stores.map(async (store) => ({ store, state: await this.#stateOf(store) })),
    )
    const writable = states
      .filter(({ store, state }) => state === 'writable' && !this.#out.has(store.id))
      .map(({ store }) => store)
    this.#next = (this.#next + 1) % Math.max(1, writable.length)
    return [...writable.slice(this.#next), ...writable.slice(0, this.#next)]
  }

  /** One dead or hung disk must not stop new segments on the others: who does not answer is not writable. */
  #stateOf(store: SegmentStore): Promise<StoreStatus['state']> {
    return new Promise((resolve) => {
      const left = (why: unknown): void => {
        this.#logger.warn({ err: why, store: store.id }, 'a store does not say how it is')
        resolve('unreachable')
      }
      const timer = this.#clock.setTimer(STATUS_TIMEOUT_MS, () =>
        left(new StratalogError('timeout', `no answer within ${STATUS_TIMEOUT_MS} ms`, { retryable: true })),
      )
      store
        .status()
        .finally(() => timer.cancel())
        .then(({ state }) => resolve(state), left)
    })
  }

  /** Closes all of them before the first failure is thrown: a store that complains must not keep others open. */
  async close(): Promise<void> {
    const results = await Promise.allSettled(this.#stores.map((store) => store.close()))
    const failed = results.find((result) => result.status === 'rejected')
    if (failed?.status === 'rejected') throw failed.reason
  }
}

/** Where the store of a configured directory is, and which one it was. */
function placeOf(directory: string, { remembered }: LocalDirectoryOptions): StorePlace {
  const known = remembered?.places.find((place) => place.directory === directory)
  return known ?? { directory, at: directory, id: null }
}

async function openAt(
  directory: string,
  create: boolean,
  retired: ReadonlySet<string>,
  options: LocalDirectoryOptions,
): Promise<SegmentStore> {
  const found = await storeIdAt(directory, options)
  if (found !== null && retired.has(found)) {
    // Its copies are of the past: the ledgers name its successor now. Nothing of it is touched.
    throw new StratalogError(
      'file_not_found',
      `${directory} holds store ${found}, which was replaced: unmount it, so that its successor is seen again`,
      { found },
    )
  }
  const { logId, fileBytes, indexBytesMax, disk, clock, random, logger } = options
  const index = typeof indexBytesMax === 'number' ? { indexBytesMax } : {}
  return openLocalStore({ directory, logId, fileBytes, ...index, create, disk, clock, random, logger })
}

/** Which store a directory holds, without touching it; null where that can't be told: opening it says why. */
async function storeIdAt(directory: string, { disk }: LocalDirectoryOptions): Promise<string | null> {
  try {
    return (await readSuperblock(disk, directory))?.storeId ?? null
  } catch (error) {
    if (!isStratalogError(error)) throw error
    return null
  }
}

/** One code says what happened to all of them, where that is the same. */
function noneLeft(errors: readonly StratalogError[], remedy: string | null): StratalogError {
  const [first] = errors
  const { code, message } = present(first, 'error of a store')
  const all =
    errors.length === 1 ? 'its only store is not there' : `none of its ${errors.length} stores is there`
  const mend = remedy === null ? '' : `. If their disks are lost: ${remedy}`
  return new StratalogError(code, `the log can't be opened, ${all}: ${message}${mend}`, { cause: first })
}

function sameDirectory(directories: readonly string[]): StratalogError {
  return new StratalogError(
    'config_invalid',
    `two of the stores ${directories.join(', ')} are the same directory: name each once`,
    { found: directories },
  )
}

/** What a lost or damaged disk says, as against a mistake in the configuration. */
function mayBeAbsent(error: unknown): boolean {
  const codes = ['file_not_found', 'corrupt', 'io_failed', 'access_denied'] as const
  return codes.some((code) => isStratalogError(error, code))
}
