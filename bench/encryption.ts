import { randomBytes, randomFillSync } from 'node:crypto'
import { join } from 'node:path'
import { type KeyRing, type Log, openLog } from 'stratalog'
import { appendClosedLoop, KIB_RECORD, MIB, quiet } from './load.js'
import { alternate, type Bench, type BenchMember, type BenchResult, median, ratioAtLeast } from './result.js'

const SEGMENT_BYTES = 64 * MIB
const RECORDS = 512

export const ENCRYPTION_MEMBER: BenchMember = {
  names: ['tier.copy.encrypted'],
  what: 'a backlog of 64 MiB segments encrypted into a directory archive, every byte read back',
  run: copyEncrypted,
}

async function copyEncrypted(bench: Bench): Promise<BenchResult[]> {
  const bytes = bench.bytes(256 * MIB, 4 * MIB)
  await using log = await openLog(join(bench.directory, 'log'), {
    ...quiet(bench),
    archive: join(bench.directory, 'archive'),
    keyRing: rememberingRing(),
    defaults: { roll: { size: bench.short ? '1 MiB' : SEGMENT_BYTES }, keep: 'forever' },
  })
  let round = 0
  const copied = async (encrypted: boolean): Promise<number> => {
    round += 1
    const name = `round-${round}`
    await log.streams.create(name)
    if (encrypted) await log.stream(name).setPolicy({ encryption: { ring: 'bench', key: 'one' } })
    await fill(log, name, bytes)
    const start = performance.now()
    const report = await log.tier.run({ until: 'settled' })
    if (report.failed.length > 0 || report.copied === 0)
      throw new Error(`copying failed: ${report.failed[0]?.error}`)
    return bytes / 1e3 / (performance.now() - start)
  }
  const found = await alternate(bench.rounds, { clear: () => copied(false), encrypted: () => copied(true) })
  return [
    ratioAtLeast(
      {
        name: 'tier.copy.encrypted',
        value: median(found.encrypted),
        unit: 'MB/s',
        what: 'the same in clear',
        reference: median(found.clear),
      },
      0.7,
    ),
  ]
}

async function fill(log: Log, name: string, bytes: number): Promise<void> {
  const records = Array.from({ length: RECORDS }, () => {
    const record = Buffer.from(KIB_RECORD)
    randomFillSync(record, 0, 512)
    return record
  })
  let next = 0
  await appendClosedLoop(log, [name], () => records[next++ % RECORDS] ?? KIB_RECORD, bytes / 1024)
  await log.stream(name).seal()
}

/** A ring that remembers what it was given: what objects cost is measured, and a ring is asked once for a stream. */
function rememberingRing(): KeyRing {
  const wrapped = new Map<string, Uint8Array>()
  return {
    id: 'bench',
    location: 'memory',
    keys: () => Promise.resolve([{ id: 'one', createdMs: 0 }]),
    wrap: (_keyId, secret) => {
      const token = randomBytes(16)
      wrapped.set(token.toString('hex'), Uint8Array.from(secret))
      return Promise.resolve(token)
    },
    unwrap: (_keyId, token) =>
      Promise.resolve(wrapped.get(Buffer.from(token).toString('hex')) ?? new Uint8Array(0)),
  }
}
