import { StratalogError } from '../../src/model/errors.js'
import type { FaultKind, SimOptions } from './options.js'
import type { SimRandom } from './random.js'
import type { Host, Scheduler } from './scheduler.js'
import type { Trace } from './trace.js'

/** After how long the sender of a message that was lost gives up on its answer. */
const GIVE_UP_MS = 5_000

interface Link {
  /** Requests of one connection arrive in order. */
  lastMs: number
  cut: boolean
}

/** One request: who asks whom for what. `kinds` says which faults loss and lost answers count as. */
interface Request<T> {
  readonly from: Host
  readonly to: Host
  readonly what: string
  readonly work: () => Promise<T>
  readonly lostAnswer: FaultKind
  readonly mayLoseRequest: boolean
  readonly mayDuplicate: boolean
}

interface Outstanding {
  readonly to: Host
  /** Tells the life that asked something after a time. One that came after it never asked, and gets no answer. */
  readonly tell: (ms: number, settle: () => void) => void
  readonly reject: (error: Error) => void
}

/** Messages between processes: delayed, lost, sent twice, cut off. Everything it reports as failed is *unknown*. */
export class Network {
  readonly #scheduler: Scheduler
  readonly #random: SimRandom
  readonly #trace: Trace
  readonly #links = new Map<string, Link>()
  readonly #outstanding = new Set<Outstanding>()
  #rates: SimOptions['faults']

  constructor(scheduler: Scheduler, random: SimRandom, trace: Trace, rates: SimOptions['faults']) {
    this.#scheduler = scheduler
    this.#random = random
    this.#trace = trace
    this.#rates = rates
  }

