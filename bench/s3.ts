import { rmSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import {
  DeleteObjectCommand,
  GetObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  type S3Client,
} from '@aws-sdk/client-s3'
import { type ArchiveEngine, type Log, openLog } from 'stratalog'
import { s3Archive } from '../archive/s3/engine.js'
import { decodeSegmentKey } from '../src/format/archive-names.js'
import { incarnationOf, makeNames } from './index.js'
import { MIB, quiet } from './load.js'
import { samplePeak } from './memory.js'
import { readAll } from './read.js'
import {
  copyAgainstPlain,
  fill,
  fromSources,
  got,
  openRemoteLog,
  type PlainObject,
  type PlainStore,
  type Remote,
  readAgainstPlain,
  requireServer,
  settle,
  sizeOf,
} from './remote.js'
import {
  alternate,
  type Bench,
  type BenchMember,
  type BenchResult,
  median,
  ratioAtLeast,
  ratioAtMost,
  valueAtMost,
} from './result.js'
import { SILENT } from './silent.js'
import { SlowLine } from './slow-line.js'

const BUCKET = 'bench'
const PREFIX = 'log'
/** What one connection to S3 gives. */
const S3_LINE = { bytesPerSecond: 40e6, latencyMs: 20 }
const NO_LINE = { bytesPerSecond: 0, latencyMs: 0 }
const NAMES = 100_000
const STREAMS = 10
/** Listings beside those of the names: which streams there are, and what was decided about each. */
const OTHER_LISTS = 6 * STREAMS

export const S3_MEMBERS: readonly BenchMember[] = [
  {
    names: ['s3.copy'],
    what: 'a backlog of 64 MiB segments into an S3 server, every byte read back',
    run: (bench) => withS3((s3) => copyAgainstPlain(bench, 's3.copy', s3)),
  },
  {
    names: ['s3.read'],
    what: 'catch-up of 1 KiB records from an S3 server',
    run: (bench) => withS3((s3) => readAgainstPlain(bench, 's3.read', s3)),
  },
  {
    names: ['s3.read.parallel'],
    what: 'the same behind a line that gives each connection 40 MB/s and 20 ms',
    run: (bench) => withS3((s3) => readParallel(bench, s3)),
  },
  {
    names: ['s3.read.first', 's3.read.first.time'],
    what: 'requests and time until the first record of a cold range is there, its row known',
    run: (bench) => withS3((s3) => readFirst(bench, s3)),
  },
  {
    names: ['s3.rebuild', 's3.rebuild.lists'],
    what: 'the index made again from the names of 100,000 segments in an S3 server',
    run: (bench) => withS3((s3) => rebuild(bench, s3)),
  },
  {
    names: ['s3.memory'],
    what: 'peak RSS while a backlog is copied to an S3 server and history is read from it, both flat out',
    run: (bench) => withS3((s3) => memory(bench, s3)),
  },
]

/** A gateway on this machine, with an archive in one bucket. */
interface S3 extends Remote {
  readonly endpoint: string
  /** The archive behind another address of the server. */
  at(endpoint: string): ArchiveEngine
  plainAt(endpoint: string): S3Plain
  /** Where the gateway has the archive's objects, as plain files. */
  readonly files: string
}

async function withS3(run: (s3: S3) => Promise<BenchResult[]>): Promise<BenchResult[]> {
  await requireServer('versitygw')
  const { startVersitygw } = await fromSources(() => import('../test/servers/versitygw.js'))
  const { plainClient, S3_ENVIRONMENT } = await fromSources(() => import('../test/servers/s3.js'))
  Object.assign(process.env, S3_ENVIRONMENT)
  const server = await startVersitygw()
  const clients: S3Client[] = []
  const plainAt = (endpoint: string): S3Plain => {
    const client = plainClient(endpoint)
    clients.push(client)
    return new S3Plain(client)
  }
  const at = (endpoint: string) =>
    s3Archive(`s3://${BUCKET}/${PREFIX}`, { endpoint, region: server.region, pathStyle: true })
  try {
    await server.makeBucket(BUCKET)
    const { endpoint } = server
    const files = join(server.root, BUCKET, PREFIX)
    return await run({ endpoint, archive: at(endpoint), plain: plainAt(endpoint), at, plainAt, files })
  } finally {
    for (const client of clients) client.destroy()
    await server.close()
  }
}

/** The SDK as one would use it: whole buffers out, streams in, no checksums beside those of the protocol. */
class S3Plain implements PlainStore {
  readonly #client: S3Client

  constructor(client: S3Client) {
    this.#client = client
  }

  async put(key: string, body: Buffer): Promise<void> {
    await this.#client.send(new PutObjectCommand({ Bucket: BUCKET, Key: key, Body: body }))
  }

  async get(key: string, offset: number, lengthBytes: number): Promise<number> {
    const Range = `bytes=${offset}-${offset + lengthBytes - 1}`
    const { Body } = await this.#client.send(new GetObjectCommand({ Bucket: BUCKET, Key: key, Range }))
    let bytes = 0
    for await (const chunk of Body as AsyncIterable<Uint8Array>) bytes += chunk.length
    return bytes
  }

  async remove(key: string): Promise<void> {
    await this.#client.send(new DeleteObjectCommand({ Bucket: BUCKET, Key: key }))
  }

  async segments(): Promise<PlainObject[]> {
    const found: PlainObject[] = []
    for (let StartAfter = `${PREFIX}/`; ; ) {
      const command = new ListObjectsV2Command({ Bucket: BUCKET, Prefix: `${PREFIX}/`, StartAfter })
      const { Contents = [], IsTruncated } = await this.#client.send(command)
      for (const { Key: key = '', Size: sizeBytes = 0 } of Contents) {
        if (decodeSegmentKey(key.slice(PREFIX.length + 1)) !== null) found.push({ key, sizeBytes })
        StartAfter = key
      }
      if (IsTruncated !== true) return found
    }
  }
}

async function readParallel(bench: Bench, s3: S3): Promise<BenchResult[]> {
  const bytes = bench.bytes(1024 * MIB, 4 * MIB)
  {
    await using filled = await openRemoteLog(bench, s3.archive, { cold: true })
    await fill(filled, 'bench', bytes)
    await settle(filled)
  }
  await using line = await SlowLine.open(s3.endpoint, S3_LINE)
  const segments = await s3.plain.segments()
  const stored = sizeOf(segments)
  const slow = s3.plainAt(line.url)
  await using log = await openRemoteLog(bench, s3.at(line.url), { cold: true })
  const found = await alternate(bench.rounds, {
    log: async () => ((await readAll(log, ['bench'], 'cold', bytes)) * stored) / bytes,
    // One after the other, each whole: a connection is kept and used again.
    plain: async () => {
      const some = segments.slice(0, Math.ceil(segments.length / 4))
      const start = performance.now()
      for (const { key, sizeBytes } of some) await got(slow, key, 0, sizeBytes)
      return sizeOf(some) / 1e3 / (performance.now() - start)
    },
  })
  return [
    ratioAtLeast(
      {
        name: 's3.read.parallel',
        value: median(found.log),
        unit: 'MB/s',
        what: 'one plain connection behind the same line: whole objects one after the other',
        reference: median(found.plain),
      },
      6,
    ),
  ]
}

/** Every look goes to another object, of which a process that was just opened knows the row alone. */
async function readFirst(bench: Bench, s3: S3): Promise<BenchResult[]> {
  const segmentBytes = bench.short ? MIB : 4 * MIB
  const looks = bench.amount(20, 2)
  {
    await using filled = await openRemoteLog(bench, s3.archive, { cold: true, segmentBytes })
    await fill(filled, 'warm', 1024)
    // Every second one is looked at: what is read ahead of one is not what is looked at next.
    await fill(filled, 'bench', segmentBytes * 2 * looks)
    await settle(filled)
  }
  await using line = await SlowLine.open(s3.endpoint, NO_LINE)
  const counted = await looksThrough(bench, s3, line.url, looks, () => line.requests)
  const timed = await looksThrough(bench, s3, s3.endpoint, looks, () => 0)
  const requests = median(counted.map((one) => one.requests))
  const took = (of: 'log' | 'plain') => median(timed.map((one) => one[of]))
  return [
    valueAtMost(
      {
        name: 's3.read.first',
        value: requests,
        unit: 'requests',
        what: 'one for the index of the object, one for the block',
        reference: 2,
      },
      2,
    ),
    ratioAtMost(
      {
        name: 's3.read.first.time',
        value: took('log'),
        unit: 'ms',
        what: 'two plain requests for the same ranges, one after the other, p50',
        reference: took('plain'),
      },
      1.5,
    ),
  ]
}

interface Look {
  readonly requests: number
  /** Milliseconds. */
  readonly log: number
  readonly plain: number
}

async function looksThrough(
  bench: Bench,
  s3: S3,
  endpoint: string,
  looks: number,
  count: () => number,
): Promise<Look[]> {
  await using log = await openRemoteLog(bench, s3.at(endpoint), { cold: true })
  const plain = s3.plainAt(endpoint)
  // The first read opens the archive; what that takes is not what a read takes.
  await first(log, 'warm', 0n)
  const { index } = log.parts.segments
  const { incarnation } = await log.stream('bench').info()
  const done: Look[] = []
  for (let look = 0; look < looks; look += 1) {
    const row = await index.segment(incarnation, BigInt(2 * look + 1))
    const object = row?.object ?? null
    if (row === null || object === null) throw new Error(`segment ${2 * look + 1} has no object`)
    const before = count()
    const start = performance.now()
    await first(log, 'bench', row.startSequenceId)
    const ms = performance.now() - start
    const requests = count() - before
    const key = `${PREFIX}/${object.key}`
    const plainStart = performance.now()
    await got(plain, key, object.sizeBytes - object.indexBytes, object.indexBytes)
    await got(plain, key, 0, Math.min(MIB, object.sizeBytes))
    done.push({ requests, log: ms, plain: performance.now() - plainStart })
  }
  return done
}

/** Reads one record; what is read ahead ends with it. */
async function first(log: Log, name: string, sequenceId: bigint): Promise<void> {
  for await (const _ of log.stream(name).read({ from: { sequenceId } })) return
  throw new Error(`nothing of ${name} was read`)
}

async function rebuild(bench: Bench, s3: S3): Promise<BenchResult[]> {
  const size = { streams: STREAMS, segmentsEach: bench.amount(NAMES / STREAMS, 10) }
  const root = join(bench.directory, 'log')
  const options = { ...quiet(bench), archive: s3.archive, system: { logger: SILENT } }
  {
    await using log = await openLog(root, { ...options, defaults: { keep: 'forever' } })
    await log.stream('first').append('x')
    await log.stream('first').seal()
    await settle(log)
  }
  // Objects of this gateway are files: putting them one by one would take longer than what is measured.
  makeNames(s3.files, size)
  await using line = await SlowLine.open(s3.endpoint, NO_LINE)
  const seconds: number[] = []
  const lists: number[] = []
  for (let round = 0; round < bench.rounds; round += 1) {
    rmSync(join(root, 'index.db'))
    const before = line.lists
    const start = performance.now()
    await using log = await openLog(root, { ...options, archive: s3.at(line.url) })
    seconds.push((performance.now() - start) / 1e3)
    lists.push(line.lists - before)
    const found = await log.parts.segments.index.newestSegment(incarnationOf(size.streams - 1))
    if (found?.segment !== BigInt(size.segmentsEach)) throw new Error('the index does not have every segment')
  }
  const segments = size.streams * size.segmentsEach
  return [
    valueAtMost(
      { name: 's3.rebuild', value: median(seconds), unit: 's', what: 'segments', reference: segments },
      60,
    ),
    valueAtMost(
      {
        name: 's3.rebuild.lists',
        value: median(lists),
        unit: 'requests',
        what: `thousands of names, ${STREAMS} streams`,
        reference: segments / 1_000,
      },
      Math.ceil(segments / 1_000) + OTHER_LISTS,
    ),
  ]
}

async function memory(bench: Bench, s3: S3): Promise<BenchResult[]> {
  const bytes = bench.bytes(1024 * MIB, 4 * MIB)
  await using log = await openRemoteLog(bench, s3.archive, { cold: true })
  await fill(log, 'history', bytes)
  await settle(log)
  // Four streams, since of the segments of one stream two are on their way at most.
  const backlog = Array.from({ length: 4 }, (_, i) => `backlog/${i}`)
  for (const name of backlog) await fill(log, name, bytes / 4)
  const peak = samplePeak()
  let copying = true
  const copied = settle(log).finally(() => {
    copying = false
  })
  let read = 0
  while (copying) {
    await readAll(log, ['history'], 'cold', bytes)
    read += bytes
    // What is cached is read without a turn: the copy must have some.
    await new Promise((resolve) => setImmediate(resolve))
  }
  await copied
  return [
    valueAtMost(
      {
        name: 's3.memory',
        value: Math.max(peak.stop(), process.resourceUsage().maxRSS / 1e3),
        unit: 'MB',
        what: 'MB that were copied and read meanwhile',
        reference: (bytes + read) / 1e6,
      },
      350,
    ),
  ]
}
