import { existsSync } from 'node:fs'
import { userInfo } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { present } from '../../src/model/assert.js'
import { pathOf } from './cache.js'
import { type DatanodePorts, type HdfsLayout, writeHdfsConfig } from './hdfs-config.js'
import { freePorts } from './ports.js'
import { type Daemon, Household, withRetry } from './process.js'

const NAMENODE = 'org.apache.hadoop.hdfs.server.namenode.NameNode'
const DATANODE = 'org.apache.hadoop.hdfs.server.datanode.DataNode'

/** What a test cluster has. */
export interface HdfsOptions {
  /** @default 1 */
  readonly datanodes?: number
  /** Copies of a block, at most one a DataNode. @default min(datanodes, 3) */
  readonly replication?: number
  /** @default 134217728 */
  readonly blockBytes?: number
  /** Compiles hot code thoroughly: starts slower and runs faster, for benchmarks. @default false */
  readonly optimize?: boolean
}

/** An HDFS cluster of a test, on 127.0.0.1: one NameNode, some DataNodes, WebHDFS. */
export interface Hdfs {
  /** `http://127.0.0.1:PORT/webhdfs/v1` */
  readonly webhdfs: string
  /** `127.0.0.1:PORT` of the NameNode's HTTP. */
  readonly namenode: string
  /** Who the files belong to; the superuser of the cluster. */
  readonly user: string
  /** Where each DataNode listens, in the order of their numbers. */
  readonly datanodes: readonly DatanodePorts[]
  /** kill -9. The NameNode hands it out for 14 s more. */
  killDatanode(i: number): Promise<void>
  /** SIGSTOP: it takes connections and answers nothing, until `contDatanode`. */
  stopDatanode(i: number): void
  contDatanode(i: number): void
  /** A killed DataNode again; resolves when the NameNode counts on it. */
  startDatanode(i: number): Promise<void>
  /** Resolves when every block has as many copies as it should: then one DataNode can be missed again. */
  replicated(): Promise<void>
  /** Read-only by hand, or no longer. */
  safeMode(on: boolean): Promise<void>
  killNamenode(): Promise<void>
  stopNamenode(): void
  contNamenode(): void
  /** The NameNode after `killNamenode`; resolves when it has left safe mode and knows `datanodes` that run. */
  startNamenode(): Promise<void>
  /** One call of WebHDFS as `user`: `await hdfs.call('PUT', '/a', 'op=MKDIRS')`. Follows no redirect. */
  call(method: string, path: string, query: string): Promise<{ status: number; body: string }>
  /** `hdfs dfsadmin …`: a JVM of its own, some seconds. */
  admin(...args: string[]): string
  close(): Promise<void>
}

/** Starts HDFS 3.4.3: about 6 s with one DataNode, 11 s with three on two cores. */
export function startHdfs(options: HdfsOptions = {}): Promise<Hdfs> {
  return withRetry(() => HdfsCluster.start(options))
}

class HdfsCluster implements Hdfs {
  readonly webhdfs: string
  readonly namenode: string
  readonly user: string
  readonly datanodes: readonly DatanodePorts[]
  readonly #layout: HdfsLayout
  readonly #house: Household
  readonly #jars: string
  readonly #compiler: number
  readonly #daemons = new Map<string, Daemon>()

  private constructor(layout: HdfsLayout, house: Household, jars: string, optimize: boolean) {
    this.#layout = layout
    this.#house = house
    this.#jars = jars
    this.#compiler = optimize ? 4 : 1
    this.datanodes = layout.datanodes
    this.user = layout.user
    this.namenode = `127.0.0.1:${layout.httpPort}`
    this.webhdfs = `http://${this.namenode}/webhdfs/v1`
  }

  static async start(options: HdfsOptions): Promise<HdfsCluster> {
    const jars = await pathOf('hdfs')
    const count = options.datanodes ?? 1
    const [rpcPort = 0, httpPort = 0, ...rest] = await freePorts(2 + 3 * count)
    const datanodes = Array.from({ length: count }, (_, i) => {
      const [data = 0, http = 0, ipc = 0] = rest.slice(3 * i)
      return { data, http, ipc }
    })
    const house = new Household('hdfs')
    const { directory } = house
    const replication = options.replication ?? Math.min(count, 3)
    const blockBytes = options.blockBytes ?? 128 << 20
    const user = userInfo().username
    const layout = { directory, rpcPort, httpPort, datanodes, blockBytes, replication, user }
    const cluster = new HdfsCluster(layout, house, jars, options.optimize ?? false)
    try {
      writeHdfsConfig(layout)
      cluster.#format()
      await cluster.#startAll()
      return cluster
    } catch (error) {
      await house.close()
      throw error
    }
  }

