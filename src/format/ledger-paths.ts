import { assert } from '../model/assert.js'

/*
 * Where BookKeeper's ledgers are in ZooKeeper, below the root (StringUtils.java, *LedgerManager.java):
 *
 *   hierarchical      /00/0001/L2345                 ids below 2147483647, 10 digits as 2/4/4
 *                     /922/3372/0368/5477/L5807      the others, 19 digits as 3/4/4/4/4
 *   longhierarchical  the second form for all
 *   flat              /L0000012345
 */

/** How the ledgers of a cluster are laid out: its node `LAYOUT` says it. */
export type LedgerLayout = 'hierarchical' | 'longhierarchical' | 'flat'

/** From this id on an id has the long form. */
export const LONG_FROM = 2_147_483_647n
export const LEDGER_ID_MAX: bigint = 2n ** 63n - 1n

const SHORT = [2, 4, 4]
const LONG = [3, 4, 4, 4, 4]

/** The path of a ledger below the root. */
export function ledgerPath(layout: LedgerLayout, ledgerId: bigint): string {
  assert(ledgerId >= 0n && ledgerId <= LEDGER_ID_MAX, `ledger id ${ledgerId}`)
  if (layout === 'flat') return `/L${ledgerId.toString().padStart(10, '0')}`
  const widths = layout === 'hierarchical' && ledgerId < LONG_FROM ? SHORT : LONG
  const digits = ledgerId.toString().padStart(widths === SHORT ? 10 : 19, '0')
  const parts = cut(digits, widths)
  return `/${parts.slice(0, -1).join('/')}/L${parts.at(-1)}`
}

/** The widths of the digits of each level, for each of the trees a layout has, lower ids first. */
export function ledgerTrees(layout: LedgerLayout): readonly (readonly number[])[] {
  if (layout === 'flat') return []
  return layout === 'hierarchical' ? [SHORT, LONG] : [LONG]
}

/** The node that asks for copies of a ledger, below `underreplication/ledgers`. */
export function underreplicatedPath(ledgerId: bigint): string {
  const hex = ledgerId.toString(16).padStart(16, '0')
  return `/${cut(hex, [4, 4, 4, 4]).join('/')}/urL${ledgerId.toString().padStart(10, '0')}`
}

/** The ledger whose copies the node of that name asks for; null: it is none of these nodes. */
export function underreplicatedLedger(name: string): bigint | null {
  const [, digits] = /^urL(\d{10,19})$/.exec(name) ?? []
  return digits === undefined ? null : BigInt(digits)
}

function cut(digits: string, widths: readonly number[]): string[] {
  let at = 0
  return widths.map((width) => {
    at += width
    return digits.slice(at - width, at)
  })
}
