import { isStratalogError } from '../src/model/errors.js'

/**
 * How the archive is, as far as the steps that need it tell. `failing`: one of them failed, or a probe was answered
 * while it was down; the next step decides. `down`: no step is tried until a probe is answered.
 */
export type ArchiveState = 'none' | 'ok' | 'failing' | 'down'

/**
 * What is learnt about it: a step was carried out; a step failed for what the archive said; a step got no answer, which
 * may have been the stores'; a probe was answered, or was not.
 */
export type ArchiveSign = 'answered' | 'failed' | 'doubtful' | 'probe-answered' | 'probe-failed'

type Moves = Readonly<Record<ArchiveSign, ArchiveState>>

/**
 * Every transition there is. A probe only reads, and an archive may be read that takes nothing (full, read-only): so an
 * answered probe lets the next step try, and only a step that was carried out says that all is well.
 */
export const ARCHIVE_TRANSITIONS: Readonly<Record<ArchiveState, Moves>> = {
  none: movesTo('none', {}),
  ok: movesTo('ok', { failed: 'failing', doubtful: 'failing', 'probe-failed': 'down' }),
  failing: movesTo('failing', { answered: 'ok', failed: 'down', 'probe-failed': 'down' }),
  down: movesTo('down', { answered: 'ok', 'probe-answered': 'failing' }),
}

function movesTo(stays: ArchiveState, moves: Partial<Moves>): Moves {
  return {
    answered: stays,
    failed: stays,
    doubtful: stays,
    'probe-answered': stays,
    'probe-failed': stays,
    ...moves,
  }
}

/** Kinds of errors that are counted; an engine that invents more of them has the others in the last one. */
const ERRORS_MAX = 8

/** How often one kind of error was met since the archive was last well. */
export interface ArchiveErrorCount {
  readonly code: string
  readonly count: number
  /** The latest of them. */
  readonly message: string
}

/** What is known of the archive. Times are milliseconds since the epoch. */
export interface ArchiveReport {
  readonly archive: ArchiveState
  /** Since when it is not well; null: it is. */
  readonly downSinceMs: number | null
  readonly lastError: string | null
  /** When a step was last carried out. */
  readonly lastOkMs: number | null
  /** When it last answered anything, a probe included. */
  readonly lastAnswerMs: number | null
  /** Since it was last well, most frequent first. */
  readonly errors: readonly ArchiveErrorCount[]
}

const ARCHIVE_CODES = ['archive_unavailable', 'archive_full', 'archive_missing', 'access_denied'] as const

/** What a failed step says of the archive; null: nothing. */
export function signOf(error: unknown): 'failed' | 'doubtful' | null {
  if (ARCHIVE_CODES.some((code) => isStratalogError(error, code))) return 'failed'
  return isStratalogError(error, 'timeout') ? 'doubtful' : null
}

/** Keeps what is known of the archive, and says when that changes. */
export class ArchiveHealth {
  readonly #nowMs: () => number
  readonly #changed: (state: ArchiveState, before: ArchiveState) => void
  readonly #errors = new Map<string, { count: number; message: string }>()
  #state: ArchiveState
  #sinceMs: number | null = null
  #lastError: string | null = null
  #lastOkMs: number | null = null
  #lastAnswerMs: number | null = null

  constructor(
    configured: boolean,
    nowMs: () => number,
    changed: (state: ArchiveState, before: ArchiveState) => void,
  ) {
    this.#state = configured ? 'ok' : 'none'
    this.#nowMs = nowMs
    this.#changed = changed
  }

  get state(): ArchiveState {
    return this.#state
  }

  get report(): ArchiveReport {
    const errors = [...this.#errors].map(([code, { count, message }]) => ({ code, count, message }))
    return {
      archive: this.#state,
      downSinceMs: this.#sinceMs,
      lastError: this.#lastError,
      lastOkMs: this.#lastOkMs,
      lastAnswerMs: this.#lastAnswerMs,
      errors: errors.sort((a, b) => b.count - a.count),
    }
  }

  /** Takes a sign in, with the error where it is one. */
  sign(sign: ArchiveSign, error?: Error): void {
    const before = this.#state
    this.#state = ARCHIVE_TRANSITIONS[before][sign]
    if (error !== undefined) this.#count(error)
    if (sign === 'answered') this.#lastOkMs = this.#nowMs()
    if (sign === 'answered' || sign === 'probe-answered') this.#lastAnswerMs = this.#nowMs()
    if (this.#state === 'ok' && before !== 'ok') {
      this.#sinceMs = null
      this.#lastError = null
      this.#errors.clear()
    }
    if (before === 'ok' && this.#state !== 'ok') this.#sinceMs = this.#nowMs()
    if (this.#state !== before) this.#changed(this.#state, before)
  }

  #count(error: Error): void {
    const code = isStratalogError(error) ? error.code : error.name
    const known = this.#errors.get(code)
    this.#lastError = error.message
    if (known !== undefined) Object.assign(known, { count: known.count + 1, message: error.message })
    else if (this.#errors.size < ERRORS_MAX) this.#errors.set(code, { count: 1, message: error.message })
  }
}
