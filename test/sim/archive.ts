import { decodeControlKey, decodeSegmentKey } from '../../src/format/archive-names.js'
import { StratalogError } from '../../src/model/errors.js'
import type { ArchivedKey, ArchiveStore, ReplayableBody } from '../../src/ports/archive-store.js'
import type { FaultKind, SimOptions } from './options.js'
import type { SimRandom } from './random.js'
import type { Host, Scheduler } from './scheduler.js'
import type { Step, Steps } from './steps.js'
import type { Trace } from './trace.js'

/** How long a process waits for an archive that does not answer. */
const GIVE_UP_MS = 5_000
/** Keys of one page where a listing comes in small ones. */
const SMALL_PAGE = 2
/** How often an upload is damaged while that fault lasts, of those that are. */
const DAMAGES = 0.3

/** What is wrong on the way to the archive, for all processes of a world; its disk has faults of its own. */
export class ArchiveTrouble {
  readonly scheduler: Scheduler
  readonly random: SimRandom
  readonly trace: Trace
  /** Processes that can't reach it. */
  readonly cut: Set<Host> = new Set()
  /** What was uploaded, byte for byte, where the planted bug compares with that instead of with what is stored. */
  readonly sent: Map<string, Uint8Array> = new Map()
  /** When it last failed somebody. */
  failedMs: number = Number.NEGATIVE_INFINITY
  #rates: SimOptions['faults']
  #damagesLeft: number

  constructor(scheduler: Scheduler, random: SimRandom, trace: Trace, rates: SimOptions['faults']) {
    this.scheduler = scheduler
    this.random = random
    this.trace = trace
    this.#rates = rates
    this.#damagesLeft = rates['archive-damage'] ?? 0
  }

  heal(): void {
    this.#rates = {}
    this.#damagesLeft = 0
    this.cut.clear()
  }

  happens(kind: FaultKind, what: string): boolean {
    const rate = this.#rates[kind]
    if (rate === undefined || !this.random.chance(rate)) return false
    this.trace.fault(kind, what)
    return true
  }

  damages(key: string): boolean {
    if (this.#damagesLeft === 0 || !this.random.chance(DAMAGES)) return false
    this.#damagesLeft -= 1
    this.trace.fault('archive-damage', key.slice(-20))
    return true
  }
}

/** What a process does with the archive it reaches over the wire. */
export interface ArchiveUser {
  readonly host: Host
  readonly steps: Steps
  /** Tiering: its uploads may be damaged, and what it reads is read back to be compared. */
  readonly tiers: boolean
  /** The planted bug that takes what was sent for what is stored. */
  readonly believes: boolean
}

/**
 * The archive as one process has it: calls are slow, fail before their effect or after it, are answered late, and break
 * off in the middle. Whatever fails is *unavailable*, and nothing is known of it.
 */
export class RemoteArchive implements ArchiveStore {
  readonly #inner: ArchiveStore
  readonly #trouble: ArchiveTrouble
  readonly #user: ArchiveUser
  readonly removeLeftovers: NonNullable<ArchiveStore['removeLeftovers']>

  constructor(inner: ArchiveStore, trouble: ArchiveTrouble, user: ArchiveUser) {
    this.#inner = inner
    this.#trouble = trouble
    this.#user = user
    this.removeLeftovers = async () =>
      this.#call('leftovers', null, async () => (await inner.removeLeftovers?.()) ?? 0)
  }

  get location(): string {
    return this.#inner.location
  }

  get capabilities(): ArchiveStore['capabilities'] {
    return this.#inner.capabilities
  }

  putIfAbsent(
    key: string,
    body: ReplayableBody,
    options?: Parameters<ArchiveStore['putIfAbsent']>[2],
  ): Promise<void> {
    const { happens, isSegment } = {
      happens: this.#trouble.happens.bind(this.#trouble),
      isSegment: segment(key),
    }
    let sent = body
    if (isSegment && this.#user.tiers) sent = this.#damaged(key, sent)
    if (happens('archive-cut', `put ${key.slice(-20)}`)) sent = cutOff(sent)
    const step = isSegment ? 'copy' : decodeControlKey(key) === null ? null : 'tell'
    return this.#call(`put ${key.slice(-20)}`, step, () => this.#inner.putIfAbsent(key, sent, options))
  }

  head(key: string, signal?: AbortSignal): Promise<ArchivedKey | null> {
    return this.#call('head', segment(key) ? 'check' : null, () => this.#inner.head(key, signal))
  }

  async readRange(
    key: string,
    offset: number,
    lengthBytes: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    const step = this.#user.tiers && segment(key) ? 'verify' : null
    const sent = this.#user.tiers && this.#user.believes ? this.#trouble.sent.get(key) : undefined
    return this.#call('read', step, async () =>
      sent === undefined
        ? this.#inner.readRange(key, offset, lengthBytes, signal)
        : Buffer.from(sent.subarray(offset, offset + lengthBytes)),
    )
  }

