import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { entryHeaderBytes, masterKey, packageEntry } from '../src/format/ledger-digest.js'
import type { LedgerContext } from '../src/ledger/context.js'
import { LedgerWriter } from '../src/ledger/writer.js'
import { openSqliteMetadata } from '../src/metadata/sqlite/open.js'
import { FrameReader } from '../src/store/bookie/frames.js'
import { HEAD_BYTES_MAX, writeAddHead } from '../src/store/bookie/requests.js'
import { BOOKIE_DEFAULTS } from '../src/store/bookie/settings.js'
import { openBookie } from '../src/store/bookie/store.js'
import { realClock } from '../src/system/clock.js'
import { realRandom } from '../src/system/random.js'
import { type Effort, JAVA, type JavaTimes, startEffort, withJavaCluster } from './java-cluster.js'
import { KIB_RECORD } from './load.js'
import {
  alternate,
  type Bench,
  type BenchMember,
  type BenchResult,
  median,
  percentile,
  ratioAtLeast,
  ratioAtMost,
} from './result.js'
import { SILENT } from './silent.js'

const OUTSTANDING = 1_000
const QUORUM = { ensemble: 3, copies: 3, ack: 2, min: 2 }
const DIGEST = 'CRC32'
/** Bookies compile their code while they are used: before that they are several times slower. */
const WARM_UP_ADDS = 40_000
/** Above the ids that the metadata here give out. */
const PLAIN_LEDGER = 1_000_000_000n
const FRAME_BYTES_MAX = 5 * 2 ** 20

/** One member, since bookies take long to start and to warm up. */
export const BOOKKEEPER_MEMBER: BenchMember = {
  names: ['bk.add.raw', 'bk.add.raw.cpu', 'bk.add.plain', 'bk.latency', 'bk.latency.p99'],
  what: 'entries of 1 KiB into a ledger on three bookies, 1,000 on their way and one at a time',
  run: (bench) =>
    withLedgers(bench, async (clients) => [
      ...(await addRaw(bench, clients)),
      ...(await latency(bench, clients)),
    ]),
}

/** What is measured: entries added, 1 KiB each, so many at once. Resolves with the time that each one took. */
type Adds = (count: number, outstanding: number) => Promise<number[]>

interface Clients {
  readonly ledger: Adds
  readonly plain: Adds
  readonly java: (count: number, outstanding: number) => Promise<JavaTimes>
}

async function addRaw(bench: Bench, clients: Clients): Promise<BenchResult[]> {
  const count = bench.amount(100_000, 500)
  const measured = async (adds: Adds): Promise<Effort> => {
    const measure = startEffort()
    await adds(count, OUTSTANDING)
    return measure()
  }
  const found = await alternate(bench.rounds, {
    plain: () => measured(clients.plain),
    java: () => clients.java(count, OUTSTANDING),
    ledger: () => measured(clients.ledger),
  })
  const perSecond = (efforts: readonly Effort[]): number =>
    median(efforts.map(({ wallMs }) => (count / wallMs) * 1_000))
  const cpuUs = (efforts: readonly Effort[]): number =>
    median(efforts.map(({ cpuMs }) => (cpuMs / count) * 1_000))
  const value = perSecond(found.ledger)
  const unit = 'entries/s'
  const plain = 'the same bytes over plain sockets, answers only counted'
  const own = { name: 'bk.add.raw.cpu', value: cpuUs(found.ledger), unit: 'µs' }
  return [
    ratioAtLeast({ name: 'bk.add.raw', value, unit, what: JAVA, reference: perSecond(found.java) }, 1.2),
    ratioAtMost({ ...own, what: 'CPU of the Java client', reference: cpuUs(found.java) }, 0.5),
    ratioAtLeast({ name: 'bk.add.plain', value, unit, what: plain, reference: perSecond(found.plain) }, 0.7),
  ]
}

type Latency = Pick<JavaTimes, 'p50Ms' | 'p99Ms'>

async function latency(bench: Bench, clients: Clients): Promise<BenchResult[]> {
  const count = bench.amount(1_000, 20)
  const ours = async (): Promise<Latency> => {
    const times = await clients.ledger(count, 1)
    return { p50Ms: percentile(times, 0.5), p99Ms: percentile(times, 0.99) }
  }
  const javas = (): Promise<Latency> => clients.java(count, 1)
  const found = await alternate(bench.rounds, { java: javas, ledger: ours })
  const told = (name: string, of: keyof Latency): BenchResult => {
    const value = median(found.ledger.map((times) => times[of]))
    const reference = median(found.java.map((times) => times[of]))
    return ratioAtMost({ name, value, unit: 'ms', what: JAVA, reference }, 1)
  }
  return [told('bk.latency', 'p50Ms'), told('bk.latency.p99', 'p99Ms')]
}

