import type { Log } from '../log.js'
import type { AbortedMigrationDto, MigratePart, MigrateRequest } from '../model/control-migrate.js'

const NOTHING_YET = {
  phase: 'listing',
  round: 0,
  totalObjects: 0,
  totalBytes: 0,
  doneObjects: 0,
  doneBytes: 0,
  copiedObjects: 0,
  copiedBytes: 0,
} as const

/** Moves the archive of a log, telling of it. Whoever stops listening stops it. */
export async function* migrate(
  log: Log,
  { to, bytesPerSecond, allowDamaged = false, dryRun = false }: MigrateRequest,
  signal?: AbortSignal,
): AsyncGenerator<MigratePart, void, undefined> {
  const stop = signal === undefined ? {} : { signal }
  // A large archive takes its time to be listed: who asked hears at once that it is being looked at.
  yield { type: 'progress', progress: NOTHING_YET }
  if (dryRun) {
    yield { type: 'plan', plan: await log.archive.planMigration({ to, ...stop }) }
    return
  }
  const rate = bytesPerSecond === undefined ? {} : { rate: bytesPerSecond }
  for await (const part of log.archive.migrate({ to, allowDamaged, ...rate, ...stop })) {
    if (part.type !== 'end') yield part
    else yield { type: 'end', report: { ...part.report, epoch: part.report.epoch.toString() } }
  }
}

/** Ends the migration that is under way. */
export function abortMigration(log: Log, options: { readonly leave: boolean }): Promise<AbortedMigrationDto> {
  return log.archive.abortMigration(options)
}
