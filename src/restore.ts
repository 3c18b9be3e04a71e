import { planRestore as planStreams, restoreInto } from '../tiering/restore.js'
import type {
  LeftOut,
  RestorableStream,
  RestoreGap,
  RestoreOptions,
  RestorePlan,
  RestoreProgress,
  RestoreReport,
  RestoreUntil,
} from '../tiering/restore-types.js'
import { matcher } from './config/pattern.js'
import { nearest } from './config/suggest.js'
import type { Log } from './log.js'
import { Dlsn } from './model/dlsn.js'
import { StratalogError } from './model/errors.js'
import { policyQuorum } from './model/quorum.js'
import { checkStreamName } from './model/stream-name.js'
import { parseTime } from './model/units.js'
import type { ArchiveStore } from './ports/archive-store.js'

export type {
  LeftOut,
  RestorableStream,
  RestoreGap,
  RestoreOptions,
  RestorePlan,
  RestoreProgress,
  RestoreReport,
}

/** What of an archive is to be restored; without any of it all of it, as it is now. */
export interface RestoreSelection {
  /** Patterns of stream names as in policies: `audit/**`. */
  readonly streams?: readonly string[]
  /**
   * Where to stop, exclusive: a DLSN of the one stream that is restored, or a time, which is a txid where txids are
   * times and else the completion of segments. Streams have the names they had then.
   */
  readonly until?: Dlsn | { readonly time: string | Date | number }
  /** New names by old ones; those that end with `/` are beginnings of names: `{ 'audit/': 'restored/audit/' }`. */
  readonly as?: Readonly<Record<string, string>>
  /** One life of a stream (32 hexadecimal digits), also one that was deleted or written over by a later one. */
  readonly incarnation?: string
  readonly signal?: AbortSignal
}

/** See `planRestore` in lazy.ts. */
export async function planRestore(
  archive: ArchiveStore,
  selection: RestoreSelection = {},
): Promise<RestorePlan> {
  const { streams, until, as, incarnation, signal } = selection
  const matchers = streams?.map(matcher)
  if (incarnation !== undefined && !/^[0-9a-f]{32}$/.test(incarnation))
    throw new StratalogError(
      'invalid_argument',
      `"${incarnation}" is not an incarnation: it has 32 hexadecimal digits, as a plan shows it`,
      { found: incarnation },
    )
  const renames = renamer(as ?? {})
  const plan = await planStreams(archive, {
    ...(matchers === undefined
      ? {}
      : { wanted: (name: string) => matchers.some((matches) => matches(name)) }),
    ...(until === undefined ? {} : { until: untilOf(until) }),
    rename: renames.rename,
    ...(incarnation === undefined ? {} : { incarnation }),
    ...(signal === undefined ? {} : { signal }),
  })
  // A misspelt old name would be restored under it all the same, maybe into a log that lives.
  if (plan.streams.length > 0) renames.refuseUnused(plan.streams.map(({ binding }) => binding.name))
  return plan
}

function untilOf(until: Dlsn | { readonly time: string | Date | number }): RestoreUntil {
  if (until instanceof Dlsn) return { dlsn: until }
  const { time } = until
  const age = typeof time === 'string' && /^[+-]/.test(time)
  const timeMs =
    typeof time === 'number' ? time : time instanceof Date ? time.getTime() : age ? null : parseTime(time, 0)
  if (timeMs !== null && Number.isSafeInteger(timeMs)) return { timeMs }
  throw new StratalogError(
    'position_invalid',
    `${JSON.stringify(time)} is not a time to restore to: write an ISO 8601 date or time, as 2025-01-31T10:00Z`,
    { found: time },
  )
}

interface Renames {
  readonly rename: (name: string) => string
  /** Rejects with `invalid_argument` where an old name is that of none of the streams, `names`. */
  refuseUnused(names: readonly string[]): void
}

/** A whole name is nearer than a beginning, a longer beginning nearer than a shorter one. */
function renamer(as: Readonly<Record<string, string>>): Renames {
  const beginnings = Object.keys(as).filter((from) => from.endsWith('/'))
  beginnings.sort((a, b) => b.length - a.length)
  return {
    rename: (name) => {
      const whole = Object.hasOwn(as, name) ? as[name] : undefined
      if (whole !== undefined) return checkStreamName(whole)
      const from = beginnings.find((one) => name.startsWith(one))
      return from === undefined ? name : checkStreamName(`${as[from] ?? ''}${name.slice(from.length)}`)
    },
    refuseUnused: (names) => {
      const unused = Object.keys(as).find(
        (from) => !names.some((name) => (from.endsWith('/') ? name.startsWith(from) : name === from)),
      )
      if (unused === undefined) return
      const near = nearest(unused, names)
      const hint = near === null ? 'see the names with a dry run, without it' : `did you mean ${near}?`
      throw new StratalogError(
        'invalid_argument',
        `"${unused}" is to have another name, and no stream that is restored is called so: ${hint}`,
        { found: unused },
      )
    },
  }
}

/** See `restoreArchive` in lazy.ts. */
export async function restoreArchive(
  log: Log,
  archive: ArchiveStore,
  plan: RestorePlan,
  options: RestoreOptions = {},
): Promise<RestoreReport> {
  const { segments, random, policies, agent, tiering } = log.parts
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
    checkPolicy: (stream: string, policy: string) => {
      policies.resolve(stream, policy)
    },
    ...(tiering.ledgersAreShared ? { coordination: tiering.coordination } : {}),
  }
  return restoreInto(target, archive, plan, options)
}
