import { underreplicatedLedger, underreplicatedPath } from '../../format/ledger-paths.js'
import type { Schema } from '../../format/protobuf.js'
import { decodeUtf8, everyValue, integer } from '../../format/protobuf.js'
import { decodeText, encodeText } from '../../format/protobuf-text.js'
import type { ZooKeeper } from '../../zookeeper/client.js'
import { outcomeUnknown } from '../../zookeeper/errors.js'
import { ensureNode, isZk, parentOf, TRIES_MAX } from './nodes.js'

/*
 * How BookKeeper's autorecovery is asked for copies of a ledger (FORMATS.md §4.8): a node for the ledger, protobuf
 * text, with the bookies whose copies are missing. Its workers make them and delete the node.
 */

const UNDERREPLICATED: Schema = [
  { no: 1, name: 'replica', kind: 'string' },
  { no: 2, name: 'ctime', kind: 'int64' },
]
/** Levels of four hexadecimal digits above the nodes. */
const FOLDERS = 4
const LAYOUT = 'type: "BASIC"\nversion: 1\n'

/** Asks for the copies of `ledgerId` that `missing` had. Idempotent; what others asked for stays. */
export async function markUnderreplicated(
  zk: ZooKeeper,
  ledgersPath: string,
  ledgerId: bigint,
  missing: readonly string[],
): Promise<void> {
  const root = `${ledgersPath}/underreplication`
  const path = `${root}/ledgers${underreplicatedPath(ledgerId)}`
  await ensureLayout(zk, root)
  for (let tries = 1; ; tries++) {
    const found = await zk.get(path)
    const before = found === null ? [] : decodeText(UNDERREPLICATED, decodeUtf8(found.data))
    const known = everyValue(before, 'replica').map(String)
    const all = [...new Set([...known, ...missing])]
    if (found !== null && all.length === known.length) return
    const ctime = integer(before, 'ctime')
    const data = Buffer.from(
      encodeText(UNDERREPLICATED, [
        ...all.map((id) => ['replica', id] as const),
        ...(ctime === undefined ? [] : [['ctime', ctime] as const]),
      ]),
    )
    try {
      if (found === null) await zk.create(path, data)
      else await zk.set(path, data, found.stat.version)
      return
    } catch (error) {
      if (tries === TRIES_MAX) throw error
      // Another asked meanwhile, or a worker is done, or the answer was lost: what is there is read again.
      if (isZk(error, 'not_found')) await ensureNode(zk, parentOf(path))
      else if (!isZk(error, 'conflict') && !outcomeUnknown(error)) throw error
    }
  }
}

/** A ledger that waits for copies. */
export interface Underreplicated {
  readonly ledgerId: bigint
  /** The bookies whose copies are missing. */
  readonly missing: readonly string[]
}

/** Ledgers that wait for copies, ascending, at most `limit`: no more folders are read than that takes. */
export async function listUnderreplicated(
  zk: ZooKeeper,
  ledgersPath: string,
  limit: number,
): Promise<Underreplicated[]> {
  const found: Underreplicated[] = []
  await walk(zk, `${ledgersPath}/underreplication/ledgers`, 0, limit, found)
  return found
}

async function walk(
  zk: ZooKeeper,
  path: string,
  depth: number,
  limit: number,
  found: Underreplicated[],
): Promise<void> {
  const names = [...((await zk.children(path))?.names ?? [])].sort()
  for (const name of names) {
    if (found.length >= limit) return
    if (depth < FOLDERS) {
      if (/^[0-9a-f]{4}$/.test(name)) await walk(zk, `${path}/${name}`, depth + 1, limit, found)
      continue
    }
    const ledgerId = underreplicatedLedger(name)
    const node = ledgerId === null ? null : await zk.get(`${path}/${name}`)
    // Its copies were made since.
    if (ledgerId === null || node === null) continue
    found.push({
      ledgerId,
      missing: everyValue(decodeText(UNDERREPLICATED, decodeUtf8(node.data)), 'replica').map(String),
    })
  }
}

/** Whether an operator lets autorecovery work, and how many of its processes stand for the one that looks for losses. */
export async function autorecoveryOf(
  zk: ZooKeeper,
  ledgersPath: string,
): Promise<{ readonly enabled: boolean; readonly auditors: number }> {
  const root = `${ledgersPath}/underreplication`
  const [off, votes] = await Promise.all([
    zk.exists(`${root}/disable`),
    zk.children(`${root}/auditorelection`),
  ])
  return {
    enabled: off === null,
    auditors: (votes?.names ?? []).filter((name) => name.startsWith('V_')).length,
  }
}

async function ensureLayout(zk: ZooKeeper, root: string): Promise<void> {
  if ((await zk.exists(`${root}/LAYOUT`)) !== null) return
  await ensureNode(zk, root)
  try {
    await zk.create(`${root}/LAYOUT`, Buffer.from(LAYOUT, 'utf8'))
  } catch (error) {
    if (!isZk(error, 'conflict') && !outcomeUnknown(error)) throw error
  }
}
