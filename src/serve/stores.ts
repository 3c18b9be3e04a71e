import type { WorkProgress } from '../../tiering/store-work.js'
import type { UnrepairableEntry } from '../ledger/share-report.js'
import type { LogParts } from '../log-parts.js'
import type { StoreProgressDto, StoreWorkPart, UnrepairableDto } from '../model/control-api.js'
import type { Begun } from '../stores/admin.js'

/** What is asked of a store's copies. */
interface StoreRequest {
  readonly store: string
  readonly with?: string
  readonly bytesPerSecond?: number
}

/** Puts a new store in the place of a lost one, then tells how its copies are coming. */
export async function* replaceStore(
  parts: LogParts,
  request: StoreRequest,
  signal?: AbortSignal,
): AsyncGenerator<StoreWorkPart, void, undefined> {
  const { store, with: other = null, bytesPerSecond = null } = request
  yield* watch(parts, await parts.stores.beginReplace({ store, with: other, bytesPerSecond }), signal)
}

/** Takes a store out of use, then tells how its copies are going elsewhere. */
export async function* drainStore(
  parts: LogParts,
  request: StoreRequest,
  signal?: AbortSignal,
): AsyncGenerator<StoreWorkPart, void, undefined> {
  const { store, bytesPerSecond = null } = request
  yield* watch(parts, await parts.stores.beginDrain({ store, bytesPerSecond }), signal)
}

/** Whoever stops watching stops nothing: what was begun is remembered, and the agent goes on with it. */
async function* watch(
  parts: LogParts,
  begun: Begun,
  signal?: AbortSignal,
): AsyncGenerator<StoreWorkPart, void, undefined> {
  yield { type: 'begun', ...begun }
  if (begun.from === null) {
    yield { type: 'end', progress: null }
    return
  }
  let latest: StoreProgressDto | null = null
  let wake: () => void = () => undefined
  let ended = false
  const onProgress = (progress: WorkProgress) => {
    if (progress.work.from !== begun.from) return
    latest = progressDto(progress)
    wake()
  }
  const pass = parts.upkeep.work(onProgress, signal).finally(() => {
    ended = true
    wake()
  })
  pass.catch(() => undefined)
  while (!ended) {
    const progress: StoreProgressDto | null = latest
    latest = null
    if (progress !== null) yield { type: 'progress', progress }
    else {
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
  }
  const { works, broken } = await pass
  const problem = broken.get(begun.from)
  if (problem !== undefined) throw problem
  const done = works.find(({ work }) => work.from === begun.from)
  yield { type: 'end', progress: done === undefined ? null : progressDto(done) }
}

function progressDto(progress: WorkProgress): StoreProgressDto {
  const { work, unrepairable, ...counts } = progress
  return { from: work.from, to: work.to, ...counts, unrepairable: unrepairable.map(unrepairableDto) }
}

/** An entry without a valid copy, for JSON. */
export function unrepairableDto(entry: UnrepairableEntry): UnrepairableDto {
  return { ...entry, ledgerId: entry.ledgerId.toString(), entryId: entry.entryId.toString() }
}
