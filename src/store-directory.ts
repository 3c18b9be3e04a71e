import type { StoreDirectory } from './ledger/context.js'
import { present } from './model/assert.js'
import { isStratalogError, StratalogError } from './model/errors.js'
import type { SystemPorts } from './options.js'
import type { Clock } from './ports/clock.js'
import type { Logger } from './ports/logger.js'
import type { SegmentStore, StoreStatus } from './ports/segment-store.js'
import { openLocalStore } from './store/local/store.js'
import { absentStore } from './store-absent.js'

/** How long a store may take to say how it is before a new ledger is placed without it. */
const STATUS_TIMEOUT_MS = 5_000

export interface LocalDirectoryOptions extends SystemPorts {
  readonly logId: string
  readonly fileBytes: number
  /** Make the stores where there are none. */
  readonly create: boolean
}

/** The local segment stores of a log, one a directory. */
export class LocalDirectory implements StoreDirectory {
  readonly #stores: readonly SegmentStore[]
  readonly #clock: Clock
  readonly #logger: Logger
  #next = 0

  private constructor(stores: readonly SegmentStore[], clock: Clock, logger: Logger) {
    this.#stores = stores
    this.#clock = clock
    this.#logger = logger
  }

  /**
   * Opens all of them. One that is lost or damaged is stood in for, so that the others' copies can be read; one that
   * is somebody else's or of a newer version is an error, and what was opened is closed again.
   */
  static async open(directories: readonly string[], options: LocalDirectoryOptions): Promise<LocalDirectory> {
    const { logId, fileBytes, create, disk, clock, random, logger } = options
    const results = await Promise.allSettled(
      directories.map((directory) =>
        openLocalStore({ directory, logId, fileBytes, create, disk, clock, random, logger }),
      ),
    )
    const opened = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
    const lost = results.flatMap((result, i) =>
      result.status === 'rejected'
        ? [{ directory: present(directories[i], 'directory'), error: result.reason as unknown }]
        : [],
    )
    const fatal = lost.find(({ error }) => create || opened.length === 0 || !mayBeAbsent(error))
    const twice = new Set(opened.map((store) => store.id)).size < opened.length
    if (fatal === undefined && !twice) {
      const absent = lost.map(({ directory, error }) => {
        logger.error(
          { err: error, directory },
          'a store is not there: its copies are unreachable, the log goes on with the others',
        )
        return absentStore(directory, error as StratalogError)
      })
      return new LocalDirectory([...opened, ...absent], clock, logger)
    }
    await Promise.allSettled(opened.map((store) => store.close()))
    if (fatal !== undefined) throw fatal.error
    throw new StratalogError(
      'config_invalid',
      `two of the stores ${directories.join(', ')} are the same directory: name each once`,
      { found: directories },
    )
  }

  get(id: string): SegmentStore | null {
    return this.#stores.find((store) => store.id === id) ?? null
  }

  all(): readonly SegmentStore[] {
    return this.#stores
  }

  /** Those that take writes, beginning with another one each time, so that ledgers spread. */
  async writable(): Promise<SegmentStore[]> {
    const states = await Promise.all(
      this.#stores.map(async (store) => ({ store, state: await this.#stateOf(store) })),
    )
    const writable = states.filter(({ state }) => state === 'writable').map(({ store }) => store)
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

/** What a lost or damaged disk says, as against a mistake in the configuration. */
function mayBeAbsent(error: unknown): boolean {
  const codes = ['file_not_found', 'corrupt', 'io_failed', 'access_denied'] as const
  return codes.some((code) => isStratalogError(error, code))
}
