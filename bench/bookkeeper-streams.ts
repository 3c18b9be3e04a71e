import { join } from 'node:path'
import { type Log, openLog } from 'stratalog'
import { type Effort, type JavaCluster, startEffort, withJavaCluster } from './java-cluster.js'
import { appendClosedLoop, KIB_RECORD, MIB, OUTSTANDING } from './load.js'
import {
  alternate,
  type Bench,
  type BenchMember,
  type BenchResult,
  median,
  ratioAtLeast,
  ratioAtMost,
} from './result.js'

/*
 * Streams in a namespace of DistributedLog, ours beside its Java client: the same bookies, records and number under way,
 * and Java's buffer as large as our entries came to be.
 */

const JAVA = "DistributedLog's Java client"
const NAMESPACE = '/bench'
const MANY_STREAMS = 100
/** Both compile what they do often: before that they are several times slower. */
const WARM_UP_RECORDS = 50_000

/** One member, since bookies take long to start and to warm up. */
export const BOOKKEEPER_STREAMS_MEMBER: BenchMember = {
  names: ['bk.append.1', 'bk.cpu', 'bk.append.100', 'bk.read'],
  what: 'records of 1 KiB into one stream and 100 streams on three bookies, 1,000 on their way, and out of one',
  run: (bench) =>
    withNamespace(bench, async (clients) => [
      ...(await append(bench, clients, 1)),
      ...(await append(bench, clients, MANY_STREAMS)),
      ...(await read(bench, clients)),
    ]),
}

interface Clients {
  readonly log: Log
  readonly java: JavaCluster['java']
  /** A name that nobody has used. */
  fresh(): string
}

async function append(bench: Bench, clients: Clients, streams: number): Promise<BenchResult[]> {
  const count = bench.amount(200_000, 500)
  const { bufferBytes } = await warmUp(bench, clients, streams)
  const found = await alternate(bench.rounds, {
    java: () => javaWrites(clients, streams, count, bufferBytes),
    ours: () => ourAppends(clients, streams, count),
  })
  const perSecond = (efforts: readonly Effort[]): number =>
    median(efforts.map(({ wallMs }) => (count / wallMs) * 1_000))
  const msPerMb = (efforts: readonly Effort[]): number =>
    median(efforts.map(({ cpuMs }) => cpuMs / ((count * KIB_RECORD.length) / 1e6)))
  const what = `${JAVA}, a buffer of ${bufferBytes} bytes`
  const name = `bk.append.${streams}`
  const speed = { name, value: perSecond(found.ours), unit: 'records/s' }
  const results = [ratioAtLeast({ ...speed, what, reference: perSecond(found.java) }, 1.2)]
  if (streams > 1) return results
  const cpu = { name: 'bk.cpu', value: msPerMb(found.ours), unit: 'ms/MB' }
  return [...results, ratioAtMost({ ...cpu, what, reference: msPerMb(found.java) }, 0.5)]
}

async function read(bench: Bench, clients: Clients): Promise<BenchResult[]> {
  const count = bench.amount(200_000, 500)
  const name = clients.fresh()
  await appendClosedLoop(clients.log, [name], KIB_RECORD, count)
  await clients.log.stream(name).seal()
  const ours = async (): Promise<number> => {
    const { wallMs } = await readAll(clients.log, name, count)
    return (count / wallMs) * 1_000
  }
  const javas = async (): Promise<number> => {
    const { wallMs } = await clients.java.call('bench.read', { namespace: NAMESPACE, stream: name, count })
    return (count / wallMs) * 1_000
  }
  await javas()
  await ours()
  const found = await alternate(bench.rounds, { java: javas, ours })
  const measured = { name: 'bk.read', value: median(found.ours), unit: 'records/s', what: JAVA }
  return [ratioAtLeast({ ...measured, reference: median(found.java) }, 1.2)]
}

async function readAll(log: Log, name: string, count: number): Promise<Effort> {
  const measure = startEffort()
  let read = 0
  for await (const _ of log.stream(name).read()) read += 1
  if (read !== count) throw new Error(`${read} records were read, and ${count} appended`)
  return measure()
}

/** Both do a part of it first; what our entries came to is the buffer that Java is given. */
async function warmUp(
  bench: Bench,
  clients: Clients,
  streams: number,
): Promise<{ readonly bufferBytes: number }> {
  const count = bench.amount(WARM_UP_RECORDS, 200)
  await ourAppends(clients, streams, count)
  const name = await lastOf(clients, streams, count)
  let entries = 0
  let bytes = 0
  for await (const { lastEntryId, lengthBytes } of clients.log.segments(name)) {
    entries += Number(lastEntryId) + 1
    bytes += lengthBytes
  }
  const bufferBytes = Math.max(1_024, Math.round(bytes / Math.max(1, entries)))
  await javaWrites(clients, streams, count, bufferBytes)
  return { bufferBytes }
}

/** Appends once more, and seals one of the streams. */
async function lastOf(clients: Clients, streams: number, count: number): Promise<string> {
  const names = namesOf(clients.fresh(), streams)
  await appendClosedLoop(clients.log, names, KIB_RECORD, count)
  const [name = ''] = names
  await clients.log.stream(name).seal()
  return name
}

/** Opening the streams is not counted, on either side. */
async function ourAppends(clients: Clients, streams: number, count: number): Promise<Effort> {
  const names = namesOf(clients.fresh(), streams)
  await appendClosedLoop(clients.log, names, KIB_RECORD, streams, 1)
  const measure = startEffort()
  await appendClosedLoop(clients.log, names, KIB_RECORD, count)
  const effort = measure()
  for (const name of names) await clients.log.stream(name).seal()
  return effort
}

function javaWrites(
  { java, fresh }: Clients,
  streams: number,
  count: number,
  bufferBytes: number,
): Promise<Effort> {
  const load = { count, outstanding: OUTSTANDING, size: KIB_RECORD.length }
  const stream = fresh()
  return java.call('bench.write', {
    ...{ namespace: NAMESPACE, stream, streams, bufferBytes, flushMs: 2, segmentBytes: '2000000000' },
    ...load,
  })
}

function namesOf(name: string, streams: number): string[] {
  return Array.from({ length: streams }, (_, i) => `${name}-${i}`)
}

function withNamespace(
  bench: Bench,
  run: (clients: Clients) => Promise<BenchResult[]>,
): Promise<BenchResult[]> {
  return withJavaCluster(bench, async ({ bookies, java }) => {
    const log = await openLog(join(bench.directory, 'log'), {
      metadata: `zk://${bookies.zk.address}${NAMESPACE}`,
      ...{ stores: 'bookkeeper', archive: 'none', tiering: 'off', control: 'off', config: 'none' },
      defaults: { roll: { size: 1_024 * MIB } },
    })
    let used = 0
    const fresh = (): string => {
      used += 1
      return `load-${used}`
    }
    try {
      return await run({ log, java, fresh })
    } finally {
      await log.close()
    }
  })
}
