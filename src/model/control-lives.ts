/** A stream under its new name. */
export interface RenamedDto {
  readonly name: string
  readonly incarnation: string
}

/** Whose archive it is; see `LogArchive`. */
export interface ArchiveOwnerDto {
  readonly location: string
  /** The log that was asked. */
  readonly logId: string
  readonly owner: { readonly logId: string; readonly epoch: string } | null
  readonly ours: boolean
}

/** What beginning a new archive came to. */
export interface BegunArchiveDto {
  readonly copiedAgain: number
  readonly lostSegments: number
  readonly lostBytes: number
}

/** Names of streams, and whose the archive is. */
export interface LivesApi {
  /** `stream_exists`, `stream_name_invalid`. */
  renameStream(name: string, to: string): Promise<RenamedDto>
  /** `archive_missing` where none is configured or there. */
  archiveOwner(): Promise<ArchiveOwnerDto>
  /** `refused`, `conflict`, `archive_missing`. */
  takeOverArchive(): Promise<ArchiveOwnerDto>
  /** `refused` where something would be lost and that is not accepted. */
  beginArchive(options: { readonly acceptLoss: boolean }): Promise<BegunArchiveDto>
}
