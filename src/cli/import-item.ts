/** One record to be, its value where it has fields, and where it stands. */
export interface ImportItem {
  readonly bytes: Uint8Array
  readonly value: unknown
  readonly where: string
  /** Where the format keeps it. */
  readonly txid?: bigint
}
