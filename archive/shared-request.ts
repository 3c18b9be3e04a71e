/** Why a request ends that nobody waits for any more. */
const ABANDONED = new Error('nobody waits for this any more')

/** Somebody's interest in a request; giving it up twice is fine. */
export type Release = () => void

/**
 * One request for all who want its result. It goes on while anybody holds it, whoever began it; when the last one lets
 * go before it is done, it is aborted.
 */
export class SharedRequest<T> {
  readonly result: Promise<T>
  readonly #abort = new AbortController()
  #holders = 0
  #settled = false

  /** The request is under way when this returns; whoever makes it holds it in the same turn. */
  constructor(start: (signal: AbortSignal) => Promise<T>) {
    this.result = start(this.#abort.signal)
    const settle = (): void => {
      this.#settled = true
    }
    this.result.then(settle, settle)
  }

  /** False once it was given up: who comes now asks anew. */
  get live(): boolean {
    return !this.#abort.signal.aborted
  }

  hold(): Release {
    let held = true
    this.#holders += 1
    return () => {
      if (!held) return
      held = false
      this.#holders -= 1
      if (this.#holders === 0 && !this.#settled) this.#abort.abort(ABANDONED)
    }
  }
}

/** The result of a request that others may share, or the caller's reason to wait no longer. */
export async function sharedResult<T>(request: SharedRequest<T>, signal?: AbortSignal): Promise<T> {
  const release: Release = request.hold()
  try {
    return await abortable(request.result, signal)
  } finally {
    release()
  }
}

/** Waits for shared work until this caller gives up. */
export async function abortable<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work
  signal.throwIfAborted()
  let stop: (() => void) | undefined
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
  })
  try {
    return await Promise.race([work, aborted])
  } finally {
    if (stop !== undefined) signal.removeEventListener('abort', stop)
  }
}
