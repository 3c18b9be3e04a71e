import {
  closeSync,
  constants,
  fdatasync,
  fdatasyncSync,
  mkdtempSync,
  openSync,
  rmSync,
  writev,
  writevSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { preallocated, type Speed, startMeasure } from './probe.js'
import { alternate, median } from './result.js'

/*
 * An experiment outside the library: whether a store in a worker thread, with synchronous writev and fdatasync, beats
 * asynchronous calls on the thread pool. `node dist/bench/probe-worker.js [DIRECTORY]` prints a table.
 *
 * Both have the shape of the append path: entries are filled on the main thread as fast as a bounded number of bytes
 * in flight allows; each of three stores writes what waits as one group with one sync; an entry is done when two of
 * them have it. Without checksums and index, so what differs is how the bytes get to the disk and the answer back.
 */

const STORES = 3
const ACKS = 2
/** Records of 1 KiB fill 96 KiB, of 64 KiB two make an entry: as the writer batches them. */
const SHAPES = [
  { recordBytes: 1024, entryBytes: 96 * 1024 },
  { recordBytes: 64 * 1024, entryBytes: 128 * 1024 },
]
const IN_FLIGHT_BYTES_MAX = 8 * 1024 * 1024
const GROUP_BYTES_MAX = 4 * 1024 * 1024
const FILE_BYTES = 256 * 1024 * 1024
const ROUNDS = 5
/** What the main thread computes for each KiB in the log: headers, checksums, index, promises. */
const BUSY_MICROS = 1.2

/** Makes a group of entries durable. */
type Store = (entries: readonly Uint8Array[], offset: number) => Promise<void>

interface Stores {
  readonly stores: readonly Store[]
  /** Whether entries must lie in shared memory. */
  readonly shared: boolean
  close(): Promise<void>
}

/** A worker's messages: a group to write, as shared memory or copied by the message; the answer is empty. */
interface Group {
  readonly entries: readonly Uint8Array[]
  readonly offset: number
}

/** `dsync`: the write itself makes the bytes durable (O_DSYNC), so there is one call for each group and not two. */
function poolStores(directory: string, dsync: boolean): Stores {
  const flags = constants.O_RDWR | (dsync ? constants.O_DSYNC : 0)
  const files = filePaths(directory).map((path) => openSync(path, flags))
  const stores = files.map(
    (fd): Store =>
      (entries, offset) =>
        new Promise((resolve, reject) => {
          const done = (error: Error | null) => (error ? reject(error) : resolve())
          writev(fd, entries, offset, (failed) => {
            if (failed || dsync) done(failed)
            else fdatasync(fd, done)
          })
        }),
  )
  return { stores, shared: false, close: async () => files.forEach(closeSync) }
}

/** `shared`: entries lie in shared memory, and a message carries only where. Else each message copies them. */
function workerStores(directory: string, shared: boolean): Stores {
  const workers = filePaths(directory).map(
    (path) => new Worker(new URL(import.meta.url), { workerData: { path } }),
  )
  const stores = workers.map((worker): Store => {
    const waiting: (() => void)[] = []
    worker.on('message', () => waiting.shift()?.())
    return (entries, offset) =>
      new Promise((resolve) => {
        waiting.push(resolve)
        worker.postMessage({ entries, offset } satisfies Group)
      })
  })
  const close = async () => {
    await Promise.all(workers.map((worker) => worker.terminate()))
  }
  return { stores, shared, close }
}

/** Appends records of that shape until the files are full. */
async function load(
  { stores, shared }: Stores,
  { recordBytes, entryBytes }: (typeof SHAPES)[number],
  busyMicros: number,
): Promise<Speed> {
  const record = new Uint8Array(recordBytes).fill(7)
  const total = Math.floor((FILE_BYTES - GROUP_BYTES_MAX) / entryBytes)
  // Used again and again, so that neither way pays for allocation.
  const free: Uint8Array[] = []
  const obtain = () =>
    free.pop() ?? new Uint8Array(shared ? new SharedArrayBuffer(entryBytes) : new ArrayBuffer(entryBytes))
  const copies = new Map<Uint8Array, number>()
  const measure = startMeasure()
  let made = 0
  let acknowledged = 0
  let finished = 0
  await new Promise<void>((resolve, reject) => {
    const durable = (group: readonly Uint8Array[]): void => {
      for (const entry of group) {
        const count = (copies.get(entry) ?? 0) + 1
        copies.set(entry, count)
        if (count === ACKS) acknowledged += 1
        if (count === STORES) {
          finished += 1
          copies.delete(entry)
          free.push(entry)
        }
      }
      if (finished === total) resolve()
      fill()
    }
    const queues = stores.map((store) => new Queue(store, entryBytes, durable, reject))
    const fill = (): void => {
      for (; made < total && (made - acknowledged) * entryBytes < IN_FLIGHT_BYTES_MAX; made += 1) {
        const entry = obtain()
        for (let at = 0; at < entryBytes; at += recordBytes) entry.set(record, at)
        spin((busyMicros * entryBytes) / 1024)
        for (const queue of queues) queue.add(entry)
      }
    }
    fill()
  })
  return measure(total * entryBytes)
}

/** Stands for what the log computes. */
function spin(micros: number): void {
  const end = performance.now() + micros / 1_000
  while (performance.now() < end);
}

/** One store's entries: what waits goes out as one group when the one before it is durable. */
class Queue {
  readonly #store: Store
  readonly #entryBytes: number
  readonly #durable: (group: readonly Uint8Array[]) => void
  readonly #failed: (error: unknown) => void
  readonly #waiting: Uint8Array[] = []
  #offset = 0
  #running = false

  constructor(
    store: Store,
    entryBytes: number,
    durable: (group: readonly Uint8Array[]) => void,
    failed: (error: unknown) => void,
  ) {
    this.#store = store
    this.#entryBytes = entryBytes
    this.#durable = durable
    this.#failed = failed
  }

  add(entry: Uint8Array): void {
    this.#waiting.push(entry)
    if (this.#running) return
    this.#running = true
    // What is added in this same turn goes into the first group.
    queueMicrotask(() => void this.#run().catch(this.#failed))
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0) {
      const group = this.#waiting.splice(0, Math.floor(GROUP_BYTES_MAX / this.#entryBytes))
      await this.#store(group, this.#offset)
      this.#offset += group.length * this.#entryBytes
      this.#durable(group)
    }
    this.#running = false
  }
}

/** Microseconds from a message until its empty answer, as each group pays it at least once. */
async function messageMicros(): Promise<number> {
  const worker = new Worker(new URL(import.meta.url), { workerData: {} })
  const times: number[] = []
  for (let round = 0; round < 2_000; round += 1) {
    const start = performance.now()
    await new Promise((resolve) => {
      worker.once('message', resolve)
      worker.postMessage(null)
    })
    times.push((performance.now() - start) * 1_000)
  }
  await worker.terminate()
  return median(times)
}

function work(): void {
  const { path } = workerData as { path?: string }
  const fd = path === undefined ? -1 : openSync(path, 'r+')
  parentPort?.on('message', (group: Group | null) => {
    if (group !== null) {
      writevSync(fd, group.entries, group.offset)
      fdatasyncSync(fd)
    }
    parentPort?.postMessage(null)
  })
}

function filePaths(directory: string): string[] {
  return Array.from({ length: STORES }, (_, i) => join(directory, `store-${i}`))
}

async function main(parent: string): Promise<void> {
  const directory = mkdtempSync(join(parent, 'stratalog-probe-'))
  try {
    for (const path of filePaths(directory)) closeSync(preallocated(path, FILE_BYTES))
    const ways = {
      'thread pool': poolStores(directory, false),
      'thread pool, O_DSYNC': poolStores(directory, true),
      'workers, shared memory': workerStores(directory, true),
      'workers, copied messages': workerStores(directory, false),
    }
    for (const busyMicros of [0, BUSY_MICROS]) {
      for (const shape of SHAPES) {
        const runs = Object.entries(ways).map(
          ([way, stores]) => [way, () => load(stores, shape, busyMicros)] as const,
        )
        const found = await alternate(ROUNDS, Object.fromEntries(runs))
        for (const [way, speeds] of Object.entries(found)) {
          const mb = median(speeds.map((one) => one.mbPerSecond)).toFixed(0)
          const cpu = (median(speeds.map((one) => one.cpuMicrosPerKib)) - busyMicros).toFixed(2)
          const what = `${shape.recordBytes / 1024} KiB, ${busyMicros} µs a KiB of other work`
          process.stdout.write(`${what}  ${way}: ${mb} MB/s, ${cpu} µs of CPU a KiB\n`)
        }
      }
    }
    for (const way of Object.values(ways)) await way.close()
    process.stdout.write(`a message to a worker and back: ${(await messageMicros()).toFixed(0)} µs\n`)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

if (isMainThread) await main(process.argv[2] ?? tmpdir())
else work()
