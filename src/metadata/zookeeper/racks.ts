import { StratalogError } from '../../model/errors.js'
import type { Random } from '../../ports/random.js'

/** What bookies without a rack of their own are in: as Java has it. */
const RACK_DEFAULT = '/default-region/default-rack'

/** A rack, with the region and whatever else it is in. */
const RACK = /^(?:\/[^/\s]+){1,4}$/

/** What a rack mapping says of a bookie. */
export type RackOf = (id: string, host: string) => string | undefined

/**
 * A mapping of bookies to racks: lines of `bookie rack`, the bookie by its id or its host, the rack as `/region/rack`.
 * Empty lines and those after `#` are skipped. `config_invalid` names the line.
 */
export function parseRacks(text: string, file: string): RackOf {
  const racks = new Map<string, string>()
  for (const [at, line] of text.split('\n').entries()) {
    const words = (line.split('#')[0] ?? '').trim().split(/\s+/)
    if (words.length === 1 && words[0] === '') continue
    const [bookie, rack] = words
    if (bookie === undefined || rack === undefined || words.length > 2 || !isRack(rack)) {
      throw new StratalogError(
        'config_invalid',
        `${file}, line ${at + 1}: write a bookie and its rack, as in "10.0.0.7:3181 /europe/r1"`,
        { found: line.slice(0, 200) },
      )
    }
    racks.set(bookie, rack)
  }
  return (id, host) => racks.get(id) ?? racks.get(host)
}

/** Whether a text names a rack, as `/region/rack`. */
export function isRack(text: string): boolean {
  return RACK.test(text)
}

/** The isolation groups of a bookie: none but those the mapping names. */
export type GroupsOf = (id: string, host: string) => readonly string[]

/**
 * A mapping of bookies to isolation groups: lines of `bookie group…`, the bookie by its id or its host. Empty lines and
 * those after `#` are skipped. `config_invalid` names the line.
 */
export function parseGroups(text: string, file: string): GroupsOf {
  const groups = new Map<string, readonly string[]>()
  for (const [at, line] of text.split('\n').entries()) {
    const [bookie = '', ...names] = (line.split('#')[0] ?? '').trim().split(/\s+/)
    if (bookie === '') continue
    // By that word a policy says that all bookies will do.
    if (names.length === 0 || names.includes('any')) {
      throw new StratalogError(
        'config_invalid',
        `${file}, line ${at + 1}: write a bookie and its groups, as in "10.0.0.7:3181 gold"; no group is called any`,
        { found: line.slice(0, 200) },
      )
    }
    groups.set(bookie, names)
  }
  return (id, host) => groups.get(id) ?? groups.get(host) ?? []
}

/** How far two racks are from each other: 0 the same one, 1 in one region, 2 in different ones. */
export function rackDistance(one: string = RACK_DEFAULT, other: string = RACK_DEFAULT): number {
  if (one === other) return 0
  const region = (rack: string) => rack.split('/')[1]
  return region(one) === region(other) ? 1 : 2
}

/** The bookies as `spreadOverRacks` orders them, but those first whose racks none of `staying` is in. */
export function spreadBeside<T extends { readonly rack?: string }>(
  bookies: readonly T[],
  staying: readonly T[],
  random: Pick<Random, 'fraction'>,
): T[] {
  const taken = new Set(staying.map(({ rack = RACK_DEFAULT }) => rack))
  const apart = ({ rack = RACK_DEFAULT }: T) => !taken.has(rack)
  const order = spreadOverRacks(bookies, random)
  return [...order.filter(apart), ...order.filter((bookie) => !apart(bookie))]
}

/**
 * The bookies in an order whose beginnings are good ensembles: neighbours are of different racks as far as there are
 * any, so that no window of a write quorum lies within one rack. Which rack and which bookie comes first is drawn.
 * Racks are a wish: where all bookies are in one, or have none, it is only a random order.
 */
export function spreadOverRacks<T extends { readonly rack?: string }>(
  bookies: readonly T[],
  random: Pick<Random, 'fraction'>,
): T[] {
  const byRack = new Map<string, T[]>()
  for (const bookie of shuffled(bookies, random)) {
    const rack = bookie.rack ?? RACK_DEFAULT
    byRack.set(rack, [...(byRack.get(rack) ?? []), bookie])
  }
  const order: T[] = []
  // The fullest rack but the last one used: so the small ones last until the end.
  for (let last: T[] | null = null; order.length < bookies.length; ) {
    const left: T[][] = [...byRack.values()].filter((rack) => rack.length > 0)
    const fullest = (racks: readonly T[][]): T[] | undefined =>
      racks.reduce<T[] | undefined>(
        (most, rack) => (rack.length > (most?.length ?? 0) ? rack : most),
        undefined,
      )
    const rack: T[] | undefined = fullest(left.filter((one) => one !== last)) ?? fullest(left)
    const bookie = rack?.pop()
    if (rack === undefined || bookie === undefined) break
    order.push(bookie)
    last = rack
  }
  return order
}

function shuffled<T>(items: readonly T[], random: Pick<Random, 'fraction'>): T[] {
  const left = [...items]
  const order: T[] = []
  while (left.length > 0) order.push(...left.splice(Math.floor(random.fraction() * left.length), 1))
  return order
}