async function withLedgers(
  bench: Bench,
  run: (clients: Clients) => Promise<BenchResult[]>,
): Promise<BenchResult[]> {
  return withJavaCluster(bench, async ({ bookies, java }) => {
    const ports = bookies.bookies.map(({ port }) => port)
    const ledger = await openLedgers(bench, ports)
    const plain = await PlainClient.connect(ports)
    try {
      const clients: Clients = {
        ledger: ledger.adds,
        plain: (count, most) => plain.adds(count, most),
        java: (count, outstanding) => java.call('bench.add', { count, outstanding, size: KIB_RECORD.length }),
      }
      const warmUp = bench.amount(WARM_UP_ADDS, 10)
      await clients.plain(warmUp, OUTSTANDING)
      await clients.java(warmUp, OUTSTANDING)
      await clients.ledger(warmUp, OUTSTANDING)
      return await run(clients)
    } finally {
      plain.close()
      await ledger.close()
    }
  })
}

async function openLedgers(
  bench: Bench,
  ports: readonly number[],
): Promise<{ readonly adds: Adds; close(): Promise<void> }> {
  const clock = realClock()
  const metadata = openSqliteMetadata(join(bench.directory, 'index.db'), { clock, logger: SILENT })
  const own = { clock, logger: SILENT, random: realRandom() }
  const stores = ports.map((port) =>
    openBookie({ id: `127.0.0.1:${port}`, host: '127.0.0.1', port }, BOOKIE_DEFAULTS, own),
  )
  const context: LedgerContext = {
    stores: {
      get: (id) => stores.find((store) => store.id === id) ?? null,
      all: () => stores,
      writable: async () => stores,
    },
    metadata: metadata.ledgers,
    clock,
    logger: SILENT,
    digestType: DIGEST,
  }
  const room = entryHeaderBytes(DIGEST)
  const adds: Adds = async (count, outstanding) => {
    const writer = await LedgerWriter.create(context, { quorum: QUORUM, segment: null, preceding: null })
    const times = await pipelined(count, outstanding, (done, failed) => {
      const buffer = Buffer.allocUnsafe(room + KIB_RECORD.length)
      buffer.set(KIB_RECORD, room)
      writer.appendTo(buffer, KIB_RECORD.length, { acknowledged: done, failed })
    })
    await writer.settled()
    await writer.close()
    return times
  }
  const close = async (): Promise<void> => {
    await Promise.all(stores.map((store) => store.close()))
    await metadata.close()
  }
  return { adds, close }
}

/** Keeps so many under way until all are done; how long each took, in milliseconds. */
function pipelined(
  count: number,
  outstanding: number,
  add: (done: () => void, failed: (error: Error) => void) => void,
): Promise<number[]> {
  const times: number[] = []
  let begun = 0
  let waits = false
  return new Promise((resolve, reject) => {
    const more = (): void => {
      waits = false
      while (begun < count && begun - times.length < outstanding) {
        begun += 1
        const beganMs = performance.now()
        add(() => {
          times.push(performance.now() - beganMs)
          if (times.length === count) return resolve(times)
          // Not in the turn in which the ledger tells of it.
          if (!waits) queueMicrotask(more)
          waits = true
        }, reject)
      }
    }
    more()
  })
}

/** As little as a client can do: frames made as ours are, to all three; an entry is done at its second answer. */
class PlainClient {
  readonly #sockets: readonly Socket[]
  readonly #key: Uint8Array = masterKey('')
  #ledgerId = PLAIN_LEDGER
  /** By socket, whom its next answer is for: a bookie answers adds of one ledger in order. */
  readonly #waiting: (() => void)[][]

  private constructor(sockets: readonly Socket[]) {
    this.#sockets = sockets
    this.#waiting = sockets.map(() => [])
    for (const [at, socket] of sockets.entries()) {
      const frames = new FrameReader(FRAME_BYTES_MAX)
      socket.on('data', (chunk) => frames.push(chunk, () => this.#waiting[at]?.shift()?.()))
    }
  }

  static async connect(ports: readonly number[]): Promise<PlainClient> {
    const sockets = ports.map((port) => connect({ host: '127.0.0.1', port, noDelay: true }))
    await Promise.all(
      sockets.map((socket) => new Promise<void>((resolve) => socket.once('connect', resolve))),
    )
    return new PlainClient(sockets)
  }

  adds(count: number, outstanding: number): Promise<number[]> {
    this.#ledgerId += 1n
    let entryId = -1n
    return pipelined(count, outstanding, (done) => {
      entryId += 1n
      const frame = this.#frame(entryId)
      let answers = 0
      for (const [at, socket] of this.#sockets.entries()) {
        this.#waiting[at]?.push(() => {
          answers += 1
          if (answers === QUORUM.ack) done()
        })
        if (socket.writableCorked === 0) {
          socket.cork()
          setImmediate(() => socket.uncork())
        }
        socket.write(frame)
      }
    })
  }

  close(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  #frame(entryId: bigint): Buffer {
    const ledgerId = this.#ledgerId
    const length = (entryId + 1n) * BigInt(KIB_RECORD.length)
    const body = packageEntry(KIB_RECORD, DIGEST, ledgerId, entryId, entryId - 1n, length)
    const frame = Buffer.allocUnsafe(HEAD_BYTES_MAX + body.length)
    const add = { ledgerId, entryId, masterKey: this.#key, bodyBytes: body.length, recovery: false }
    const at = writeAddHead(frame, 0, Number(entryId) + 1, add)
    frame.set(body, at)
    return frame.subarray(0, at + body.length)
  }
}
