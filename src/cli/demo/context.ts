import type { Log } from '../../log.js'
import type { DemoOutput } from './output.js'
import type { DemoSource } from './source.js'

/** What the steps of the demo share. */
export interface DemoRun {
  /** As the user named it. */
  readonly directory: string
  readonly source: DemoSource
  readonly log: Log
  readonly out: DemoOutput
  readonly signal: AbortSignal
}
