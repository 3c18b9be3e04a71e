import { StratalogError } from '../src/model/errors.js'

/** Copies of one stream side by side: one that is read back, and one that is stored meanwhile. */
const SIDE_BY_SIDE = 2

/** What a copy in a line may use. */
export interface CopyTurn {
  /** Ends where the copy before it failed: what this one stores could not be committed. */
  readonly signal: AbortSignal
  /** Its name is in the archive: the next one may begin. */
  readonly stored: () => void
  /** Whether another stood before it when it began. */
  readonly ahead: boolean
  /** Resolves when the copy before it is committed. Rejects with `conflict` if it is not going to be. */
  readonly mayCommit: () => Promise<void>
  /** This copy moves, which is an answer to those that stand behind it. */
  readonly moved: () => void
  /** Is called when one before it moves. */
  heard: () => void
}

interface Standing {
  readonly turn: CopyTurn
  readonly ended: AbortSignal
  /** Ends it, because one before it failed. */
  readonly end: (reason: StratalogError) => void
}

/**
 * Copies of one stream: each is stored while the one before it is read back, and they are committed one after the other:
 * what is archived has no hole (invariant 5). The first that fails ends the one behind it, of which nothing is told: the
 * next plan has it again, and what it stored whole is found then.
 *
 * A copy begins only when the name of the one before it is in the archive: whoever has nothing but names (an attached
 * reader, a restore) takes one that is not there below one that is for lost. By then that one has its room too, so the
 * one whose turn it is to commit never waits for room that the one behind it takes.
 */
export class CopyLine {
  readonly #signal: AbortSignal
  /** Those under way, in the order in which they are committed. */
  readonly #standing: Standing[] = []
  /** Whether the copy that was added last was committed, or needs nothing to be done. */
  #last: Promise<boolean> = Promise.resolve(true)
  #failed = false
  #error: { readonly thrown: unknown } | null = null
  #underWay: Promise<boolean>[] = []

  constructor(signal: AbortSignal) {
    this.#signal = signal
  }

  /** Whether one failed: what comes behind it is not to be copied now. */
  get failed(): boolean {
    return this.#failed
  }

  /**
   * Begins a copy and resolves when the next may begin. False from `work`: those behind it are not to be committed.
   * What `work` throws is thrown by `drain`.
   */
  async add(work: (turn: CopyTurn) => Promise<boolean>): Promise<void> {
    if (this.#failed) return
    let stored = () => {}
    const isStored = new Promise<void>((resolve) => {
      stored = resolve
    })
    const standing = this.#newTurn(this.#last, stored)
    this.#standing.push(standing)
    const done = this.#run(standing, work)
    this.#last = done
    this.#underWay.push(done)
    await Promise.race([isStored, done])
    while (this.#standing.length >= SIDE_BY_SIDE) await this.#underWay.shift()
  }

  /** Waits for those under way. Throws what the first of them threw. */
  async drain(): Promise<void> {
    await Promise.all(this.#underWay.splice(0))
    if (this.#error !== null) throw this.#error.thrown
  }

  #newTurn(before: Promise<boolean>, stored: () => void): Standing {
    const ended = new AbortController()
    const turn: CopyTurn = {
      signal: AbortSignal.any([this.#signal, ended.signal]),
      stored,
      ahead: this.#standing.length > 0,
      mayCommit: async () => {
        if (!(await before)) throw notNext()
      },
      moved: () => {
        for (const behind of this.#behind(turn)) behind.turn.heard()
      },
      heard: () => {},
    }
    return { turn, ended: ended.signal, end: (reason) => ended.abort(reason) }
  }

  async #run(standing: Standing, work: (turn: CopyTurn) => Promise<boolean>): Promise<boolean> {
    const { turn, ended } = standing
    let goesOn = false
    try {
      goesOn = await work(turn)
    } catch (thrown) {
      // One that was ended for another's sake has nothing to say.
      if (!ended.aborted || this.#signal.aborted) this.#error ??= { thrown }
    }
    if (!goesOn) {
      this.#failed = true
      for (const behind of this.#behind(turn)) behind.end(notNext())
    }
    this.#standing.splice(this.#standing.indexOf(standing), 1)
    return goesOn
  }

  #behind(turn: CopyTurn): readonly Standing[] {
    const at = this.#standing.findIndex((one) => one.turn === turn)
    return at < 0 ? [] : this.#standing.slice(at + 1)
  }
}

function notNext(): StratalogError {
  return new StratalogError('conflict', 'the segment before this one was not copied: it is tried again')
}
