import { bindingFact, LOG_ARCHIVE } from '../../archive/bindings.js'
import { bindingOf, type ControlObject, readControls, trimmedBelow } from '../../archive/control-objects.js'
import { endOf, gapsOf, policyOf, standingHolds } from '../../archive/decisions.js'
import { type ChosenSegment, chooseSegments, listIncarnations } from '../../archive/listing.js'
import { listHistory } from '../../archive/shared.js'
import type { DecidedGap, DecidedStream, DecidedTrim } from '../format/control-frame.js'
import type { KeptHold } from '../model/hold.js'
import type { Incarnation } from '../model/segment.js'
import { sideBySide } from '../model/side-by-side.js'
import type { ArchiveStore } from '../ports/archive-store.js'
import { type DecidedState, gapAt, recalledUntil } from './decisions.js'
import type { FoundLedger } from './found-ledgers.js'
import { noteLoss, type RebuildReport } from './report.js'
import { candidatesOf, type SegmentLedger } from './segment-plan.js'

/** Streams of which stores and archive are asked side by side. */
export const STREAMS_AT_ONCE = 8

/** Everything that tells of one stream. */
export interface StreamSource {
  readonly stream: DecidedStream
  /** The archive it lies in; null: nothing of it is in one, or that one is not there. */
  readonly archive: ArchiveStore | null
  /** Where that is, if the stream has it to itself; null: it is the log's. */
  readonly own: string | null
  readonly trim: DecidedTrim | null
  /** When it was ended for ever; null: it was not. */
  readonly finishedMs: number | null
  readonly policy: string | null
  readonly holds: readonly KeptHold[]
  /** Until when a segment is to stay hot; null: nobody said so. */
  readonly recalledUntilMs: (segment: bigint) => number | null
  readonly candidates: ReadonlyMap<bigint, readonly SegmentLedger[]>
  /** The archive's segments from `first` on, ascending. */
  readonly objects: (first: bigint) => AsyncIterable<ChosenSegment>
  /** The gap a segment was declared to be; null: none. */
  readonly givenUp: (segment: bigint) => DecidedGap | null
  /** Every gap that the archive or a decision tells of, decisions last. */
  readonly gaps: readonly DecidedGap[]
  /** Whether anything but a decision tells of it. */
  readonly held: boolean
}

/** The archives of a log that are there. */
export interface RebuildArchives {
  /** The log's; null: it has none, or goes on without it. */
  readonly log: ArchiveStore | null
  /** By where they are, those that some streams have to themselves. */
  readonly own: ReadonlyMap<string, ArchiveStore>
}

/** Where a stream was bound to; null: to no archive of its own. */
function boundTo(decided: DecidedState, incarnation: Incarnation): string | null {
  const bound = decided.facts.get(bindingFact(incarnation)) ?? LOG_ARCHIVE
  return bound === LOG_ARCHIVE ? null : bound
}

/** One of the log's own by another name is the log's. */
function archiveAt({ log, own }: RebuildArchives, location: string | null): ArchiveStore | null {
  return location === null ? log : (own.get(location) ?? null)
}

/**
 * The streams that archives have something of, and in which: what decisions bind lies where they say; of the others
 * those in an archive of their own were bound by decisions that are lost (decision 0030).
 */
async function whereArchived(
  decided: DecidedState,
  { log, own }: RebuildArchives,
  signal?: AbortSignal,
): Promise<ReadonlyMap<Incarnation, string | null>> {
  const found = new Map<Incarnation, string | null>()
  for (const [location, store] of [[null, log] as const, ...own]) {
    if (store === null) continue
    for await (const incarnation of listIncarnations(store, undefined, signal)) {
      const bound = decided.facts.get(bindingFact(incarnation)) ?? null
      const here = bound === null ? !found.has(incarnation) : boundTo(decided, incarnation) === location
      if (here) found.set(incarnation, location)
    }
  }
  return found
}

