import { StratalogError } from '../../model/errors.js'
import type { Clock } from '../../ports/clock.js'
import type { Coordination, Lease } from '../../ports/coordination.js'
import type { Random } from '../../ports/random.js'
import type { ZkOp, ZooKeeper } from '../../zookeeper/client.js'
import { outcomeUnknown } from '../../zookeeper/errors.js'
import { HeldLease, type Member, Membership } from './lease.js'
import { ensureNode, isZk, TRIES_MAX } from './nodes.js'

/** What leases need from outside. */
export interface ZkCoordinationOptions {
  /** A node of ours, below which the leases are. */
  readonly root: string
  readonly clock: Clock
  readonly random: Random
}

/** The options of {@link Coordination.acquire}. */
type AcquireOptions = Parameters<Coordination['acquire']>[1]

/** A lease with the operation that makes a multi fail once the lease is another's. */
export interface ZkLease extends Lease {
  readonly check: ZkOp
}

/**
 * Leases among processes. Each name is a node that stays and holds the epoch; who wants the lease makes an ephemeral
 * sequential child of it, and the lowest has it. The epoch is raised in one multi with a check of that child, so who
 * has lost its session meanwhile gets none, and then the lease is given out.
 */
export class ZkCoordination implements Coordination {
  readonly #zk: ZooKeeper
  readonly #options: ZkCoordinationOptions
  readonly #closing = new AbortController()
  readonly #held = new Set<HeldLease>()

  constructor(zk: ZooKeeper, options: ZkCoordinationOptions) {
    this.#zk = zk
    this.#options = options
  }

  async acquire(name: string, options: AcquireOptions): Promise<ZkLease> {
    this.#closing.signal.throwIfAborted()
    options.signal?.throwIfAborted()
    const endMs = this.#options.clock.monotonicMs() + Math.max(0, options.waitMs)
    const node = `${this.#options.root}/${encodeURIComponent(name)}`
    const membership = new Membership(this.#zk, this.#options, node, name)
    const first = await this.#enterable(membership, options)
    if (first !== null && options.waitMs <= 0) throw heldError(name, await membership.holder(first), 0)
    const member = await membership.enter(options.holder)
    try {
      await this.#turn(membership, member, name, options, endMs)
      const epoch = await this.#epoch(node, member, name)
      return this.#grant(membership, member, name, epoch)
    } catch (error) {
      membership.leave(member)
      throw error
    }
  }

  async holder(name: string): Promise<string | null> {
    const node = `${this.#options.root}/${encodeURIComponent(name)}`
    const membership = new Membership(this.#zk, this.#options, node, name)
    const [first] = (await membership.names()) ?? []
    return first === undefined ? null : membership.holder(first)
  }

  /** Every lease is lost and every waiter refused. Idempotent; ZooKeeper stays open. */
  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return
    this.#closing.abort(new StratalogError('closed', 'the leases have been closed'))
    const held = [...this.#held]
    for (const lease of held) lease.lose('the log has been closed')
    await Promise.all(held.map((lease) => lease.release().catch(() => undefined)))
  }

  /** Makes sure of the node of the lease; the member that has it now, or null. */
  async #enterable(membership: Membership, options: AcquireOptions): Promise<string | null> {
    const found = await membership.names()
    options.signal?.throwIfAborted()
    if (found !== null) return found[0] ?? null
    await ensureNode(this.#zk, membership.node)
    return null
  }

  /** Resolves when nobody is before this member. */
  async #turn(
    membership: Membership,
    member: Member,
    name: string,
    options: AcquireOptions,
    endMs: number,
  ): Promise<void> {
    for (;;) {
      const before = await membership.before(member)
      this.#closing.signal.throwIfAborted()
      options.signal?.throwIfAborted()
      if (member.lost.aborted) throw lostError(name, member.lost.reason)
      if (before === null) return
      const leftMs = endMs - this.#options.clock.monotonicMs()
      if (leftMs <= 0) throw heldError(name, await membership.holder(before), options.waitMs)
      const signals = [this.#closing.signal, member.lost, ...(options.signal ? [options.signal] : [])]
      await membership.gone(before, leftMs, AbortSignal.any(signals))
    }
  }

  /** Raises the epoch, if the member is still there; durable before it is given out. */
  async #epoch(node: string, member: Member, name: string): Promise<bigint> {
    for (let tries = 1; ; tries++) {
      const found = await this.#zk.get(node)
      const epoch = epochIn(found?.data ?? new Uint8Array(0), node) + 1n
      const data = Buffer.from(JSON.stringify({ epoch: `${epoch}`, member: member.name }), 'utf8')
      try {
        await this.#zk.multi([
          { op: 'check', path: member.path, version: 0 },
          { op: 'set', path: node, data, version: found?.stat.version ?? 0 },
        ])
        return epoch
      } catch (error) {
        // Its member is gone, and with it its turn.
        if (isZk(error, 'not_found')) throw lostError(name, error)
        // An epoch whose answer was lost is one that nobody has: the next one is above it.
        if (tries === TRIES_MAX || !(outcomeUnknown(error) || isZk(error, 'conflict'))) throw error
      }
    }
  }

  #grant(membership: Membership, member: Member, name: string, epoch: bigint): ZkLease {
    this.#closing.signal.throwIfAborted()
    const lease = new HeldLease(name, epoch, member, () => {
      this.#held.delete(lease)
      return membership.left(member)
    })
    this.#held.add(lease)
    membership.watchOver(member, lease)
    return lease
  }
}

function epochIn(data: Uint8Array, node: string): bigint {
  if (data.length === 0) return 0n
  try {
    const { epoch } = JSON.parse(Buffer.from(data).toString('utf8')) as { readonly epoch?: unknown }
    if (typeof epoch === 'string' && /^\d{1,30}$/.test(epoch)) return BigInt(epoch)
  } catch {
    // Said below, as for any other content.
  }
  throw new StratalogError(
    'corrupt',
    `the node ${node} of ZooKeeper holds no epoch, so it was changed by hand: stop who uses it and write {"epoch":"N"} there, N above any epoch before`,
    {
      found: Buffer.from(data).toString('utf8').slice(0, 200),
    },
  )
}

function heldError(name: string, holder: string, waitMs: number): StratalogError {
  const waited = waitMs > 0 ? ` still after ${waitMs} ms` : ''
  return new StratalogError(
    'conflict',
    `the lease ${name} is held by ${holder}${waited}: wait for it or stop the holder`,
    { retryable: true, expected: null, found: holder },
  )
}

function lostError(name: string, cause: unknown): StratalogError {
  const message = `the session of ZooKeeper was lost while waiting for the lease ${name}: ask again`
  return new StratalogError('lease_lost', message, { retryable: true, cause })
}
