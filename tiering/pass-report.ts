import { present } from '../src/model/assert.js'
import type { PlannedAction } from './plan.js'

/** What a pass did. */
export interface PassReport {
  sealed: number
  copied: number
  evicted: number
  trimmed: number
  /** Segments that became gaps to make room while the archive was down. */
  dropped: number
  freedHotBytes: number
  failed: { stream: string; segment: string; kind: string; error: string }[]
  /** Actions that are planned for later, and when the next of them is due. */
  waiting: number
  nextDueMs: number | null
}

/** A planned action as it is carried out: a trim goes up to and with `through`. */
export type Step = PlannedAction & { readonly through: bigint }

/** Due actions with trims of neighbouring segments made one: one marker in the archive ends them all. */
export function grouped(due: readonly PlannedAction[]): Step[] {
  const steps: Step[] = []
  const trims = due.filter((action) => action.kind === 'trim')
  const first = trims[0]
  for (const action of due) {
    if (action.kind !== 'trim') steps.push({ ...action, through: action.segment })
    else if (action === first) {
      // Planned from the old end without a hole (plan.ts), so the last one ends them all.
      const bytes = trims.reduce((sum, one) => sum + one.bytes, 0)
      steps.push({ ...action, bytes, through: present(trims.at(-1), 'last trim').segment })
    }
  }
  return steps
}

/** Adds up what passes did. */
export function add(total: PassReport, report: PassReport): void {
  for (const key of ['sealed', 'copied', 'evicted', 'trimmed', 'dropped', 'freedHotBytes'] as const)
    total[key] += report[key]
  total.failed.push(...report.failed)
}

/** Something falls due then; null: nothing does. */
export function noteDue(report: PassReport, dueMs: number | null): void {
  if (dueMs !== null && (report.nextDueMs === null || dueMs < report.nextDueMs)) report.nextDueMs = dueMs
}

/** Nothing yet. */
export function emptyReport(): PassReport {
  return {
    sealed: 0,
    copied: 0,
    evicted: 0,
    trimmed: 0,
    dropped: 0,
    freedHotBytes: 0,
    failed: [],
    waiting: 0,
    nextDueMs: null,
  }
}