/** The streams that decisions, ledgers or the archive tell of, by name; of two with one name the one that holds records. */
export async function streamSources(
  decided: DecidedState,
  ledgers: Iterable<FoundLedger>,
  archives: RebuildArchives,
  report: RebuildReport,
  signal?: AbortSignal,
): Promise<StreamSource[]> {
  const byStream = new Map<Incarnation, FoundLedger[]>()
  for (const ledger of ledgers) {
    const incarnation = ledger.header?.segment?.incarnation ?? null
    if (incarnation === null) continue
    const of = byStream.get(incarnation) ?? []
    of.push(ledger)
    byStream.set(incarnation, of)
  }
  const archived = await whereArchived(decided, archives, signal)
  // An archive that was taken over holds streams of the log that had it before: they are none of ours (decision 0021).
  const ours = new Set([...decided.streams.keys(), ...byStream.keys()])
  if (!decided.facts.has('archive-taken-over'))
    for (const incarnation of archived.keys()) ours.add(incarnation)
  const sources = await sideBySide([...ours], STREAMS_AT_ONCE, async (incarnation) => {
    const of = byStream.get(incarnation) ?? []
    // What a clone shares is there, though nothing of its own may be yet.
    const parent = decided.streams.get(incarnation)?.parent ?? null
    const shared = parent?.shares === true ? parent.incarnation : null
    const own = boundTo(decided, incarnation) ?? archived.get(shared ?? incarnation) ?? null
    const there = archived.has(incarnation) || shared !== null
    const place = { own, archive: there ? archiveAt(archives, own) : null }
    return sourceOf(incarnation, decided, of, place, report, signal)
  })
  const byName = new Map<string, StreamSource>()
  for (const source of sources) {
    if (source === null) continue
    const { name, incarnation } = source.stream
    const other = byName.get(name)
    // Decisions are older first: of two that hold nothing the later one is the stream, the other one was never made.
    if (other === undefined || !other.held) byName.set(name, source)
    else if (source.held) noteLoss(report, `stream ${name}: ${incarnation} has that name too and is left out`)
  }
  return [...byName.values()].sort((a, b) => (a.stream.name < b.stream.name ? -1 : 1))
}

async function sourceOf(
  incarnation: Incarnation,
  decided: DecidedState,
  ledgers: readonly FoundLedger[],
  { own, archive }: Pick<StreamSource, 'own' | 'archive'>,
  report: RebuildReport,
  signal?: AbortSignal,
): Promise<StreamSource | null> {
  const controls = archive === null ? [] : await readControls(archive, incarnation, undefined, signal)
  // What is left of it on stores and in the archive stays with nobody.
  if (decided.deleted.has(incarnation) || controls.some(({ kind }) => kind === 'delete')) return null
  const candidates = candidatesOf(ledgers)
  const binding = bindingOf(controls)
  const told = decided.streams.get(incarnation) ?? null
  const stream = told ?? (binding && { ...binding, incarnation, createdMs: 0 }) ?? named(incarnation, ledgers)
  if (stream === null) {
    noteLoss(report, `${incarnation}: nothing says what this stream is called; it is left out`)
    return null
  }
  if (told === null && binding === null)
    noteLoss(
      report,
      `stream ${stream.name}: nothing says how its txids are to be understood, taken as custom`,
    )
  const gaps = [...gapsOf(controls), ...(decided.gaps.get(incarnation) ?? [])]
  return {
    stream,
    archive,
    own,
    trim: trimOf(incarnation, decided, controls),
    // The stores' decision comes first; where they lost it the archive may have been told of it.
    finishedMs: decided.finished.get(incarnation) ?? endOf(controls)?.atMs ?? null,
    policy: decided.policies.has(incarnation)
      ? (decided.policies.get(incarnation) ?? null)
      : policyOf(controls),
    holds: decided.holds.get(incarnation) ?? [],
    recalledUntilMs: (segment) => recalledUntil(decided, incarnation, segment),
    candidates,
    givenUp: (segment) => gapAt(gaps, segment),
    gaps,
    held: candidates.size > 0 || archive !== null,
    objects: (first) =>
      archive === null
        ? noObjects()
        : chooseSegments(
            listHistory(archive, stream, {
              from: first,
              ...(signal === undefined ? {} : { signal }),
            }),
          ),
  }
}

/** The name its ledgers were opened under. */
function named(incarnation: Incarnation, ledgers: readonly FoundLedger[]): DecidedStream | null {
  const segment = ledgers.at(-1)?.header?.segment ?? null
  if (segment === null) return null
  return { incarnation, name: segment.stream, txidMode: 'custom', createdMs: segment.openedMs, parent: null }
}

/**
 * A marker the stores know nothing of was written by a trim that a crash stopped before it deleted anything. It is gone
 * on with, but not where something is held: a hold that came after that crash was promised all of it, and where it
 * binds is known only once there are rows. The first trim after this decides anew.
 */
function trimOf(
  incarnation: Incarnation,
  decided: DecidedState,
  controls: readonly ControlObject[],
): DecidedTrim | null {
  const trim = decided.trims.get(incarnation) ?? null
  const put = (decided.holds.get(incarnation) ?? []).some(({ releasedMs }) => releasedMs === null)
  const held = put || standingHolds(controls).length > 0
  // Of a stream that the stores never heard of the archive alone says where it begins.
  return held && decided.streams.has(incarnation) ? trim : later(trim, trimmedBelow(controls))
}

/** The archive's marker is written before the stores' decision: the further of the two counts. */
function later(decided: DecidedTrim | null, marked: DecidedTrim['below'] | null): DecidedTrim | null {
  if (marked === null || (decided !== null && decided.below.compare(marked) >= 0)) return decided
  return { below: marked, tail: null }
}

async function* noObjects(): AsyncGenerator<ChosenSegment> {}
