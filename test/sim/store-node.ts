import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { LedgerSeal, SegmentStore } from '../../src/ports/segment-store.js'
import { openLocalStore } from '../../src/store/local/store.js'
import { SimDisk } from './disk.js'
import type { SimOptions } from './options.js'
import type { SimRandom } from './random.js'
import { Host, HostClock, type Scheduler } from './scheduler.js'
import type { Trace } from './trace.js'

const DIRECTORY = '/store'
const REOPEN_MS = 3_000
/** Entries that a store is asked for when it opens: those it acknowledged last. */
const PROBED_MAX = 12

/** A process with one local segment store on a disk of its own: the real store, started, killed and cut off. */
export class StoreNode {
  readonly host: Host
  readonly disk: SimDisk
  readonly #scheduler: Scheduler
  readonly #random: SimRandom
  readonly #trace: Trace
  readonly #options: SimOptions
  #store: SegmentStore | null = null
  /** The id that ensembles name; another one after the disk was formatted. */
  storeId: string | null = null
  /** The store that was here before the disk was formatted. */
  lostId: string | null = null
  #opened: (() => void)[] = []
  /** Told of each entry that is durable here. */
  onAdd: (storeId: string, ledgerId: bigint, entryId: bigint) => void = () => {}
  /** Told before a ledger is deleted here. */
  onDelete: (ledgerId: bigint) => void = () => {}
  /** Entries this store acknowledged, and ledgers it deleted: what `missing` may never be said of. */
  readonly #acknowledged = new Set<string>()
  readonly #ended = new Map<bigint, bigint>()

  constructor(name: string, scheduler: Scheduler, random: SimRandom, trace: Trace, options: SimOptions) {
    this.host = new Host(name)
    this.disk = new SimDisk(name, scheduler, random.fork(), trace, options.bug)
    this.#scheduler = scheduler
    this.#random = random
    this.#trace = trace
    this.#options = options
  }

  /** Starts the process; the store opens when its disk lets it. */
  start(): void {
    this.#scheduler.start(this.host)
    this.#trace.note(`${this.host.name} starts`)
    void this.#open(this.host.instance)
  }

  get isOpen(): boolean {
    return this.#store !== null
  }

