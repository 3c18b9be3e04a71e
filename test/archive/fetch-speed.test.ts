import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { ColdReads, type ColdReadsOptions } from '../../archive/cold-reads.js'
import { planSegmentObject, segmentObjectBody } from '../../archive/segment-writer.js'
import type { ArchivedObject } from '../../src/model/segment.js'
import { MemoryArchive, nameOf, sampleSegment, sourceOf } from '../helpers/archive.js'
import { ManualClock } from '../helpers/manual-clock.js'

/** What one connection to S3 gives. */
const BYTES_PER_MS = 40_000
const LATENCY_MS = 20
const SEGMENT = sampleSegment({
  entries: 128,
  recordsPerEntry: 1,
  payloadBytes: 1_000_000,
  incompressible: true,
})

async function stored(): Promise<{ store: MemoryArchive; object: ArchivedObject }> {
  const { meta, payloads } = SEGMENT
  const planned = await planSegmentObject(meta, sourceOf(payloads))
  const key = nameOf(planned)
  const store = new MemoryArchive()
  await store.putIfAbsent(key, segmentObjectBody(planned, sourceOf(payloads)))
  const { sizeBytes, indexBytes } = planned
  return { store, object: { key, sizeBytes, indexBytes } }
}

/** Reads an object over such connections, by a reader that takes no time; how often as fast as one of them it was. */
async function speedUp(
  options: Partial<ColdReadsOptions> = {},
): Promise<{ times: number; requests: number }> {
  const { store, object } = await stored()
  const clock = new ManualClock()
  const inner = store.readRange.bind(store)
  let requests = 0
  store.readRange = async (key, offset, lengthBytes, signal) => {
    requests += 1
    await clock.sleep(LATENCY_MS + lengthBytes / BYTES_PER_MS, signal)
    return inner(key, offset, lengthBytes, signal)
  }
  let readBytes = 0
  let done = false
  const reading = (async () => {
    const reader = await new ColdReads({ clock, ...options }).open(store, object)
    for (let next = 0n; next <= reader.lastEntryId; ) {
      for (const { payload } of await reader.readEntries(next, 1)) readBytes += payload.length
      next += 1n
    }
    reader.close()
    done = true
  })()
  // The window has learnt what the line gives by then, and there is still something to read ahead.
  const marks = [object.sizeBytes * 0.25, object.sizeBytes * 0.95]
  const at: { ms: number; bytes: number }[] = []
  while (!done) {
    await clock.advance(1)
    const mark = marks[at.length]
    if (mark !== undefined && readBytes >= mark) at.push({ ms: clock.monotonicMs(), bytes: readBytes })
    await setImmediate()
  }
  await reading
  const [from, to] = at
  assert.ok(from !== undefined && to !== undefined)
  return { times: (to.bytes - from.bytes) / (to.ms - from.ms) / BYTES_PER_MS, requests }
}

describe('one reader behind connections of 40 MB/s and 20 ms', () => {
  test('is more than six times as fast as one of them, and asks for megabytes at a time', async () => {
    const { times, requests } = await speedUp()
    assert.ok(times >= 6, `${times.toFixed(2)} times`)
    assert.ok(requests <= 80, `${requests} requests`)
  })

  test('a single connection is used as well as it can be', async () => {
    const { times } = await speedUp({ connections: 1 })
    assert.ok(times >= 0.6 && times <= 1, `${times.toFixed(2)} times`)
  })
})
