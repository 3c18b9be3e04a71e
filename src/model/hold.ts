import type { Dlsn } from './dlsn.js'

/** Where a hold begins or ends. `timeMs` is compared with txids where they are times, else with completion times. */
export type HoldEdge = { readonly dlsn: Dlsn } | { readonly txid: bigint } | { readonly timeMs: number }

/** A legal hold on a stream as somebody put it: `from` inclusive, `until` exclusive, null for no bound. */
export interface StreamHold {
  readonly id: string
  readonly from: HoldEdge | null
  readonly until: HoldEdge | null
  /** For people. */
  readonly reason: string | null
  readonly atMs: number
}

/** A hold as the index keeps it: one that was released stays until the archive knows of that. */
export interface KeptHold extends StreamHold {
  readonly releasedMs: number | null
}
