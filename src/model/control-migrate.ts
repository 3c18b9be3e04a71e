/** What the command line asks of a log about moving its archive; a part of the control API. Types only. */

/** What a migration is to do. */
export interface MigrateRequest {
  /** A place as the log's process understands it: paths are absolute. */
  readonly to: string
  readonly bytesPerSecond?: number
  readonly allowDamaged?: boolean
  /** Only say what it would take. */
  readonly dryRun?: boolean
}

/** How far a migration is. */
export interface MigrationProgressDto {
  readonly phase: 'listing' | 'copying' | 'checking' | 'switching'
  readonly round: number
  readonly totalObjects: number
  readonly totalBytes: number
  /** In the new place and read back. */
  readonly doneObjects: number
  readonly doneBytes: number
  /** By this run. */
  readonly copiedObjects: number
  readonly copiedBytes: number
}

/** Something about one object that is not as it should be. */
export interface MigrationFindingDto {
  readonly kind: 'mended' | 'damaged' | 'missing' | 'superseded' | 'kept' | 'removed'
  readonly key: string
  readonly text: string
}

/** What a migration would copy. */
export interface MigrationPlanDto {
  readonly from: string
  readonly to: string
  readonly objects: number
  readonly bytes: number
  /** Of these, what the new place has and what was read back there. */
  readonly thereObjects: number
  readonly thereBytes: number
  /** It was begun before. */
  readonly begun: boolean
}

/** What a migration came to. */
export interface MigrationReportDto {
  readonly from: string
  readonly to: string
  readonly epoch: string
  readonly copiedObjects: number
  readonly copiedBytes: number
  readonly objects: number
  readonly damaged: number
  readonly mended: number
}

/** What `migrate` yields; at last a plan or a report. */
export type MigratePart =
  | { readonly type: 'progress'; readonly progress: MigrationProgressDto }
  | { readonly type: 'finding'; readonly finding: MigrationFindingDto }
  | { readonly type: 'plan'; readonly plan: MigrationPlanDto }
  | { readonly type: 'end'; readonly report: MigrationReportDto }

/** A migration that was ended. */
export interface AbortedMigrationDto {
  readonly to: string
  /** Objects of the unfinished copy that were deleted. */
  readonly deleted: number
}

/** The verbs on moving an archive. They reject with `archive_missing` where none is configured. */
export interface MigrateApi {
  /** Whoever stops listening stops it; the same request goes on with it. `refused`, `corrupt`, `thawing`. */
  migrate(request: MigrateRequest, signal?: AbortSignal): AsyncIterable<MigratePart>
  /** `not_found` where none is under way. */
  abortMigration(request: { readonly leave: boolean }): Promise<AbortedMigrationDto>
}
