import { bookieAddress } from '../../format/bookie-service-info.js'
import type { Clock, Timer } from '../../ports/clock.js'
import type { Logger } from '../../ports/logger.js'
import type { ZooKeeper } from '../../zookeeper/client.js'

const READ_ONLY = 'readonly'
/** After a read that failed. Until it succeeds what was known stays: a bookie that can't be looked up is not gone. */
const RETRY_MS = 1_000

/** One bookie that is up. */
export interface BookieInfo {
  /** What ensembles name. */
  readonly id: string
  readonly host: string
  readonly port: number
  /** Takes no new entries, but for recovery. */
  readonly readOnly: boolean
  /** `/region/rack`, where the mapping names it. */
  readonly rack?: string
}

/** What a registry is opened with. */
export interface BookieRegistryOptions {
  readonly ledgersPath: string
  readonly clock: Clock
  readonly logger: Logger
  /** The rack of a bookie, by id or else host. */
  readonly rackOf?: (id: string, host: string) => string | undefined
}

/** The bookies of a cluster, kept up to date by watches, also over sessions. */
export class BookieRegistry {
  readonly #zk: ZooKeeper
  readonly #options: BookieRegistryOptions
  readonly #available: string
  readonly #listeners = new Set<() => void>()
  #bookies: readonly BookieInfo[] = []
  /** Something may have changed since the last read began. */
  #dirty = false
  #reading = false
  #retry: Timer | null = null
  #closed = false

  /** Reads the bookies once; fails if ZooKeeper can't be asked. */
  static async open(zk: ZooKeeper, options: BookieRegistryOptions): Promise<BookieRegistry> {
    const registry = new BookieRegistry(zk, options)
    registry.#bookies = await registry.#read()
    return registry
  }

  private constructor(zk: ZooKeeper, options: BookieRegistryOptions) {
    this.#zk = zk
    this.#options = options
    this.#available = `${options.ledgersPath}/available`
  }

  /** Those that take new entries, by id. */
  writable(): readonly BookieInfo[] {
    return this.#bookies.filter((bookie) => !bookie.readOnly)
  }

  /** Those that are up, by id. */
  all(): readonly BookieInfo[] {
    return this.#bookies
  }

  /** Every bookie that belongs to the cluster, up or not: the ids in `cookies`. */
  async known(): Promise<readonly string[]> {
    const found = await this.#zk.children(`${this.#options.ledgersPath}/cookies`)
    return [...(found?.names ?? [])].sort()
  }

  /** Calls `listener` after each change, until `close` of what it returns. */
  changed(listener: () => void): { close(): void } {
    const call = (): void => listener()
    this.#listeners.add(call)
    return { close: () => this.#listeners.delete(call) }
  }

  close(): void {
    this.#closed = true
    this.#retry?.cancel()
    this.#listeners.clear()
  }

  readonly #look = (): void => {
    this.#dirty = true
    if (!this.#reading) this.#refresh().catch(() => undefined)
  }

  /** One read at a time; what changes meanwhile is read after it. */
  async #refresh(): Promise<void> {
    this.#reading = true
    try {
      while (this.#dirty && !this.#closed) {
        this.#dirty = false
        const bookies = await this.#read()
        const same = JSON.stringify(bookies) === JSON.stringify(this.#bookies)
        this.#bookies = bookies
        if (!same && !this.#closed) for (const listener of [...this.#listeners]) listener()
      }
    } catch (error) {
      if (this.#closed) return
      this.#options.logger.warn({ error }, 'the bookies could not be read: the last ones known stay')
      this.#retry?.cancel()
      this.#retry = this.#options.clock.setTimer(RETRY_MS, this.#look)
    } finally {
      this.#reading = false
    }
  }

  async #read(): Promise<BookieInfo[]> {
    const [writable, readOnly] = await Promise.all([
      this.#folder(this.#available, false),
      this.#folder(`${this.#available}/${READ_ONLY}`, true),
    ])
    // One that is just moving from the one to the other may be in both: it takes no new entries.
    const byId = new Map([...writable, ...readOnly].map((bookie) => [bookie.id, bookie]))
    return [...byId.values()].sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  async #folder(path: string, readOnly: boolean): Promise<BookieInfo[]> {
    const watch = this.#look
    // `exists` waits for a folder that is not there yet: a cluster that has just begun has no read-only bookie.
    const names =
      (await this.#zk.children(path, watch))?.names ??
      ((await this.#zk.exists(path, watch)) === null ? [] : (await this.#zk.children(path, watch))?.names) ??
      []
    const ids = names.filter((name) => name !== READ_ONLY)
    const found = await Promise.all(ids.map((id) => this.#bookie(path, id, readOnly)))
    return found.filter((bookie) => bookie !== null)
  }

  async #bookie(path: string, id: string, readOnly: boolean): Promise<BookieInfo | null> {
    const node = await this.#zk.get(`${path}/${id}`)
    // Gone since: the watch on the folder calls.
    if (node === null) return null
    const address = this.#address(id, node.data)
    if (address === null) return null
    const rack = this.#options.rackOf?.(id, address.host)
    return { id, ...address, readOnly, ...(rack === undefined ? {} : { rack }) }
  }

  #address(id: string, data: Uint8Array): { readonly host: string; readonly port: number } | null {
    try {
      const address = bookieAddress(id, data)
      if (address === null)
        this.#options.logger.warn({ bookie: id }, 'a bookie does not say where it listens')
      return address
    } catch (error) {
      this.#options.logger.warn({ bookie: id, error }, 'what a bookie says of itself can not be read')
      return bookieAddress(id, new Uint8Array(0))
    }
  }
}
