import { streamsOf } from '../../tiering/all-rows.js'
import type { TieringContext } from '../../tiering/context.js'
import { isBreakable, PURGE_MEND, purgedAfterMs, purgeText } from '../../tiering/foreign.js'
import { knownHolds } from '../../tiering/holds.js'
import type { DoctorCheck } from '../model/control-doctor.js'
import { isStratalogError } from '../model/errors.js'
import type { StreamRow } from '../model/segment.js'
import { formatDuration } from '../model/units.js'

/** Streams that are named one by one; the others are counted. */
const NAMED_MAX = 10
/** Uncopied segments that are looked at for the oldest. */
const HOT_MAX = 1_000

/** What `doctor` says of streams that Java writers purge: holds that could be broken, and copies that may come too late. */
export async function foreignChecks(context: TieringContext): Promise<DoctorCheck[]> {
  if (context.foreign === undefined) return []
  const found: DoctorCheck[] = []
  let streams = 0
  try {
    for await (const stream of streamsOf(context.index)) {
      try {
        if (!(await context.foreign.isForeign(stream.incarnation))) continue
        streams += 1
        found.push(...(await holdChecks(context, stream)), ...(await lateChecks(context, stream)))
      } catch (error) {
        if (!isStratalogError(error)) throw error
        // One that can't be read hides nothing of the others.
        found.push(line('bad', `${stream.name} can't be looked at: ${error.message}`, null))
      }
    }
  } catch (error) {
    // The index has a line of its own.
    if (!isStratalogError(error)) throw error
    return found
  }
  if (streams === 0) return found.slice(0, NAMED_MAX)
  const { purge, purgeAfterMs, followsTruncation } = context.foreign
  const deleted = { aged: 'what is older than', truncated: 'what was truncated and is older than', never: '' }
  const says = purge === 'never' ? 'nothing' : `${deleted[purge]} ${formatDuration(purgeAfterMs)}`
  const cut = followsTruncation ? 'followed' : 'kept in the archive'
  const text = `${streams} ${streams === 1 ? 'stream was' : 'streams were'} made by Java writers, which delete ${says} as the configuration has it; what they truncate is ${cut}`
  const named = found.slice(0, NAMED_MAX)
  const rest = found.length - named.length
  const more: DoctorCheck[] =
    rest === 0 ? [] : [line('bad', `${rest} more of these`, 'mend the configuration, then look again')]
  return [line('ok', text, null), ...named, ...more]
}

const line = (state: DoctorCheck['state'], text: string, mend: string | null): DoctorCheck => ({
  ...({ area: 'stores', name: 'java' } as const),
  state,
  text,
  mend,
})

async function holdChecks(context: TieringContext, stream: StreamRow): Promise<DoctorCheck[]> {
  const checks: DoctorCheck[] = []
  for (const hold of await knownHolds(context, stream)) {
    if (!(await isBreakable(context, stream, hold))) continue
    const text = `hold ${hold.id} of ${stream.name} (${hold.origin}) can't be kept: ${purgeText(context)}`
    checks.push(line('bad', text, PURGE_MEND))
  }
  return checks
}

/** What is not archived when half of the time is over was due by then: something holds it up. */
async function lateChecks(context: TieringContext, stream: StreamRow): Promise<DoctorCheck[]> {
  const afterMs = await purgedAfterMs(context, stream)
  if (afterMs === null) return []
  const hot = await context.index.listHotSegments(stream.incarnation, HOT_MAX)
  const oldest = hot.find(({ state }) => state === 'sealed')
  const ageMs = context.ledger.clock.nowMs() - (oldest?.sealedMs ?? Number.POSITIVE_INFINITY)
  if (oldest === undefined || ageMs <= afterMs / 2) return []
  const text = `segment ${oldest.segment} of ${stream.name} was completed ${formatDuration(ageMs)} ago and is in no archive: the purge may take it after ${formatDuration(afterMs)}`
  const mend =
    context.archive === null ? 'name an archive' : 'see why with "stratalog tier status" and mend that first'
  return [line('bad', text, mend)]
}
