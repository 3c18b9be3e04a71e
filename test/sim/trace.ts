import type { Logger } from '../../src/ports/logger.js'
import type { FaultKind } from './options.js'
import type { Scheduler } from './scheduler.js'

const LINES_KEPT = 400

/** What processes do by themselves, by the messages that tell of it: a run counts them, and a test wants to see each. */
const WORKS = {
  'ledger goes on with other stores': 'ensemble changes',
  'files rewritten': 'rewrites',
  'a copy that was absent or damaged has been repaired': 'repairs on read',
  'the scrub repaired copies': 'repairs by scrub',
  'no ledger names the store any more': 'stores replaced',
  'the scrub mended a copy in the archive': 'objects mended',
} as const

/** What an operator does by hand, and what only the oracle sees. */
export const BY_HAND = [
  'holds put',
  'holds released',
  'trims by hand',
  'trims kept off by a hold',
  'recalls',
  'evictions by hand',
  'collections',
  'objects collected',
  'cold scrubs',
  'restores in the middle',
  'segments dropped',
  'gaps read',
  'records again after a trim',
  'records again after a gap',
  'encrypted objects read',
] as const

export type Work = (typeof WORKS)[keyof typeof WORKS] | (typeof BY_HAND)[number]

/** All of them. */
export const WORK_KINDS: readonly Work[] = [...Object.values(WORKS), ...BY_HAND]

/** A promise of the design that was broken, by its number in DESIGN.md §11; 0: a bug that breaks none by name. */
export class Violation extends Error {
  readonly invariant: number

  constructor(invariant: number, what: string) {
    super(`invariant ${invariant}: ${what}`)
    this.invariant = invariant
  }
}

/** What happened, in order: its last lines, a hash of all of it, the faults that fired, what was violated. */
export class Trace {
  readonly #scheduler: Scheduler
  readonly #lines: string[] = []
  readonly faults: Map<FaultKind, number> = new Map()
  readonly works: Map<Work, number> = new Map()
  /** Where processes died in the middle of tiering. */
  readonly deaths: Map<string, number> = new Map()
  readonly violations: Violation[] = []
  hash = 0x811c9dc5

  constructor(scheduler: Scheduler) {
    this.#scheduler = scheduler
  }

  get lines(): readonly string[] {
    return this.#lines.slice(-LINES_KEPT)
  }

  note(text: string): void {
    const line = `${this.#scheduler.nowMs.toFixed(2).padStart(10)} ${text}`
    for (let i = 0; i < line.length; i += 1) this.hash = Math.imul(this.hash ^ line.charCodeAt(i), 0x01000193)
    this.#lines.push(line)
    if (this.#lines.length >= 2 * LINES_KEPT) this.#lines.splice(0, LINES_KEPT)
  }

  /** A fault that took effect, not one that was only planned. */
  fault(kind: FaultKind, text: string): void {
    this.faults.set(kind, (this.faults.get(kind) ?? 0) + 1)
    this.note(`FAULT ${kind} ${text}`)
  }

  /** A process died at a point of tiering. */
  died(point: string): void {
    this.deaths.set(point, (this.deaths.get(point) ?? 0) + 1)
  }

  /** Something that a process or an operator did and that the logs don't tell. */
  worked(work: Work): void {
    this.works.set(work, (this.works.get(work) ?? 0) + 1)
  }

  violate(invariant: number, what: string): void {
    this.note(`VIOLATION of invariant ${invariant}: ${what}`)
    this.violations.push(new Violation(invariant, what))
  }

  /** What a process logs from `info` on, as part of the trace. */
  logger(who: string): Logger {
    const count = (message: string): void => {
      const work = message in WORKS ? WORKS[message as keyof typeof WORKS] : null
      if (work !== null) this.worked(work)
    }
    const add = (level: string) => (fields: object, message: string) => {
      count(message)
      const error = 'err' in fields ? fields.err : 'error' in fields ? fields.error : null
      const why = error instanceof Error ? ` (${error.message.slice(0, 160)})` : ''
      this.note(`${who} ${level} ${message}${why}`)
      if (error instanceof Error && error.name === 'AssertionFailed') this.violate(0, error.message)
    }
    const logger: Logger = {
      debug: (_, message) => count(message),
      info: add('info'),
      warn: add('warn'),
      error: add('error'),
      child: () => logger,
    }
    return logger
  }
}
