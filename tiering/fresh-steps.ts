import type { TieringContext } from './context.js'
import type { Step } from './pass-report.js'

/** A plan is carried out for so long before it is looked at again. */
const FRESH_MS = 5_000

/**
 * Steps that were planned, as they are due by the time it is their turn: a pass may take hours, and meanwhile policies
 * are reloaded, holds are put and windows close. What is trimmed does not come back, so a trim is planned anew each
 * time.
 */
export class FreshSteps {
  readonly #context: Pick<TieringContext, 'ledger'>
  readonly #plan: () => Promise<readonly Step[]>
  #steps: readonly Step[]
  #plannedMs: number

  constructor(
    context: Pick<TieringContext, 'ledger'>,
    steps: readonly Step[],
    plan: () => Promise<readonly Step[]>,
  ) {
    this.#context = context
    this.#plan = plan
    this.#steps = steps
    this.#plannedMs = context.ledger.clock.monotonicMs()
  }

  /** Null: it is not due any more. */
  async asNow(step: Step): Promise<Step | null> {
    const { clock } = this.#context.ledger
    if (step.kind === 'trim' || clock.monotonicMs() - this.#plannedMs > FRESH_MS) {
      this.#steps = await this.#plan()
      this.#plannedMs = clock.monotonicMs()
    }
    const same = ({ kind, segment }: Step) => kind === step.kind && segment === step.segment
    return this.#steps.find(same) ?? null
  }
}
