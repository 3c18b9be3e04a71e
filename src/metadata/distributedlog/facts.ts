import { isStratalogError, StratalogError } from '../../model/errors.js'
import type { Clock } from '../../ports/clock.js'
import type { ZkOp, ZooKeeper } from '../../zookeeper/client.js'
import { commit } from './commit.js'
import { factPath } from './paths.js'

/** ZooKeeper takes about a megabyte. */
const FACT_BYTES_MAX = 512 * 1024
const ROUNDS_MAX = 8

/** Small named facts of a whole namespace, one node each. */
export class NamespaceFacts {
  readonly #parts: { readonly zk: ZooKeeper; readonly clock: Clock; readonly namespace: string }

  constructor(parts: { readonly zk: ZooKeeper; readonly clock: Clock; readonly namespace: string }) {
    this.#parts = parts
  }

  async read(name: string): Promise<string | null> {
    const node = await this.#parts.zk.get(factPath(this.#parts.namespace, name))
    return node === null ? null : new TextDecoder().decode(node.data)
  }

  /** The last one wins, as it was asked. */
  async write(name: string, value: string): Promise<void> {
    const { zk, clock, namespace } = this.#parts
    const path = factPath(namespace, name)
    const data = new TextEncoder().encode(value)
    if (data.length > FACT_BYTES_MAX)
      throw new StratalogError(
        'refused',
        `the fact ${name} has ${data.length} bytes, ${FACT_BYTES_MAX} are the limit`,
      )
    for (let round = 1; ; round += 1) {
      const before = await zk.exists(path)
      const op: ZkOp =
        before === null ? { op: 'create', path, data } : { op: 'set', path, data, version: before.version }
      try {
        await commit(zk, clock, `note ${name}`, [op])
        return
      } catch (error) {
        if (!isStratalogError(error, 'conflict') || round >= ROUNDS_MAX) throw error
      }
    }
  }
}