  /** In small pages where that fault says so, so that others change what is listed meanwhile. */
  async listFrom(prefix: string, after: string, limit: number, signal?: AbortSignal): Promise<ArchivedKey[]> {
    const pages = this.#trouble.happens('archive-pages', prefix)
    const size = pages ? SMALL_PAGE : limit
    const found: ArchivedKey[] = []
    for (let last = after; found.length < limit; ) {
      const page = await this.#call('list', null, () =>
        this.#inner.listFrom(prefix, last, Math.min(size, limit - found.length), signal),
      )
      found.push(...page)
      last = page.at(-1)?.key ?? last
      if (!pages || page.length < SMALL_PAGE) break
      await this.#sleep(this.#trouble.random.between(1, 300))
    }
    return found
  }

  delete(key: string, signal?: AbortSignal): Promise<void> {
    const step = segment(key) ? 'delete object' : null
    return this.#call(`delete ${key.slice(-20)}`, step, () => this.#inner.delete(key, signal))
  }

  close(): Promise<void> {
    return this.#inner.close()
  }

  #damaged(key: string, body: ReplayableBody): ReplayableBody {
    const { sent, random } = this.#trouble
    if (!this.#trouble.damages(key)) return body
    const at = random.below(body.sizeBytes)
    return {
      sizeBytes: body.sizeBytes,
      async *open() {
        const whole: Uint8Array[] = []
        for await (const chunk of body.open()) whole.push(Buffer.from(chunk))
        const bytes = Buffer.concat(whole)
        sent.set(key, Buffer.from(bytes))
        bytes[at] = (bytes[at] ?? 0) ^ 0x10
        yield bytes
      },
    }
  }

  async #call<T>(what: string, step: Step | null, work: () => Promise<T>): Promise<T> {
    const { host, steps } = this.#user
    const { cut, trace, random } = this.#trouble
    const about = `${host.name} ${what}`
    if (cut.has(host)) {
      trace.fault('archive-partition', about)
      if (random.chance(0.5)) await this.#sleep(GIVE_UP_MS)
      throw this.#failure('the archive can not be reached')
    }
    if (this.#trouble.happens('archive-delay', about)) await this.#sleep(random.between(10, 20_000))
    if (this.#trouble.happens('archive-loss', about)) throw this.#failure('the archive did not get it')
    await steps.reached(host, step, 'before')
    let done: T
    try {
      done = await work()
    } catch (error) {
      this.#trouble.failedMs = this.#trouble.scheduler.nowMs
      throw error
    }
    await steps.reached(host, step, 'after')
    if (this.#trouble.happens('archive-late', about)) await this.#sleep(random.between(1_000, 30_000))
    if (this.#trouble.happens('archive-lost-answer', about)) throw this.#failure('the archive did not answer')
    return done
  }

  #failure(why: string): StratalogError {
    this.#trouble.failedMs = this.#trouble.scheduler.nowMs
    return new StratalogError('archive_unavailable', `${why} in the simulator`, { retryable: true })
  }

  /** In the life that asked: one that died meanwhile never goes on. */
  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.#trouble.scheduler.after(ms, this.#user.host, resolve))
  }
}

function segment(key: string): boolean {
  return decodeSegmentKey(key) !== null
}

/** The connection breaks in the middle of the body. */
function cutOff(body: ReplayableBody): ReplayableBody {
  return {
    sizeBytes: body.sizeBytes,
    async *open() {
      for await (const chunk of body.open()) {
        yield chunk.subarray(0, chunk.length >> 1)
        throw new StratalogError('archive_unavailable', 'the upload broke off in the simulator', {
          retryable: true,
        })
      }
    },
  }
}
