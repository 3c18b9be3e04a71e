import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathOf } from './cache.js'
import { jvm, writeLogging } from './jvm.js'
import { freePorts } from './ports.js'
import { type Daemon, Household, withRetry } from './process.js'
import { type ZooKeeperServer, zooKeeperIn } from './zookeeper.js'

const BOOKIE = 'org.apache.bookkeeper.server.Main'
const SHELL = 'org.apache.bookkeeper.bookie.BookieShell'

/** What bookies of a test are. */
export interface BookiesOptions {
  /** @default 3 */
  readonly count?: number
  /** One that runs already, with a ledger tree of its own for these bookies; else one is started with them. */
  readonly zookeeper?: ZooKeeperServer
  /** Where the ledgers' metadata is. @default '/ledgers' */
  readonly ledgersPath?: string
  /**
   * A bookie that was killed leaves `available` after this, and comes back no sooner. Short where a test kills or stops
   * bookies; else longer than any pause of a busy machine, which would take a bookie away that nobody touched.
   *
   * @default 30_000
   */
  readonly sessionMs?: number
  /** Java's auditor and replication workers run in each bookie. @default false */
  readonly autorecovery?: boolean
  /** Further properties of each bookie, such as those of TLS. */
  readonly config?: Readonly<Record<string, string | number | boolean>>
  /** Compiles hot code thoroughly, with more memory: starts slower and runs faster, for benchmarks. @default false */
  readonly optimize?: boolean
}

/** One bookie of a test. */
export interface BookieServer {
  /** `127.0.0.1:PORT`, what ensembles name. */
  readonly id: string
  readonly port: number
  /** kill -9. It stays in `available` until its session ends. */
  kill(): Promise<void>
  /** SIGSTOP: it takes connections and answers nothing, until `resume`. */
  pause(): void
  /** One that hung for longer than its session may end itself or stay out of `available`: `restart` it instead. */
  resume(): void
  /**
   * Again after `kill`, or killed and started again: same data, same port. Resolves when it is in `available` anew, which
   * takes as long as the session that it had lives on.
   */
  restart(): Promise<void>
}

/** A BookKeeper cluster of a test, on 127.0.0.1. */
export interface Bookies {
  readonly bookies: readonly BookieServer[]
  readonly zk: Omit<ZooKeeperServer, 'stop'>
  readonly ledgersPath: string
  /** Another bookie, empty. */
  add(): Promise<BookieServer>
  /** Kills and starts again the bookies with these ids, all at once, and waits until all that weren't killed are in `available`. */
  restart(ids: readonly string[]): Promise<void>
  /** Carries out a command of BookKeeper's shell; rejects where it fails, with what it said last. */
  shell(...command: string[]): Promise<void>
  /** Ends all that was started here and removes its data. */
  stop(): Promise<void>
}

/** Starts bookies 4.17.3, and ZooKeeper unless one is given: about 6 s with three on two cores. */
export function startBookies(options: BookiesOptions = {}): Promise<Bookies> {
  return withRetry(() => BookieCluster.start(options))
}

class BookieCluster implements Bookies {
  readonly bookies: BookieServer[] = []
  readonly zk: Omit<ZooKeeperServer, 'stop'>
  readonly ledgersPath: string
  readonly #house: Household
  readonly #jars: string
  readonly #options: BookiesOptions
  /** Ports of those that were killed and not started again. */
  readonly #killed = new Set<number>()

  private constructor(house: Household, jars: string, options: BookiesOptions, zk: BookieCluster['zk']) {
    this.#house = house
    this.#jars = jars
    this.#options = options
    this.zk = zk
    this.ledgersPath = options.ledgersPath ?? '/ledgers'
  }

  static async start(options: BookiesOptions): Promise<BookieCluster> {
    const jars = await pathOf('bookkeeper')
    const house = new Household('bk')
    try {
      const zk = options.zookeeper ?? (await zooKeeperIn(house))
      const cluster = new BookieCluster(house, jars, options, zk)
      const ports = await freePorts(options.count ?? 3)
      for (const port of ports) cluster.#make(port)
      // The shell waits for ZooKeeper by itself: both start at once.
      const [formatted] = cluster.bookies
      const shell = formatted === undefined ? undefined : cluster.#format(formatted.port)
      if (options.zookeeper === undefined) await zk.restart()
      await shell
      await Promise.all(cluster.bookies.map((bookie) => bookie.restart()))
      return cluster
    } catch (error) {
      await house.close()
      throw error
    }
  }

  async add(): Promise<BookieServer> {
    const [port = 0] = await freePorts(1)
    const bookie = this.#make(port)
    await bookie.restart()
    return bookie
  }

