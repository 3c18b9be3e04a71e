/** An entry that no store and no archive has a valid copy of. */
export interface UnrepairableEntry {
  readonly ledgerId: bigint
  readonly entryId: bigint
  readonly storeId: string
  readonly reason: string
}

export interface ShareReport {
  checkedEntries: number
  checkedBytes: number
  repairedEntries: number
  repairedBytes: number
  unrepairableEntries: number
  /** Bad copies whose other copies could not be asked for. */
  waitingEntries: number
  /** The first of them, by name. */
  readonly unrepairable: UnrepairableEntry[]
  /** The target, where it could not be asked or written. */
  readonly unreachable: { readonly storeId: string; readonly reason: string }[]
}

export function emptyReport(): ShareReport {
  return {
    checkedEntries: 0,
    checkedBytes: 0,
    repairedEntries: 0,
    repairedBytes: 0,
    unrepairableEntries: 0,
    waitingEntries: 0,
    unrepairable: [],
    unreachable: [],
  }
}

/** Whether the target holds its whole share now. */
export function isComplete(report: ShareReport): boolean {
  return report.unrepairableEntries + report.waitingEntries + report.unreachable.length === 0
}
