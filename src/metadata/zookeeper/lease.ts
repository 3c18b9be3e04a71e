import { StratalogError } from '../../model/errors.js'
import type { Clock } from '../../ports/clock.js'
import type { Lease } from '../../ports/coordination.js'
import type { Random } from '../../ports/random.js'
import type { ZkOp, ZooKeeper } from '../../zookeeper/client.js'
import { outcomeUnknown } from '../../zookeeper/errors.js'
import { isZk, parentOf, sequenceOf, TRIES_MAX } from './nodes.js'

const NAME = /^m-[0-9a-f]{16}-\d{10}$/
/** `m-`, eight random bytes in hex, `-`. */
const PREFIX_LENGTH = 19
const RETRY_MS = 500

/** One that wants a lease, or has it: an ephemeral node. */
export interface Member {
  readonly name: string
  readonly path: string
  /** Of the session that the node hangs on. */
  readonly lost: AbortSignal
}

/** The members of one lease. A name carries random bytes, by which a node is found whose creation was not answered. */
export class Membership {
  readonly node: string
  readonly #zk: ZooKeeper
  readonly #clock: Clock
  readonly #random: Random
  readonly #name: string

  constructor(
    zk: ZooKeeper,
    ports: { readonly clock: Clock; readonly random: Random },
    node: string,
    name: string,
  ) {
    this.#zk = zk
    this.#clock = ports.clock
    this.#random = ports.random
    this.node = node
    this.#name = name
  }

  /** The members, first comes first; null: nobody ever asked for the lease. */
  async names(): Promise<string[] | null> {
    const found = await this.#zk.children(this.node)
    if (found === null) return null
    const number = (name: string) => sequenceOf(name, name.slice(0, PREFIX_LENGTH))
    return found.names.filter((name) => NAME.test(name)).sort((a, b) => number(a) - number(b))
  }

  /** What a member calls itself. */
  async holder(member: string): Promise<string> {
    const found = await this.#zk.get(`${this.node}/${member}`)
    return found === null ? 'one that has just gone' : Buffer.from(found.data).toString('utf8')
  }

