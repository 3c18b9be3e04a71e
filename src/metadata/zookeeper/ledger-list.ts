import { LEDGER_ID_MAX, type LedgerLayout, LONG_FROM, ledgerTrees } from '../../format/ledger-paths.js'
import type { ZooKeeper } from '../../zookeeper/client.js'

/** Ids above `after`, ascending, at most `limit`: only folders that can hold some of them are read. */
export async function listLedgers(
  zk: ZooKeeper,
  root: string,
  layout: LedgerLayout,
  after: bigint,
  limit: number,
): Promise<bigint[]> {
  if (layout === 'flat') {
    const names = (await zk.children(root))?.names ?? []
    const ids = names.filter((name) => /^L\d{10}$/.test(name)).map((name) => BigInt(name.slice(1)))
    return ids
      .filter((id) => id > after)
      .sort(ascending)
      .slice(0, limit)
  }
  const found: bigint[] = []
  for (const widths of ledgerTrees(layout)) {
    const digits = widths.reduce((sum, width) => sum + width, 0)
    await walk({ zk, after, limit, found, widths, digits }, root, '')
  }
  return found
}

interface Walk {
  readonly zk: ZooKeeper
  readonly after: bigint
  readonly limit: number
  readonly found: bigint[]
  readonly widths: readonly number[]
  readonly digits: number
}

/** The folder `path`, whose ledgers' ids begin with `prefix`. Names that are none of the tree's are left alone. */
async function walk(of: Walk, path: string, prefix: string): Promise<void> {
  const depth = depthOf(of.widths, prefix)
  const width = of.widths[depth] ?? 0
  const leaf = depth === of.widths.length - 1
  const pattern = new RegExp(`^${leaf ? 'L' : ''}\\d{${width}}$`)
  const names = ((await of.zk.children(path))?.names ?? []).filter((name) => pattern.test(name)).sort()
  for (const name of names) {
    if (of.found.length >= of.limit) return
    const digits = `${prefix}${leaf ? name.slice(1) : name}`
    // The highest id that can be below it.
    const highest = BigInt(digits.padEnd(of.digits, '9'))
    if (highest <= of.after) continue
    if (!leaf) await walk(of, `${path}/${name}`, digits)
    else if (highest <= (of.digits === 10 ? LONG_FROM - 1n : LEDGER_ID_MAX)) of.found.push(highest)
  }
}

function depthOf(widths: readonly number[], prefix: string): number {
  let left = prefix.length
  return widths.findIndex((width) => {
    if (left === 0) return true
    left -= width
    return false
  })
}

function ascending(a: bigint, b: bigint): number {
  return a < b ? -1 : a > b ? 1 : 0
}