  async restart(ids: readonly string[]): Promise<void> {
    const again = this.bookies.filter(({ id }) => ids.includes(id))
    await Promise.all(again.map((bookie) => bookie.restart()))
    const up = this.bookies.filter(({ port }) => !this.#killed.has(port))
    const sessions = async () => Promise.all(up.map(({ port }) => this.#session(port)))
    const all = async (): Promise<boolean> => !(await sessions()).includes(undefined)
    await this.#house.until('every bookie', all, 60_000, [])
  }

  stop(): Promise<void> {
    return this.#house.close()
  }

  #make(port: number): BookieServer {
    const name = `b${port}`
    const conf = this.#write(port)
    let daemon: Daemon | undefined
    const bookie = {
      id: `127.0.0.1:${port}`,
      port,
      kill: async () => {
        this.#killed.add(port)
        await daemon?.kill()
      },
      pause: () => daemon?.signal('SIGSTOP'),
      resume: () => daemon?.signal('SIGCONT'),
      restart: async () => {
        await daemon?.kill()
        const before = await this.#session(port)
        const begun = this.#house.start(name, [...this.#java(conf), BOOKIE, '--conf', join(conf, 'bk.conf')])
        daemon = begun
        this.#killed.delete(port)
        const ready = async (): Promise<boolean> => {
          const session = await this.#session(port)
          return session !== undefined && session !== before
        }
        await this.#house.until(`bookie ${port}`, ready, 90_000, [begun])
      },
    }
    this.bookies.push(bookie)
    return bookie
  }

  /** The ZooKeeper session by which a bookie is in `available`. */
  async #session(port: number): Promise<string | undefined> {
    const path = `${this.ledgersPath}/available/127.0.0.1:${port}`
    let session: string | undefined
    for (const line of (await this.zk.ask('dump')).split('\n')) {
      session = /^(0x[0-9a-f]+):$/.exec(line)?.[1] ?? session
      if (line.trim() === path) return session
    }
    return undefined
  }

  /** What `initnewcluster` makes is BookKeeper's own, to the byte. */
  #format(port: number): Promise<void> {
    return this.#run(port, 'initnewcluster')
  }

  shell(...command: string[]): Promise<void> {
    return this.#run(this.bookies[0]?.port ?? 0, ...command)
  }

  async #run(port: number, ...args: string[]): Promise<void> {
    const conf = join(this.#house.directory, `b${port}`, 'conf')
    const patient = join(conf, 'shell.conf')
    // It waits for ZooKeeper as long as a session would last: a busy machine needs longer than sessions of a test.
    const text = readFileSync(join(conf, 'bk.conf'), 'utf8').replace(/^zkTimeout=.*$/m, 'zkTimeout=60000')
    writeFileSync(patient, text)
    const command = [...this.#java(conf), SHELL, '-conf', patient, ...args]
    const daemon = this.#house.start(`shell-${args[0]}`, command)
    await daemon.ended()
    if (daemon.exitCode !== 0) throw new Error(`${args.join(' ')}: ${daemon.tail()}`)
  }

  #java(conf: string): string[] {
    const { optimize = false } = this.#options
    const classPath = [join(this.#jars, '*')]
    const memory = optimize ? { heapMb: 512, directMb: 1024 } : { heapMb: 192, directMb: 192 }
    return jvm({ classPath, logging: join(conf, 'log4j2.xml'), optimize, ...memory })
  }

  #write(port: number): string {
    const home = join(this.#house.directory, `b${port}`)
    const conf = join(home, 'conf')
    for (const name of ['conf', 'journal', 'ledgers']) mkdirSync(join(home, name), { recursive: true })
    writeLogging(conf)
    const properties = { ...this.#properties(home, port), ...this.#options.config }
    const lines = Object.entries(properties).map(([name, value]) => `${name}=${value}`)
    writeFileSync(join(conf, 'bk.conf'), `${lines.join('\n')}\n`)
    return conf
  }

  #properties(home: string, port: number): Readonly<Record<string, string | number | boolean>> {
    const { optimize = false, autorecovery = false, sessionMs = 30_000 } = this.#options
    return {
      metadataServiceUri: `zk+hierarchical://${this.zk.address}${this.ledgersPath}`,
      bookiePort: port,
      advertisedAddress: '127.0.0.1',
      listeningInterface: 'lo',
      allowLoopback: true,
      useHostNameAsBookieID: false,
      zkTimeout: sessionMs,
      journalDirectories: join(home, 'journal'),
      ledgerDirectories: join(home, 'ledgers'),
      // Stock journals are 2 GB files, five of them kept, for each bookie.
      journalMaxSizeMB: optimize ? 512 : 64,
      journalMaxBackups: optimize ? 1 : 0,
      journalPreAllocSizeMB: optimize ? 16 : 4,
      journalSyncData: true,
      journalMaxGroupWaitMSec: 2,
      logSizeLimit: optimize ? 256 << 20 : 64 << 20,
      skipListSizeLimit: optimize ? 64 << 20 : 16 << 20,
      entryLogFilePreallocationEnabled: false,
      gcWaitTime: 60_000,
      diskUsageThreshold: 0.98,
      diskUsageWarnThreshold: 0.97,
      httpServerEnabled: false,
      enableStatistics: false,
      autoRecoveryDaemonEnabled: autorecovery,
      // Ledgers that nobody closed are taken over by the replication worker after 30 s in a real cluster.
      openLedgerRereplicationGracePeriod: 2000,
      ...(optimize
        ? {}
        : { serverNumIOThreads: 2, numReadWorkerThreads: 2, numHighPriorityWorkerThreads: 1 }),
    }
  }
}