  async enter(holder: string): Promise<Member> {
    const token = Buffer.from(this.#random.bytes(8)).toString('hex')
    const prefix = `${this.node}/m-${token}-`
    // Both of one session, and the node in that one alone: in a later one nobody would ever take it away, for who asked
    // has lost its session by then, and it would keep everybody out as long as the later session lives.
    const { lost, sessionId: session } = this.#zk
    try {
      const options = { ephemeral: true, sequential: true, session }
      const path = await this.#zk.create(prefix, Buffer.from(holder, 'utf8'), options)
      return { name: path.slice(this.node.length + 1), path, lost }
    } catch (error) {
      // It may be there nevertheless: nobody would ever release it.
      if (outcomeUnknown(error)) this.#withdraw(token, lost).catch(() => undefined)
      throw error
    }
  }

  /** The member before this one, or null: it is its turn. */
  async before(member: Member): Promise<string | null> {
    const names = (await this.names()) ?? []
    const at = names.indexOf(member.name)
    if (at >= 0) return names[at - 1] ?? null
    throw lost(this.#name, 'its node in ZooKeeper is gone')
  }

  /** Resolves when `name` may have gone, or after `waitMs`; rejects with the reason of `signal`. */
  async gone(name: string, waitMs: number, signal: AbortSignal): Promise<void> {
    const stop = new AbortController()
    const sleeping = this.#clock.sleep(waitMs, AbortSignal.any([stop.signal, signal]))
    const path = `${this.node}/${name}`
    let call = (): void => undefined
    const called = new Promise<void>((resolve) => {
      call = resolve
    })
    const looked = this.#zk.exists(path, call)
    const changed = looked.then((found) => (found === null ? undefined : called))
    changed.catch(() => undefined)
    sleeping.catch(() => undefined)
    try {
      await Promise.race([changed, sleeping])
    } catch (error) {
      throw signal.aborted ? signal.reason : error
    } finally {
      stop.abort()
      // Who asks again and again for a lease that another keeps would leave a watch each time.
      const forget = (): void => this.#zk.forget(path, call)
      looked.then(forget, forget)
    }
  }

  /** Loses the lease with its session, and when somebody deletes its node. */
  watchOver(member: Member, lease: HeldLease): void {
    const look = (): void => {
      if (lease.over) return
      this.#zk.exists(member.path, look).then(
        (found) => {
          if (found === null) lease.lose('its node in ZooKeeper is gone')
        },
        // Without ZooKeeper nothing is known; the session's own deadline ends the lease.
        () => this.#clock.setTimer(RETRY_MS, look),
      )
    }
    look()
  }

  /** Takes the member's node away, now or as soon as ZooKeeper can be asked; with the session it goes by itself. */
  leave(member: Member): void {
    const withdraw = () => this.#withdraw(tokenOf(member.name), member.lost)
    // A session lost here is one that the server may still hold: its node stands in the way until then.
    const left = member.lost.aborted ? withdraw() : this.left(member).catch(withdraw)
    left.catch(() => undefined)
  }

  /** As `leave`, and resolves when it is done. */
  async left(member: Member): Promise<void> {
    for (let tries = 1; !member.lost.aborted; tries++) {
      try {
        await this.#zk.delete(member.path, 0)
        return
      } catch (error) {
        if (isZk(error, 'not_found') || member.lost.aborted) return
        if (tries === TRIES_MAX) throw error
      }
    }
  }

  /**
   * Deletes what has the token, as long as the session lives: until then it may stand in everybody's way. At least once:
   * the server may hold a session longer than who had it.
   */
  async #withdraw(token: string, lost: AbortSignal): Promise<void> {
    for (;;) {
      try {
        await this.#zk.sync(parentOf(this.node))
        const found = ((await this.names()) ?? []).filter((name) => tokenOf(name) === token)
        for (const name of found) await this.#zk.delete(`${this.node}/${name}`, 0)
        return
      } catch (error) {
        if (isZk(error, 'not_found')) return
        await this.#clock.sleep(RETRY_MS, lost)
      }
    }
  }
}

/** A lease that was granted. */
export class HeldLease implements Lease {
  readonly name: string
  readonly epoch: bigint
  readonly check: ZkOp
  readonly #member: Member
  readonly #lost = new AbortController()
  readonly #left: () => Promise<void>
  #released: Promise<void> | null = null

  constructor(name: string, epoch: bigint, member: Member, left: () => Promise<void>) {
    this.name = name
    this.epoch = epoch
    this.#member = member
    this.#left = left
    this.check = { op: 'check', path: member.path, version: 0 }
    member.lost.addEventListener('abort', this.#sessionLost, { once: true })
    if (member.lost.aborted) this.#sessionLost()
  }

  get lost(): AbortSignal {
    return this.#lost.signal
  }

  /** Released or lost. */
  get over(): boolean {
    return this.#released !== null || this.#lost.signal.aborted
  }

  release(): Promise<void> {
    this.#member.lost.removeEventListener('abort', this.#sessionLost)
    this.#released ??= this.#left()
    return this.#released
  }

  lose(why: string, cause?: unknown): void {
    if (!this.over) this.#lost.abort(lost(this.name, why, cause))
  }

  readonly #sessionLost = (): void => {
    this.lose('the session of ZooKeeper is over', this.#member.lost.reason)
  }
}

function tokenOf(name: string): string {
  return name.slice(2, PREFIX_LENGTH - 1)
}

function lost(name: string, why: string, cause?: unknown): StratalogError {
  return new StratalogError('lease_lost', `the lease ${name} is lost: ${why}`, {
    ...(cause === undefined ? {} : { cause }),
  })
}
