import type { LogParts } from './log-parts.js'
import type { PolicyConflict } from './model/control-policy.js'
import type { ResolvedPolicy } from './model/policy.js'
import type { StreamRow } from './model/segment.js'

/** Which archive a stream lies in, and which its policy names (decision 0030). */
export interface StreamPlace {
  /** Where the archive is that it was bound to; null: it lies in the log's, or nowhere yet. */
  readonly own: string | null
  /** Where its next segment goes; null: to no archive. */
  readonly next: string | null
  /** It has history in one archive while its policy names another, which counts for streams that come; null: it has not. */
  readonly stays: {
    /** Where it is, and goes on. */
    readonly at: string
    readonly named: string
    /** Who names it. */
    readonly origin: string
  } | null
}

/** Where a stream lies. */
export async function placeOf(
  parts: LogParts,
  stream: StreamRow,
  { policy, origins }: ResolvedPolicy,
): Promise<StreamPlace> {
  const { own: archives, index } = parts.tiering
  const log = parts.archiveLocation
  if (archives === undefined || log === null) return { own: null, next: log, stays: null }
  const own = await archives.locationOf(stream.incarnation)
  if (policy.archive === 'none') return { own, next: null, stays: null }
  const named = (policy.archive === null ? null : await archives.other(policy.archive)) ?? log
  if (named === (own ?? log)) return { own, next: named, stays: null }
  // What lies nowhere yet goes where the policy says.
  const { coldSegments } = await index.totals(stream.incarnation)
  if (own === null && coldSegments === 0) return { own, next: named, stays: null }
  return { own, next: own ?? log, stays: { at: own ?? log, named, origin: origins.archive } }
}

/** What `policy test` says of a stream that stays where it is. */
export function placeConflicts({ name }: StreamRow, { stays }: StreamPlace): PolicyConflict[] {
  if (stays === null) return []
  return [
    {
      fields: ['archive'],
      found: `archive ${stays.named} (${stays.origin.replace(/ +/g, ' ')}), and ${name} has its history in ${stays.at}`,
      consequence: `what it holds and what is appended stays in ${stays.at}; streams that are created from now on go to ${stays.named}`,
      remedy: `Name ${stays.at} again if that is not what is meant.`,
    },
  ]
}
