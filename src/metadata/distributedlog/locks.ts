import { isStratalogError, StratalogError } from '../../model/errors.js'
import type { Incarnation } from '../../model/segment.js'
import type { Clock } from '../../ports/clock.js'
import type { Coordination, Lease } from '../../ports/coordination.js'
import type { Logger } from '../../ports/logger.js'
import type { ZooKeeper } from '../../zookeeper/client.js'
import { outcomeUnknown } from '../../zookeeper/errors.js'

/** The writers' locks this process holds, by incarnation: each change of a writer checks that its node is still there. */
export class HeldLocks {
  readonly #nodes = new Map<Incarnation, string>()

  /** The lock node of a stream; null: this process does not hold it. */
  held(incarnation: Incarnation): string | null {
    return this.#nodes.get(incarnation) ?? null
  }

  /** Notes that a lock is held, until the returned function is called. */
  take(incarnation: Incarnation, node: string): () => void {
    this.#nodes.set(incarnation, node)
    return () => {
      if (this.#nodes.get(incarnation) === node) this.#nodes.delete(incarnation)
    }
  }
}

export interface DistributedLogLocksParts {
  readonly zk: ZooKeeper
  readonly clock: Clock
  readonly logger: Logger
  /** What other writers read: who has the lock. */
  readonly clientId: string
  /** The node below which the writers of a stream queue. */
  readonly lockPath: (incarnation: Incarnation) => Promise<string>
  readonly held: HeldLocks
  /** Every other lease. */
  readonly others: Coordination
}

const WRITER = 'writer/'
const RELEASES_MAX = 5
const RELEASE_PAUSE_MS = 200
/** Between looks at the own node that are not answered. */
const RELOOK_MS = 500

type AcquireOptions = Parameters<Coordination['acquire']>[1]

/**
 * Writers' leases as DistributedLog's writers take them (FORMATS.md §5.8), so that its writers and ours keep out of
 * each other's way: an ephemeral sequential node below `lock`, the lowest one owns. The number is the epoch. The lock
 * alone protects nothing: what does is the fencing of ledgers, and that every multi checks the node.
 */
export class DistributedLogLocks implements Coordination {
  readonly #parts: DistributedLogLocksParts
  /** One at a time of this process queues for a lock: two nodes of one session could not be told apart. */
  readonly #turns = new Map<string, { readonly holder: string; readonly ended: Promise<void> }>()
  readonly #closing = new AbortController()
  readonly #leases = new Set<LockLease>()

  constructor(parts: DistributedLogLocksParts) {
    this.#parts = parts
  }

