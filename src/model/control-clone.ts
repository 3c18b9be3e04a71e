/** Clones as the command line asks for them: see `control-api.ts` for the conventions. Types only. */

export interface CloneRequestDto {
  /** What the clone is called. */
  readonly to: string
  /** A position, exclusive. Default: behind everything that was acknowledged. */
  readonly until?: string
}

/** A stream that was cloned from another. */
export interface ClonedDto {
  readonly name: string
  readonly incarnation: string
  readonly parent: { readonly name: string; readonly incarnation: string }
  /** Where it leaves its parent. */
  readonly fork: string
  /** Segments whose objects both have. */
  readonly sharedSegments: number
  readonly sharedBytes: number
  /** Records it begins with. */
  readonly records: string
  /** Whether the archive knows its name yet. */
  readonly told: boolean
}

/** Clones of streams. */
export interface CloneApi {
  /** `stream_exists`, `archive_missing`, `position_out_of_range`. */
  cloneStream(name: string, request: CloneRequestDto): Promise<ClonedDto>
}
