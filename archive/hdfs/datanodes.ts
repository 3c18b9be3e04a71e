import type { Clock } from '../../src/ports/clock.js'

/**
 * For how long a DataNode that failed is left out: twice as long each time, for a NameNode hands out a dead one for ten
 * minutes by default, and one that failed a single time is needed again.
 */
const SUSPECT_MS = 60_000
const SUSPECT_MS_MAX = 600_000
/** DataNodes known by their addresses; clusters have some thousands at most. */
const KNOWN_MAX = 20_000
/** What a DataNode's ports are where nobody changed them: web, web with TLS → transfer. */
const USUAL_PORTS: ReadonlyMap<string, string> = new Map([
  ['9864', '9866'],
  ['9865', '9866'],
])

/** A DataNode as the places of blocks name it. */
export interface BlockHolder {
  readonly ipAddr: string
  readonly hostName: string
  readonly infoPort: number
  readonly infoSecurePort: number
  readonly xferPort: number
}

/**
 * DataNodes that failed lately and are not to be handed out again. A redirect shows a DataNode's web port, while
 * `excludedatanodes` wants the port for transfers, and excludes nobody if it gets another: the two are put together
 * from what the NameNode tells of its blocks and nodes.
 */
export class DataNodes {
  readonly #clock: Clock
  /** Web address → transfer address. */
  readonly #transfers = new Map<string, string>()
  /** Transfer address → until when it is left out, and for how long that is. */
  readonly #suspects = new Map<string, { readonly untilMs: number; readonly forMs: number }>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** The value of `excludedatanodes`, '' for nobody. */
  excluded(): string {
    const nowMs = this.#clock.monotonicMs()
    const left: string[] = []
    for (const [node, { untilMs, forMs }] of this.#suspects) {
      if (nowMs < untilMs) left.push(node)
      // Remembered for as long again: then it has worked for that time.
      else if (nowMs >= untilMs + forMs) this.#suspects.delete(node)
    }
    return left.join(',')
  }

  /** Whether it is known how to exclude the one at this web address. */
  knows(url: URL): boolean {
    return this.#transferOf(url) !== null
  }

  /** That one failed; false if nothing is known that would exclude it. */
  suspect(url: URL): boolean {
    const node = this.#transferOf(url)
    if (node === null) return false
    const nowMs = this.#clock.monotonicMs()
    const before = this.#suspects.get(node)
    // Several transfers may fail at it at once: that is one sign.
    if (before !== undefined && nowMs < before.untilMs) return true
    const forMs = Math.min(SUSPECT_MS_MAX, 2 * (before?.forMs ?? SUSPECT_MS / 2))
    this.#suspects.set(node, { untilMs: nowMs + forMs, forMs })
    return true
  }

  /** Nobody is left out any more: there are too few for that. */
  forgive(): void {
    this.#suspects.clear()
  }

  /** From the places of a file's blocks. */
  learnHolder({ ipAddr, hostName, infoPort, infoSecurePort, xferPort }: BlockHolder): void {
    for (const host of [ipAddr, hostName]) {
      this.#learn(`${host}:${infoPort}`, `${ipAddr}:${xferPort}`)
      if (infoSecurePort > 0) this.#learn(`${host}:${infoSecurePort}`, `${ipAddr}:${xferPort}`)
    }
  }

  /** From the NameNode's list of live nodes, which names each by `HOST:TRANSFER_PORT`. */
  learnLive(name: string, node: { infoAddr?: unknown; infoSecureAddr?: unknown; xferaddr?: unknown }): void {
    const { xferaddr } = node
    if (typeof xferaddr !== 'string') return
    const host = name.slice(0, name.lastIndexOf(':'))
    for (const web of [node.infoAddr, node.infoSecureAddr]) {
      if (typeof web !== 'string') continue
      this.#learn(web, xferaddr)
      this.#learn(`${host}:${web.slice(web.lastIndexOf(':') + 1)}`, xferaddr)
    }
  }

  #learn(web: string, transfer: string): void {
    if (this.#transfers.size >= KNOWN_MAX) this.#transfers.clear()
    this.#transfers.set(web, transfer)
  }

  #transferOf(url: URL): string | null {
    const known = this.#transfers.get(url.host)
    if (known !== undefined) return known
    const usual = USUAL_PORTS.get(url.port)
    return usual === undefined ? null : `${url.hostname}:${usual}`
  }
}
