import { LONG_FROM } from '../../format/ledger-paths.js'
import { StratalogError } from '../../model/errors.js'
import type { ZooKeeper } from '../../zookeeper/client.js'
import { outcomeUnknown } from '../../zookeeper/errors.js'
import { ensureNode, isZk, parentOf, sequenceOf, TRIES_MAX } from './nodes.js'

const EMPTY = new Uint8Array(0)
const HOB = 'HOB-'
const HOB_MAX = 2 ** 31 - 1

/**
 * Ids of ledgers, as ZooKeeper numbers nodes (ZkLedgerIdGenerator.java, LongZkLedgerIdGenerator.java): the number of an
 * ephemeral node below `idgen`, and when those 31 bits are used up, for all the cluster and for ever, the number of one
 * below `idgen-long/HOB-h`, with h in the upper half.
 */
export class LedgerIds {
  readonly #zk: ZooKeeper
  readonly #root: string
  /** A flat layout has its numbers in the root and no more than 31 bits. */
  readonly #flat: boolean

  constructor(zk: ZooKeeper, root: string, flat: boolean) {
    this.#zk = zk
    this.#root = root
    this.#flat = flat
  }

  async next(): Promise<bigint> {
    if (this.#flat) {
      const id = await this.#number(`${this.#root}/ID-`)
      if (id !== null) return BigInt(id)
      throw new StratalogError(
        'refused',
        'the 2^31 ids of a flat layout of ledgers are used up: begin a cluster with another layout',
      )
    }
    const long = `${this.#root}/idgen-long`
    if ((await this.#zk.exists(long)) === null) {
      const id = await this.#number(`${this.#root}/idgen/ID-`)
      if (id !== null) return BigInt(id)
      await ensureNode(this.#zk, long)
    }
    return this.#long(long)
  }

  async #long(long: string): Promise<bigint> {
    const found = (await this.#zk.children(long))?.names ?? []
    const highest = Math.max(
      0,
      ...found.map((name) => (/^HOB-\d{10}$/.test(name) ? sequenceOf(name, HOB) : 0)),
    )
    for (let high = Math.max(1, highest); high <= HOB_MAX; high++) {
      const name = `${HOB}${String(high).padStart(10, '0')}`
      const low = await this.#number(`${long}/${name}/ID-`)
      if (low !== null) return (BigInt(high) << 32n) | BigInt(low)
    }
    throw new StratalogError('refused', 'the ids of ledgers are used up: begin another cluster')
  }

  /** A number that nobody else gets, or null: they have overflowed. */
  async #number(prefix: string): Promise<number | null> {
    for (let tries = 1; ; tries++) {
      try {
        const path = await this.#zk.create(prefix, EMPTY, { ephemeral: true, sequential: true })
        // It has done its work. If deleting it fails, it goes with the session.
        this.#zk.delete(path, 0).catch(ignored)
        const number = sequenceOf(path, prefix)
        return number >= 0 && BigInt(number) < LONG_FROM ? number : null
      } catch (error) {
        // A node whose answer was lost is a number that nobody uses: asking again takes another.
        if (tries === TRIES_MAX || !(isZk(error, 'not_found') || outcomeUnknown(error))) throw error
        if (isZk(error, 'not_found')) await ensureNode(this.#zk, parentOf(prefix))
      }
    }
  }
}

function ignored(): void {}
