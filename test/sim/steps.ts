import type { SegmentRow, StreamRow } from '../../src/model/segment.js'
import type { SegmentIndex, SegmentPatch } from '../../src/ports/segment-index.js'
import type { Host } from './scheduler.js'
import type { Trace } from './trace.js'

/** The steps of tiering, by the call that makes each of them happen. */
export const STEPS = [
  'copy',
  'verify',
  'commit',
  'check',
  'evict',
  'free',
  'delete ledger',
  'mark trim',
  'trim',
  'delete object',
  'forget',
  'drop',
  'hold',
  'release',
  'recall',
  'recalled',
  'tell',
] as const

export type Step = (typeof STEPS)[number]
export type Side = 'before' | 'after'

/**
 * Where processes die in the middle of what they do: right before a step or right behind it, whatever else happens then.
 * The others go on, and the next life finds what is left.
 */
export class Steps {
  readonly #trace: Trace
  readonly #armed = new Set<string>()
  /** Ends the process of a host. */
  kill: (host: Host) => void = () => {}

  constructor(trace: Trace) {
    this.#trace = trace
  }

  /** Whoever comes first to one of the points dies there. */
  arm(step: Step, side: Side): void {
    this.#armed.add(`${side} ${step}`)
  }

  disarm(): void {
    this.#armed.clear()
  }

  /** Does not come back where the process dies here. */
  async reached(host: Host, step: Step | null, side: Side): Promise<void> {
    const point = `${side} ${step}`
    if (step === null || !host.up || !this.#armed.delete(point)) return
    this.#trace.fault('step-death', `${host.name} ${point}`)
    this.#trace.died(point)
    this.kill(host)
    await new Promise(() => {})
  }

  /** An index, or ledger metadata, whose changes are steps. */
  watched<T extends object>(host: Host, target: T): T {
    const reached = this.reached.bind(this)
    const get = (_: T, name: string | symbol): unknown => {
      const method: unknown = target[name as keyof T]
      if (typeof method !== 'function') return method
      return async (...args: unknown[]) => {
        const step = stepOf(String(name), args)
        if (step === null) return (await method.apply(target, args)) as unknown
        await reached(host, step, 'before')
        const done: unknown = await method.apply(target, args)
        await reached(host, step, 'after')
        return done
      }
    }
    // What is no promise must not become one.
    const own = Object.create(null) as T
    return new Proxy(own, {
      get: (_, name) => (name === 'watch' || name === 'then' ? target[name as keyof T] : get(own, name)),
    })
  }
}

function stepOf(name: string, args: readonly unknown[]): Step | null {
  if (name === 'updateSegment') return stepOfRow(args[0] as SegmentRow, args[1] as SegmentPatch)
  if (name === 'updateStream') {
    const patch = args[2] as Partial<Pick<StreamRow, 'trimmedBelow'>>
    return patch.trimmedBelow === undefined ? null : 'mark trim'
  }
  const steps: Partial<Record<keyof SegmentIndex | 'delete', Step>> = {
    putHold: 'hold',
    releaseHold: 'release',
    recordRecall: 'recall',
    delete: 'delete ledger',
  }
  // Recovery removes what it finds empty, too: that is no step of tiering.
  if (name === 'removeSegment') return (args[0] as SegmentRow).state === 'trimmed' ? 'forget' : null
  return steps[name as keyof typeof steps] ?? null
}

function stepOfRow(row: SegmentRow, patch: SegmentPatch): Step | null {
  const { state } = patch
  if (state === 'archived') return row.state === 'cold' ? 'recalled' : 'commit'
  if (state === 'cold') return 'evict'
  if (state === 'trimmed') return 'trim'
  if (state === 'gap') return 'drop'
  return patch.ledgerId === null ? 'free' : null
}
