import {
  planRestore,
  type RestorePlan,
  type RestoreProgress,
  type RestoreReport,
  restoreInto,
} from '../tiering/restore.js'
import type { Log } from './log.js'
import { StratalogError } from './model/errors.js'
import { policyQuorum } from './model/quorum.js'
import type { ArchiveStore } from './ports/archive-store.js'

export type { RestorePlan, RestoreProgress, RestoreReport }
export { planRestore }

/**
 * Restores a whole archive into an open, empty log: equal DLSNs, txids and payloads, each stream a new incarnation
 * that names its parent. Interrupted, it goes on where it was when run again. See `restoreInto`.
 */
export async function restoreArchive(
  log: Log,
  archive: ArchiveStore,
  plan: RestorePlan,
  options: { readonly signal?: AbortSignal; readonly onProgress?: (progress: RestoreProgress) => void } = {},
): Promise<RestoreReport> {
  const { segments, random, policies, agent } = log.parts
  if (agent.following) {
    // What is restored is old: by its age the agent would evict or trim it while it is still being compared.
    throw new StratalogError(
      'refused',
      `${log.directory} is open with its tiering agent: open it with tiering: 'off' to restore into it`,
    )
  }
  const target = {
    ...segments,
    random,
    quorum: (stream: string) =>
      policyQuorum(policies.resolve(stream, null).policy, segments.ledger.stores.all().length),
  }
  return restoreInto(target, archive, plan, options)
}
