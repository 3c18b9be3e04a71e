import { setMaxListeners } from 'node:events'
import { StratalogError } from '../../src/model/errors.js'
import type { Clock, Timer } from '../../src/ports/clock.js'

/** What ends a request that does not end by itself. */
export interface Deadline {
  /** From its start to its last byte. */
  readonly totalMs: number
  /** Without a byte in either direction; for who tells of them. */
  readonly idleMs?: number
  /** For people, in the error: "reading 12 bytes of x". */
  readonly doing: string
}

/** Ended as one signal, and told of each byte where there is an idle time. */
export interface UnderDeadline {
  readonly signal: AbortSignal
  /** Something moved: the idle time begins anew. */
  alive(): void
}

/** Time that the first bytes of a request may take for each second that its total time is given beyond. */
const SLOWEST_BYTES_PER_SECOND = 256 * 1024

/** Time for a request that carries so many bytes: the given time, and more for what a slow line needs. */
export function allowedMs(totalMs: number, sizeBytes: number): number {
  return totalMs + Math.ceil((sizeBytes / SLOWEST_BYTES_PER_SECOND) * 1000)
}

/**
 * Runs one request with a signal that is aborted by the caller's signals, after the total time, or when nothing moved
 * for the idle time. Then it rejects, also if `work` does not listen: `timeout` (retryable), or the caller's reason.
 */
export async function withDeadline<T>(
  clock: Clock,
  deadline: Deadline,
  signals: readonly (AbortSignal | undefined)[],
  work: (under: UnderDeadline) => Promise<T>,
): Promise<T> {
  for (const signal of signals) signal?.throwIfAborted()
  const ending = new AbortController()
  const { doing, totalMs, idleMs } = deadline
  const late = (text: string) => () => ending.abort(tookTooLong(doing, text))
  const total = clock.setTimer(totalMs, late(`took more than ${totalMs} ms`))
  const idle = idleMs === undefined ? null : idleTimer(clock, idleMs, late(`stood still for ${idleMs} ms`))
  // By hand: in Node 20 AbortSignal.any keeps what it made for as long as the longest-lived of its sources.
  const unlink = signals.map((signal) => follow(signal, ending))
  let stop = (): void => {}
  const ended = new Promise<never>((_, reject) => {
    stop = () => reject(ending.signal.reason)
    ending.signal.addEventListener('abort', stop, { once: true })
  })
  try {
    return await Promise.race([work({ signal: ending.signal, alive: () => idle?.moved() }), ended])
  } catch (error) {
    // Whatever an aborted request rejected with: why it was aborted is what there is to say.
    if (ending.signal.aborted) throw ending.signal.reason
    throw error
  } finally {
    total.cancel()
    idle?.cancel()
    ending.signal.removeEventListener('abort', stop)
    for (const end of unlink) end()
  }
}

/**
 * Runs `work` with one signal of its own that is aborted with any of these. For a call that waits, tries and waits
 * again: its signal has few listeners, and none is left on those of others.
 */
export async function withSignal<T>(
  signals: readonly (AbortSignal | undefined)[],
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  for (const signal of signals) signal?.throwIfAborted()
  const ending = new AbortController()
  const unlink = signals.map((signal) => follow(signal, ending))
  try {
    return await work(ending.signal)
  } finally {
    for (const end of unlink) end()
  }
}

function follow(signal: AbortSignal | undefined, ending: AbortController): () => void {
  // Many requests may end with one signal; Node takes more than ten for a leak.
  if (signal !== undefined) setMaxListeners(0, signal)
  const abort = () => ending.abort(signal?.reason)
  signal?.addEventListener('abort', abort, { once: true })
  return () => signal?.removeEventListener('abort', abort)
}

/** One timer that looks at the time of the last sign of life, rather than a new timer for each chunk. */
function idleTimer(clock: Clock, idleMs: number, late: () => void): { moved(): void; cancel(): void } {
  let lastMs = clock.monotonicMs()
  let timer: Timer = clock.setTimer(idleMs, look)
  function look(): void {
    const leftMs = lastMs + idleMs - clock.monotonicMs()
    if (leftMs <= 0) late()
    else timer = clock.setTimer(leftMs, look)
  }
  return {
    moved: () => {
      lastMs = clock.monotonicMs()
    },
    cancel: () => timer.cancel(),
  }
}

function tookTooLong(doing: string, text: string): StratalogError {
  return new StratalogError('timeout', `${doing} ${text} and was given up`, { retryable: true })
}
