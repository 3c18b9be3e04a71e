import { attachKeys, keysOf } from '../../archive/keys.js'
import { listIncarnations, listSegments } from '../../archive/listing.js'
import { isStratalogError, StratalogError } from '../../src/model/errors.js'
import type { SegmentRow } from '../../src/model/segment.js'
import type { ArchiveStore } from '../../src/ports/archive-store.js'
import type { Coordination, Lease } from '../../src/ports/coordination.js'
import type { SegmentIndex } from '../../src/ports/segment-index.js'
import type { PlantedBug } from './options.js'
import type { SimRandom } from './random.js'

/** How often the index refuses an eviction, for the agent that does not mind. */
const REFUSED = 0.3

/** The index of an agent with a bug: one that goes on after an error, or commits whatever became of the row. */
export function buggyIndex(index: SegmentIndex, bug: PlantedBug | null, random: SimRandom): SegmentIndex {
  if (bug !== 'evict-after-index-error' && bug !== 'stale-agent-commits') return index
  const updateSegment: SegmentIndex['updateSegment'] = async (row, patch) => {
    if (bug === 'evict-after-index-error' && patch.state === 'cold' && random.chance(REFUSED))
      return { ...(row as SegmentRow), ...patch }
    try {
      return await index.updateSegment(row, patch)
    } catch (error) {
      const stale = bug === 'stale-agent-commits' && patch.state === 'archived'
      if (!stale || !isStratalogError(error, 'conflict')) throw error
      const found = await index.segment(row.incarnation, row.segment)
      if (found === null) throw error
      return index.updateSegment(found, patch)
    }
  }
  return new Proxy(index, {
    get: (_, name) => (name === 'updateSegment' ? updateSegment : index[name as keyof SegmentIndex]),
  })
}

/** Leases that everybody is given and nobody loses. */
export function buggyCoordination(coordination: Coordination, bug: PlantedBug | null): Coordination {
  if (bug !== 'stale-agent-commits') return coordination
  const acquire: Coordination['acquire'] = async (name, options) => {
    const lost = new AbortController().signal
    if (!name.startsWith('tiering/')) return coordination.acquire(name, options)
    const lease: Lease = { name, epoch: 1n, lost, release: async () => {} }
    return lease
  }
  return { acquire, close: () => coordination.close() }
}

/** A listing in an order of its own, as for somebody who takes what comes first or last for the newest. */
export function buggySource(source: ArchiveStore, bug: PlantedBug | null, random: SimRandom): ArchiveStore {
  if (bug !== 'restore-by-listing-order') return source
  const listFrom: ArchiveStore['listFrom'] = async (...args) => {
    const page = await source.listFrom(...args)
    return page
      .map((one) => ({ one, at: random.fraction() }))
      .sort((a, b) => a.at - b.at)
      .map(({ one }) => one)
  }
  const shuffled = new Proxy(source, {
    get: (_, name) => {
      if (name === 'listFrom') return listFrom
      const value: unknown = source[name as keyof ArchiveStore]
      return typeof value === 'function' ? value.bind(source) : value
    },
  })
  attachKeys(shuffled, keysOf(source))
  return shuffled
}

/**
 * A collector that deletes what it can't find in the index: at once, beside whoever is copying, or where the index does
 * not answer.
 */
export async function buggyCollect(
  index: SegmentIndex,
  archive: ArchiveStore,
  bug: PlantedBug | null,
  random: SimRandom,
): Promise<void> {
  for await (const incarnation of listIncarnations(archive)) {
    for await (const { key, parsed } of listSegments(archive, incarnation, 0n)) {
      const row = await rowOf(index, incarnation, parsed.segment, bug, random)
      if (row !== null && row.object?.key === key) continue
      if (bug === 'absence-is-proof' && row !== null) continue
      await archive.delete(key)
    }
  }
}

async function rowOf(
  index: SegmentIndex,
  incarnation: string,
  segment: bigint,
  bug: PlantedBug | null,
  random: SimRandom,
): Promise<SegmentRow | null> {
  try {
    if (bug === 'absence-is-proof' && random.chance(REFUSED / 10))
      throw new StratalogError('store_unavailable', 'the index does not answer', { retryable: true })
    return await index.segment(incarnation, segment)
  } catch (error) {
    if (bug === 'absence-is-proof') return null
    throw error
  }
}