  /** Resolves when the store is open for the first time. */
  opened(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#store !== null) resolve()
      else this.#opened.push(resolve)
    })
  }

  async #open(instance: number): Promise<void> {
    const clock = new HostClock(this.#scheduler, this.host)
    try {
      const store = await openLocalStore({
        directory: DIRECTORY,
        logId: '5'.repeat(32),
        create: this.storeId === null,
        disk: this.disk.mount(this.host),
        clock,
        random: this.#random,
        logger: this.#trace.logger(this.host.name),
        fileBytes: 64 << 10,
        pendingBytesMax: this.#options.pendingBytesMax,
      })
      if (instance !== this.host.instance) return
      this.#store = store
      this.storeId = store.id
      this.#trace.note(`${this.host.name} is open`)
      for (const tell of this.#opened.splice(0)) tell()
      await this.#probe()
    } catch (error) {
      this.#trace.note(`${this.host.name} does not open: ${String(error).slice(0, 200)}`)
      if (!isStratalogError(error)) this.#trace.violate(0, `opening a store failed with ${String(error)}`)
      if (instance !== this.host.instance) return
      // As a supervisor does: what stood in the way may have gone.
      this.kill('it could not open')
      this.restartLater(REOPEN_MS)
    }
  }

  /** The process dies; its disk stays as the system has it. */
  kill(why: string): void {
    if (!this.host.up) return
    this.#trace.note(`${this.host.name} dies: ${why}`)
    this.#scheduler.kill(this.host)
    this.disk.hostDied(this.host)
    this.#store = null
  }

  /** The machine loses its power: what was not synced is lost, kept or torn. */
  cutPower(): void {
    this.kill('power cut')
    this.disk.powerCut()
  }

  /** A new file system in place of the old one: the next store there is another store. */
  format(): void {
    this.kill('formatted')
    this.disk.platter.format()
    this.lostId = this.storeId
    this.storeId = null
    this.#acknowledged.clear()
  }

  async stop(): Promise<void> {
    try {
      await this.#store?.close()
    } catch (error) {
      this.#trace.note(`${this.host.name} did not close cleanly: ${String(error).slice(0, 120)}`)
    }
    this.kill('stopped')
  }

  /** As a supervisor does with a store that takes no more writes until it is started again. */
  async restartIfPoisoned(): Promise<void> {
    if (this.#store === null || (await this.#store.status()).state !== 'poisoned') return
    this.kill('it is poisoned')
    this.restartLater(0)
  }

  restartLater(ms: number): void {
    this.#scheduler.after(ms, null, () => {
      if (!this.host.up) this.start()
    })
  }

  /** The store, for a request that has arrived. */
  served(): SegmentStore {
    const store = this.#store
    if (store === null) {
      throw new StratalogError('store_unavailable', `${this.host.name} is starting`, { retryable: true })
    }
    return store
  }

  /** Runs one request and watches what the store promises with its answer. */
  async serve(name: string, args: readonly unknown[], work: () => Promise<unknown>): Promise<unknown> {
    const [ledgerId, second] = args as [bigint, unknown]
    if (name === 'deleteLedger') {
      this.onDelete(ledgerId)
      this.#ended.set(ledgerId, -1n)
    }
    // A seal may come again, late, when the ledger is deleted.
    if (name === 'sealLedger' && !this.#ended.has(ledgerId))
      this.#ended.set(ledgerId, (second as LedgerSeal).lastEntryId)
    const done = await this.#planted(name, args, work)
    if (name === 'addEntry') {
      this.#acknowledged.add(`${ledgerId}/${String(second)}`)
      this.onAdd(this.storeId ?? '', ledgerId, second as bigint)
    }
    if (name === 'readEntry' && (done as { kind: string }).kind === 'missing') {
      const end = this.#ended.get(ledgerId)
      const known = this.#acknowledged.has(`${ledgerId}/${String(second)}`)
      if (known && (end === undefined || (second as bigint) <= end))
        this.#trace.violate(
          1,
          `${this.host.name} acknowledged entry ${String(second)} of ledger ${ledgerId} and says that it is missing`,
        )
    }
    return done
  }

  /**
   * Asks a store that has just opened for what it had acknowledged, as recovery may: it may have lost it with its disk,
   * and may say that it does not know, but not that it never had it.
   */
  async #probe(): Promise<void> {
    const instance = this.host.instance
    for (const key of [...this.#acknowledged].slice(-PROBED_MAX)) {
      const [ledgerId, entryId] = key.split('/').map((part) => BigInt(part)) as [bigint, bigint]
      if (instance !== this.host.instance) return
      const args = [ledgerId, entryId]
      try {
        await this.serve('readEntry', args, async () => this.served().readEntry(ledgerId, entryId))
      } catch (error) {
        this.#trace.note(`${this.host.name} can't tell ${key}: ${String(error).slice(0, 100)}`)
      }
    }
  }

  /** The bugs a store may have, in front of the real one. */
  async #planted(name: string, args: readonly unknown[], work: () => Promise<unknown>): Promise<unknown> {
    const { bug } = this.#options
    const store = this.served()
    const [ledgerId, entryId] = args as [bigint, bigint]
    if (bug === 'recovery-does-not-fence' || bug === 'zk-acknowledges-after-expiry') {
      if (name === 'fence') return store.readLac(ledgerId)
      if (name === 'readEntry') return store.readEntry(ledgerId, entryId)
    }
    if (bug === 'torn-tail-is-missing' && name === 'readEntry') {
      const answer = (await work()) as { kind: string }
      return answer.kind === 'suspect' ? { kind: 'missing' } : answer
    }
    return work()
  }

  /** What has to hold of the store at any time. */
  async checkBounds(): Promise<void> {
    if (this.#store === null || this.host.paused) return
    const { pendingBytes } = await this.#store.status()
    // One frame may be larger than all that may wait; marks have as much again (group-commit.ts).
    const bytesMax = 2 * this.#options.pendingBytesMax + (8 << 10)
    if (pendingBytes > bytesMax) this.#trace.violate(11, `${pendingBytes} bytes wait in ${this.host.name}`)
  }
}
