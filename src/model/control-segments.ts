/** Segments by hand as the command line asks for it: see `control-api.ts` for the conventions. Types only. */

/** What came of an order to seal. */
export interface SealedDto {
  readonly stream: string
  /** Null: nothing was open. */
  readonly segment: string | null
  /** Records in it; 0: it held none and is gone. */
  readonly records: string
}

/** The verb of this area. */
export interface SegmentsApi {
  /** Seals the open segment now. `conflict`: a writer in another process has it, and `found` says which. */
  sealSegment(name: string): Promise<SealedDto>
}