  #format(): void {
    this.#house.run([...this.#java('nn'), NAMENODE, '-format', '-nonInteractive', '-clusterId', 'test'])
    const version = join(this.#layout.directory, 'name', 'current', 'VERSION')
    if (!existsSync(version)) throw new Error(`formatting made no ${version}`)
  }

  async #startAll(): Promise<void> {
    this.#start('nn', NAMENODE)
    for (const i of this.datanodes.keys()) this.#start(`dn${i}`, DATANODE)
    await this.#ready()
  }

  #start(name: string, main: string): void {
    this.#daemons.set(name, this.#house.start(name, [...this.#java(name), main]))
  }

  /** Without `--add-opens` every WebHDFS call of 3.4 on Java 17 is a 500. */
  #java(name: string): string[] {
    const { directory } = this.#layout
    const home = process.env.JAVA_HOME
    return [
      home === undefined ? 'java' : join(home, 'bin', 'java'),
      ...['-Xmx256m', '-Xss512k', '-XX:+UseSerialGC', `-XX:TieredStopAtLevel=${this.#compiler}`],
      ...['--add-opens=java.base/java.lang=ALL-UNNAMED', '-Djava.net.preferIPv4Stack=true'],
      ...[`-Dhadoop.log.dir=${join(directory, 'log')}`, `-Dhadoop.home.dir=${directory}`, '-cp'],
      `${join(directory, 'conf', name)}:${join(directory, 'web')}:${join(this.#jars, '*')}`,
    ]
  }

  /** The NameNode counts a killed DataNode as live for 14 s, so each DataNode that runs is asked too. */
  async #ready(): Promise<void> {
    const running = this.datanodes.filter((_, i) => this.#daemons.get(`dn${i}`)?.running === true)
    await this.#house.until(
      'HDFS',
      async () => {
        for (const { http } of running) {
          const [bean] = await beans(`127.0.0.1:${http}`, 'Hadoop:service=DataNode,name=DataNodeInfo')
          if (!/ActorState\W+RUNNING/.test(String(bean?.BPServiceActorInfo))) return false
        }
        const [state] = await beans(this.namenode, 'Hadoop:service=NameNode,name=FSNamesystemState')
        return state?.FSState === 'Operational' && Number(state.NumLiveDataNodes) >= running.length
      },
      90_000,
      [...this.#daemons.values()].filter((daemon) => daemon.running),
    )
  }

  #daemon(name: string): Daemon {
    return present(this.#daemons.get(name), `${name} of the cluster`)
  }

  killDatanode(i: number): Promise<void> {
    return this.#daemon(`dn${i}`).kill()
  }

  stopDatanode(i: number): void {
    this.#daemon(`dn${i}`).signal('SIGSTOP')
  }

  contDatanode(i: number): void {
    this.#daemon(`dn${i}`).signal('SIGCONT')
  }

  async startDatanode(i: number): Promise<void> {
    this.#start(`dn${i}`, DATANODE)
    await this.#ready()
  }

  async replicated(): Promise<void> {
    await this.#house.until(
      'copies of all blocks',
      async () => {
        const [state] = await beans(this.namenode, 'Hadoop:service=NameNode,name=FSNamesystem')
        return state?.LowRedundancyBlocks === 0 && state.PendingReconstructionBlocks === 0
      },
      90_000,
      [...this.#daemons.values()].filter((daemon) => daemon.running),
    )
  }

  async safeMode(on: boolean): Promise<void> {
    this.admin('-safemode', on ? 'enter' : 'leave')
    for (;;) {
      const [state] = await beans(this.namenode, 'Hadoop:service=NameNode,name=FSNamesystemState')
      if ((state?.FSState === 'safeMode') === on) return
      await sleep(50)
    }
  }

  killNamenode(): Promise<void> {
    return this.#daemon('nn').kill()
  }

  stopNamenode(): void {
    this.#daemon('nn').signal('SIGSTOP')
  }

  contNamenode(): void {
    this.#daemon('nn').signal('SIGCONT')
  }

  async startNamenode(): Promise<void> {
    this.#start('nn', NAMENODE)
    await this.#ready()
  }

  async call(method: string, path: string, query: string): Promise<{ status: number; body: string }> {
    const url = `${this.webhdfs}${path}?${query}&user.name=${this.user}`
    const response = await fetch(url, { method, redirect: 'manual', signal: AbortSignal.timeout(30_000) })
    return { status: response.status, body: await response.text() }
  }

  admin(...args: string[]): string {
    return this.#house.run([...this.#java('nn'), 'org.apache.hadoop.hdfs.tools.DFSAdmin', ...args])
  }

  close(): Promise<void> {
    return this.#house.close()
  }
}

type Bean = Readonly<Record<string, unknown>>

async function beans(host: string, query: string): Promise<readonly Bean[]> {
  const response = await fetch(`http://${host}/jmx?qry=${query}`, { signal: AbortSignal.timeout(2000) })
  const { beans: found } = (await response.json()) as { beans: Bean[] }
  return found
}