  /** From here on nothing is lost and all links are whole. */
  heal(): void {
    this.#rates = {}
    for (const link of this.#links.values()) link.cut = false
  }

  cut(from: Host, to: Host, cut: boolean): void {
    this.#link(from, to).cut = cut
  }

  isCut(from: Host, to: Host): boolean {
    return this.#link(from, to).cut
  }

  /** Connections to a process that died are reset. */
  hostDied(host: Host): void {
    for (const call of [...this.#outstanding]) {
      if (call.to !== host) continue
      this.#outstanding.delete(call)
      call.reject(unknown(`${host.name} reset the connection`))
    }
  }

  /** Calls `work` on the other host, perhaps twice, perhaps without an answer, perhaps never. */
  call<T>(request: Request<T>): Promise<T> {
    const { from, to, what } = request
    const { instance } = from
    return new Promise((resolve, reject) => {
      const tell: Outstanding['tell'] = (ms, settle) => {
        if (from.instance === instance) this.#scheduler.after(ms, from, settle)
      }
      const call: Outstanding = { to, tell, reject: (error) => tell(0.5, () => reject(error)) }
      const later = (ms: number, error: Error): void => tell(ms, () => reject(error))
      if (this.#link(from, to).cut) {
        const kind = request.mayLoseRequest ? 'partition' : 'metadata-partition'
        this.#trace.fault(kind, `${from.name} → ${to.name} ${what}`)
        later(this.#random.chance(0.5) ? 1 : GIVE_UP_MS, unknown(`${to.name} can't be reached`))
        return
      }
      if (request.mayLoseRequest && this.#happens('loss')) {
        this.#trace.fault('loss', `${from.name} → ${to.name} ${what}`)
        later(GIVE_UP_MS, unknown(`no answer from ${to.name}`))
        return
      }
      this.#outstanding.add(call)
      const link = this.#link(from, to)
      link.lastMs = Math.max(link.lastMs + 0.001, this.#scheduler.nowMs + this.#delayMs(from, to, what))
      this.#scheduler.after(link.lastMs - this.#scheduler.nowMs, null, () =>
        this.#deliver(request, call, resolve, reject),
      )
      if (request.mayDuplicate && this.#happens('duplicate')) this.#deliverAgain(request)
    })
  }

  #deliver<T>(
    request: Request<T>,
    call: Outstanding,
    resolve: (value: T) => void,
    reject: (error: unknown) => void,
  ): void {
    const { to } = request
    if (!this.#outstanding.has(call)) return
    const answer = (settle: () => void): void => {
      if (this.#outstanding.delete(call)) this.#answer(request, call, settle, reject)
    }
    const work = (): void => {
      request.work().then(
        (value) => answer(() => resolve(value)),
        (error: unknown) => answer(() => reject(error)),
      )
    }
    if (!to.up) answer(() => reject(unknown(`${to.name} is down`)))
    // One that is paused reads it when it goes on.
    else if (to.paused) this.#scheduler.after(0, to, work)
    else work()
  }

  #answer<T>(
    request: Request<T>,
    call: Outstanding,
    settle: () => void,
    reject: (error: unknown) => void,
  ): void {
    const { from, to, what } = request
    const cut = this.#link(from, to).cut
    if (cut || this.#happens(request.lostAnswer)) {
      const kind = cut ? (request.mayLoseRequest ? 'partition' : 'metadata-partition') : request.lostAnswer
      this.#trace.fault(kind, `${to.name} → ${from.name} answer to ${what}`)
      call.tell(GIVE_UP_MS, () => reject(unknown(`no answer from ${to.name}`)))
      return
    }
    call.tell(this.#delayMs(from, to, what), settle)
  }

  /** The same request once more, much later, over another connection; nobody waits for its answer. */
  #deliverAgain<T>(request: Request<T>): void {
    const { from, to, what, work } = request
    this.#scheduler.after(this.#random.between(1, 4_000), null, () => {
      if (!to.up || this.#link(from, to).cut) return
      this.#trace.fault('duplicate', `${from.name} → ${to.name} ${what}`)
      this.#scheduler.after(0, to, () => {
        work().catch((error: unknown) =>
          this.#trace.note(`second ${what} failed: ${String(error).slice(0, 80)}`),
        )
      })
    })
  }

  #delayMs(from: Host, to: Host, what: string): number {
    if (!this.#happens('delay')) return this.#random.between(0.05, 0.5)
    const ms = this.#random.chance(0.1) ? this.#random.between(1_000, 40_000) : this.#random.between(1, 500)
    this.#trace.fault('delay', `${from.name} ↔ ${to.name} ${what} ${ms.toFixed(0)} ms`)
    return ms
  }

  #happens(kind: FaultKind): boolean {
    const rate = this.#rates[kind]
    return rate !== undefined && this.#random.chance(rate)
  }

  #link(from: Host, to: Host): Link {
    const name = `${from.name}>${to.name}`
    const known = this.#links.get(name)
    if (known !== undefined) return known
    const link = { lastMs: 0, cut: false }
    this.#links.set(name, link)
    return link
  }
}

function unknown(why: string): StratalogError {
  return new StratalogError('store_unavailable', `${why} in the simulator`, { retryable: true })
}

/** What `call` gets to see of one method call on a remote object. */
export type RemoteCall = (
  name: string,
  args: readonly unknown[],
  work: () => Promise<unknown>,
) => Promise<unknown>

/** An object whose methods run elsewhere: `target` is asked for it at each call, `own` stands in the way. */
export function remote<T extends object>(target: () => T, own: Partial<T>, call: RemoteCall): T {
  const get = (_: object, name: string | symbol): unknown => {
    if (typeof name === 'symbol' || name === 'then') return undefined
    if (name in own) return own[name as keyof T]
    return (...args: unknown[]) =>
      call(name, args, async () => {
        const object = target()
        const method: unknown = object[name as keyof T]
        if (typeof method !== 'function') throw new TypeError(`there is no method ${name}`)
        return (await method.apply(object, args)) as unknown
      })
  }
  return new Proxy(own, { get }) as T
}