  async acquire(name: string, options: AcquireOptions): Promise<Lease> {
    if (!name.startsWith(WRITER)) return this.#parts.others.acquire(name, options)
    this.#closing.signal.throwIfAborted()
    options.signal?.throwIfAborted()
    const incarnation = name.slice(WRITER.length)
    const lock = await this.#parts.lockPath(incarnation)
    const wait = new Wait(this.#parts.clock, options, this.#closing.signal)
    try {
      const release = await this.#turn(lock, name, options.holder, wait)
      try {
        return await this.#enter(lock, name, incarnation, wait, release)
      } catch (error) {
        release()
        throw error
      }
    } finally {
      wait.end()
    }
  }

  async holder(name: string): Promise<string | null> {
    if (!name.startsWith(WRITER)) return (await this.#parts.others.holder?.(name)) ?? null
    const lock = await this.#parts.lockPath(name.slice(WRITER.length))
    const [first] = await this.#members(lock)
    return first === undefined ? null : this.#owner(lock, first)
  }

  /** Every lease is lost and every waiter refused; then the others'. Idempotent. */
  async close(): Promise<void> {
    this.#closing.abort(new StratalogError('closed', 'the locks of writers have been closed'))
    const leases = [...this.#leases]
    for (const lease of leases) lease.lose(lostError(lease.name, 'the log has been closed'))
    await Promise.all(leases.map((lease) => lease.release()))
    await this.#parts.others.close()
  }

  /** Waits for the lease of this process to end. */
  async #turn(lock: string, name: string, holder: string, wait: Wait): Promise<() => void> {
    for (let before = this.#turns.get(lock); before !== undefined; before = this.#turns.get(lock)) {
      if (wait.atOnce || !(await wait.until(before.ended)))
        throw heldError(name, `this process (${before.holder})`)
    }
    let end: () => void = () => undefined
    const ended = new Promise<void>((resolve) => {
      end = resolve
    })
    const turn = { holder, ended }
    this.#turns.set(lock, turn)
    return () => {
      // Called twice it must not end the turn of who came after.
      if (this.#turns.get(lock) === turn) this.#turns.delete(lock)
      end()
    }
  }

  async #enter(
    lock: string,
    name: string,
    incarnation: Incarnation,
    wait: Wait,
    release: () => void,
  ): Promise<Lease> {
    const { zk, held } = this.#parts
    await this.#sweep(lock)
    const before = (await this.#members(lock))[0]
    if (wait.atOnce && before !== undefined) throw heldError(name, await this.#owner(lock, before))
    // Both of one session, and before the node is made, which is made in that session or not at all.
    const { lost, sessionId } = zk
    const node = await this.#join(lock, sessionId)
    try {
      await this.#queue(lock, node, name, wait)
      lost.throwIfAborted()
    } catch (error) {
      await this.#leave(node)
      throw error
    }
    const forget = held.take(incarnation, node)
    const lease = new LockLease(name, epochOf(node), lost, async () => {
      forget()
      this.#leases.delete(lease)
      await this.#leave(node)
      release()
    })
    this.#leases.add(lease)
    try {
      await this.#watchOwn(lease, node, forget)
    } catch (error) {
      // Nobody gets this lease: its node would keep other processes out as long as the session lives.
      await lease.release()
      throw error
    }
    return lease
  }

  /** Nodes of this session that nobody knows of: an answer was lost. */
  async #sweep(lock: string): Promise<void> {
    const session = sessionText(this.#parts.zk.sessionId)
    for (const member of await this.#members(lock))
      if (member.session === session) await this.#leave(`${lock}/${member.name}`)
  }

  async #join(lock: string, sessionId: bigint): Promise<string> {
    const { zk, clientId } = this.#parts
    const session = sessionText(sessionId)
    const path = `${lock}/member_${urlEncoded(clientId)}_s${session}_`
    const options = { ephemeral: true, sequential: true, session: sessionId }
    const create = () => zk.create(path, new TextEncoder().encode(clientId), options)
    try {
      return await create()
    } catch (error) {
      if (!outcomeUnknown(error)) throw error
      await zk.sync(lock)
      const made = (await this.#members(lock)).find((member) => member.session === session)
      return made === undefined ? create() : `${lock}/${made.name}`
    }
  }

  /** Waits until no node stands before ours. */
  async #queue(lock: string, node: string, name: string, wait: Wait): Promise<void> {
    const { zk } = this.#parts
    const own = node.slice(lock.length + 1)
    for (;;) {
      const members = await this.#members(lock)
      const at = members.findIndex((member) => member.name === own)
      if (at < 0) throw lostError(name, 'its node in ZooKeeper is gone')
      const before = members[at - 1]
      if (before === undefined) return
      let gone: () => void = () => undefined
      const changed = new Promise<void>((resolve) => {
        gone = resolve
      })
      const path = `${lock}/${before.name}`
      try {
        if ((await zk.exists(path, gone)) === null) continue
        if (wait.atOnce || !(await wait.until(changed))) {
          const first = members[0] ?? before
          throw heldError(name, await this.#owner(lock, first))
        }
      } finally {
        // Who asks again and again for a lock that another keeps would leave a watch each time.
        zk.forget(path, gone)
      }
    }
  }

  /** Ascending by their numbers; who has no number is none of DistributedLog's and owns nothing. */
  async #members(lock: string): Promise<Member[]> {
    const children = await this.#parts.zk.children(lock)
    if (children === null)
      throw new StratalogError('stream_not_found', `${lock} is not there: the stream was deleted`)
    return children.names.flatMap(memberOf).sort((a, b) => a.sequence - b.sequence)
  }

  async #owner(lock: string, member: Member): Promise<string> {
    const node = await this.#parts.zk.get(`${lock}/${member.name}`)
    return node === null ? 'another writer' : new TextDecoder().decode(node.data)
  }

  /**
   * Watches the own node. A look that fails is made again until it is answered: a watch that fired is gone, and without
   * another one nobody would tell that the node is.
   */
  async #watchOwn(lease: LockLease, node: string, forget: () => void): Promise<void> {
    const { zk, clock, logger } = this.#parts
    const ended = () => lease.ended || lease.lost.aborted
    let looking = false
    let changed = false
    const look = async (): Promise<void> => {
      if (ended() || (await zk.exists(node, lookAgain)) !== null) return
      forget()
      lease.lose(lostError(lease.name, 'its node in ZooKeeper is gone'))
    }
    const keepLooking = async (): Promise<void> => {
      while (changed && !ended()) {
        changed = false
        try {
          await look()
        } catch (error) {
          // The session decides meanwhile: `lost` is aborted in time whether ZooKeeper answers or not.
          logger.warn(
            { err: error, lock: lease.name },
            'a writer could not look after its lock, it tries again',
          )
          changed = true
          await clock.sleep(RELOOK_MS)
        }
      }
      looking = false
    }
    const lookAgain = (): void => {
      changed = true
      if (looking) return
      looking = true
      void keepLooking()
    }
    await look()
  }

  /** Tries more than once: a node that stays keeps others out until the session ends. */
  async #leave(node: string): Promise<void> {
    const { zk, clock, logger } = this.#parts
    for (let round = 1; ; round += 1) {
      try {
        await zk.delete(node, 0)
        return
      } catch (error) {
        if (isStratalogError(error, 'not_found') || isStratalogError(error, 'closed')) return
        if (round >= RELEASES_MAX || !isStratalogError(error, 'metadata_unavailable')) {
          logger.warn({ err: error, node }, 'a lock could not be given back: it ends with the session')
          return
        }
        await clock.sleep(RELEASE_PAUSE_MS)
      }
    }
  }
}

interface Member {
  readonly name: string
  readonly session: string
  readonly sequence: number
}

function memberOf(name: string): Member[] {
  const [, session = '', sequence] = /^member_.*_s( *-?\d+)_(\d{10})$/.exec(name) ?? []
  return sequence === undefined ? [] : [{ name, session, sequence: Number(sequence) }]
}

/** Java's `%10d`. */
function sessionText(sessionId: bigint): string {
  return BigInt.asIntN(64, sessionId).toString().padStart(10)
}

/** Java's URLEncoder. */
function urlEncoded(text: string): string {
  return encodeURIComponent(text)
    .replace(/[!'()~]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`)
    .replace(/%20/g, '+')
}

function epochOf(node: string): bigint {
  return BigInt(node.slice(-10)) + 1n
}

/** How long one call of `acquire` may wait. */
class Wait {
  readonly atOnce: boolean
  readonly #end = new AbortController()
  readonly #stop: AbortSignal
  readonly #elapsed: Promise<false>

  constructor(clock: Clock, { waitMs, signal }: AcquireOptions, closing: AbortSignal) {
    this.atOnce = waitMs <= 0
    this.#stop = AbortSignal.any([closing, this.#end.signal, ...(signal === undefined ? [] : [signal])])
    this.#elapsed = clock.sleep(Math.max(0, waitMs), this.#stop).then(() => false as const)
    this.#elapsed.catch(() => undefined)
  }

  /** Whether `event` came before the time ran out; rejects with the reason when it is given up. */
  until(event: Promise<void>): Promise<boolean> {
    return Promise.race([event.then(() => true), this.#elapsed])
  }

  end(): void {
    this.#end.abort()
  }
}

class LockLease implements Lease {
  readonly name: string
  readonly epoch: bigint
  ended = false
  readonly #lost = new AbortController()
  /** Of the session, which outlives many leases: what listens to it ends with the lease. */
  readonly #listening = new AbortController()
  readonly #give: () => Promise<void>

  constructor(name: string, epoch: bigint, session: AbortSignal, give: () => Promise<void>) {
    this.name = name
    this.epoch = epoch
    this.#give = give
    const lose = () => this.lose(lostError(name, 'the session of ZooKeeper is lost', session.reason))
    if (session.aborted) lose()
    else session.addEventListener('abort', lose, { once: true, signal: this.#listening.signal })
  }

  get lost(): AbortSignal {
    return this.#lost.signal
  }

  async release(): Promise<void> {
    if (this.ended) return
    this.ended = true
    this.#listening.abort()
    await this.#give()
  }

  lose(reason: StratalogError): void {
    this.#lost.abort(reason)
  }
}

function lostError(name: string, why: string, cause?: unknown): StratalogError {
  return new StratalogError(
    'lease_lost',
    `the lease ${name} is lost: ${why}`,
    cause === undefined ? {} : { cause },
  )
}

function heldError(name: string, holder: string): StratalogError {
  return new StratalogError(
    'conflict',
    `the lease ${name} is held by ${holder}: wait for it or stop the holder`,
    { retryable: true, expected: null, found: holder },
  )
}
