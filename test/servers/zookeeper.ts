import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathOf } from './cache.js'
import { jvm, writeLogging } from './jvm.js'
import { freePorts } from './ports.js'
import { type Daemon, Household, withRetry } from './process.js'

const MAIN = 'org.apache.zookeeper.server.ZooKeeperServerMain'
/** Of a server that is one of several. */
const MAIN_OF_PEERS = 'org.apache.zookeeper.server.quorum.QuorumPeerMain'

/** How a ZooKeeper of a test is. */
export interface ZooKeeperOptions {
  /**
   * ZooKeeper ends sessions in steps of this: a session of a dead client lives up to one tick longer than it asked for.
   *
   * @default 500
   */
  readonly tickMs?: number
  /** Further lines of `zoo.cfg`. */
  readonly config?: Readonly<Record<string, string | number | boolean>>
}

/** A ZooKeeper of a test, on 127.0.0.1, one server. */
export interface ZooKeeperServer {
  /** `127.0.0.1:PORT` */
  readonly address: string
  readonly port: number
  /** kill -9. Sessions go on when it is there again in time. */
  kill(): Promise<void>
  /** SIGSTOP: it takes connections and answers nothing, until `resume`. */
  pause(): void
  resume(): void
  /** Again after `kill`, or killed and started again: same data, same port. */
  restart(): Promise<void>
  /** One of ZooKeeper's words of four letters: `srvr`, `cons`, `dump` (sessions and ephemerals), `wchp`. */
  ask(word: string): Promise<string>
  /** Ends it and removes its data. */
  stop(): Promise<void>
}

/** Starts ZooKeeper 3.9.3: about 1 s. */
export function startZooKeeper(options: ZooKeeperOptions = {}): Promise<ZooKeeperServer> {
  return withRetry(async () => {
    const house = new Household('zk')
    try {
      const server = await zooKeeperIn(house, options)
      await server.restart()
      return { ...server, stop: () => house.close() }
    } catch (error) {
      await house.close()
      throw error
    }
  })
}

/** Several ZooKeepers that are one. */
export interface ZooKeeperEnsemble {
  readonly servers: readonly Omit<ZooKeeperServer, 'stop'>[]
  /** The one that leads at this moment; waits until there is one. */
  leader(): Promise<Omit<ZooKeeperServer, 'stop'>>
  /** Ends them and removes their data. */
  stop(): Promise<void>
}

/** Starts an ensemble of three: about 3 s. */
export function startZooKeeperEnsemble(options: ZooKeeperOptions = {}): Promise<ZooKeeperEnsemble> {
  return withRetry(async () => {
    const house = new Household('zks')
    try {
      const servers = await peersIn(house, options)
      await Promise.all(servers.map((server) => server.restart()))
      return { servers, leader: () => leaderOf(servers), stop: () => house.close() }
    } catch (error) {
      await house.close()
      throw error
    }
  })
}

async function peersIn(
  house: Household,
  options: ZooKeeperOptions,
): Promise<Omit<ZooKeeperServer, 'stop'>[]> {
  const ports = await freePorts(6)
  const peers = Object.fromEntries(
    [1, 2, 3].map((id) => [`server.${id}`, `127.0.0.1:${ports[id - 1]}:${ports[id + 2]}`]),
  )
  const config = { initLimit: 40, syncLimit: 10, ...peers, ...options.config }
  return Promise.all(
    [1, 2, 3].map(async (id) => {
      const name = `zk${id}`
      mkdirSync(join(house.directory, name))
      writeFileSync(join(house.directory, name, 'myid'), `${id}\n`)
      return zooKeeperIn(house, { ...options, config }, name, MAIN_OF_PEERS)
    }),
  )
}

async function leaderOf(
  servers: readonly Omit<ZooKeeperServer, 'stop'>[],
): Promise<Omit<ZooKeeperServer, 'stop'>> {
  for (let tries = 0; ; tries++) {
    for (const server of servers) {
      const said = await server.ask('srvr').catch(() => '')
      if (said.includes('Mode: leader')) return server
    }
    if (tries === 300) throw new Error('no ZooKeeper leads')
    await sleep(100)
  }
}

/** A ZooKeeper in a household with others, not started yet: `restart` does. */
export async function zooKeeperIn(
  house: Household,
  options: ZooKeeperOptions = {},
  name = 'zk',
  main: string = MAIN,
): Promise<Omit<ZooKeeperServer, 'stop'>> {
  const jars = await pathOf('bookkeeper')
  const [port = 0] = await freePorts(1)
  const conf = join(house.directory, `${name}-conf`)
  mkdirSync(conf)
  writeFileSync(join(conf, 'zoo.cfg'), zooCfg(join(house.directory, name), port, options))
  // kill -9 loses nothing that was written; waiting for the disk would make sessions of a busy machine expire.
  const properties = { 'zookeeper.forceSync': 'no' }
  const classPath = [join(jars, '*')]
  const memory = { heapMb: 192, directMb: 64 }
  const command = [...jvm({ classPath, logging: writeLogging(conf), properties, ...memory }), main]
  let daemon: Daemon | undefined
  const ready = async (): Promise<boolean> =>
    /^Mode: (standalone|leader|follower)$/m.test(await ask(port, 'srvr'))
  return {
    address: `127.0.0.1:${port}`,
    port,
    kill: async () => daemon?.kill(),
    pause: () => daemon?.signal('SIGSTOP'),
    resume: () => daemon?.signal('SIGCONT'),
    restart: async () => {
      await daemon?.kill()
      const begun = house.start(name, [...command, join(conf, 'zoo.cfg')])
      daemon = begun
      await house.until('ZooKeeper', ready, 60_000, [begun])
    },
    ask: (word) => ask(port, word),
  }
}

function zooCfg(dataDir: string, port: number, options: ZooKeeperOptions): string {
  const properties = {
    dataDir,
    clientPort: port,
    clientPortAddress: '127.0.0.1',
    tickTime: options.tickMs ?? 500,
    // Clients say how long their sessions are: the bounds in ticks must not be what a test measures.
    minSessionTimeout: 500,
    maxSessionTimeout: 60_000,
    'admin.enableServer': false,
    maxClientCnxns: 0,
    // The log is preallocated in steps of this: 64 MB for each of many short tests is only wear.
    preAllocSize: 1024,
    '4lw.commands.whitelist': '*',
    ...options.config,
  }
  const lines = Object.entries(properties).map(([name, value]) => `${name}=${value}`)
  return `${lines.join('\n')}\n`
}

async function ask(port: number, word: string): Promise<string> {
  const socket = connect({ port, host: '127.0.0.1' })
  const timer = setTimeout(() => socket.destroy(new Error(`${word}: no answer within 2 s`)), 2000)
  try {
    let answer = ''
    socket.setEncoding('utf8').on('data', (text: string) => {
      answer += text
    })
    socket.write(word)
    await once(socket, 'end')
    return answer
  } finally {
    clearTimeout(timer)
    socket.destroy()
  }
}
