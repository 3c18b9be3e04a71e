import type { StoreDirectory } from './ledger/context.js'
import { StratalogError } from './model/errors.js'
import type { SystemPorts } from './options.js'
import type { SegmentStore } from './ports/segment-store.js'
import { openLocalStore } from './store/local/store.js'

export interface LocalDirectoryOptions extends SystemPorts {
  readonly logId: string
  readonly fileBytes: number
  /** Make the stores where there are none. */
  readonly create: boolean
}

/** The local segment stores of a log, one a directory. */
export class LocalDirectory implements StoreDirectory {
  readonly #stores: readonly SegmentStore[]
  #next = 0

  private constructor(stores: readonly SegmentStore[]) {
    this.#stores = stores
  }

  /** Opens all of them; what was opened is closed again where one fails. */
  static async open(directories: readonly string[], options: LocalDirectoryOptions): Promise<LocalDirectory> {
    const { logId, fileBytes, create, disk, clock, random, logger } = options
    const results = await Promise.allSettled(
      directories.map((directory) =>
        openLocalStore({ directory, logId, fileBytes, create, disk, clock, random, logger }),
      ),
    )
    const opened = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
    const failed = results.find((result) => result.status === 'rejected')
    const twice = new Set(opened.map((store) => store.id)).size < opened.length
    if (failed === undefined && !twice) return new LocalDirectory(opened)
    await Promise.allSettled(opened.map((store) => store.close()))
    if (failed?.status === 'rejected') throw failed.reason
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
      this.#stores.map(async (store) => ({ store, state: (await store.status()).state })),
    )
    const writable = states.filter(({ state }) => state === 'writable').map(({ store }) => store)
    this.#next = (this.#next + 1) % Math.max(1, writable.length)
    return [...writable.slice(this.#next), ...writable.slice(0, this.#next)]
  }

  async close(): Promise<void> {
    await Promise.all(this.#stores.map((store) => store.close()))
  }
}
