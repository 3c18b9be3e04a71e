import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { isSummarized, listSummarized } from '../../archive/summaries.js'
import { encodeSegmentKey } from '../../src/format/archive-names.js'
import type { SqliteMetadata } from '../../src/metadata/sqlite/open.js'
import { present } from '../../src/model/assert.js'
import { StratalogError } from '../../src/model/errors.js'
import type { SegmentRow } from '../../src/model/segment.js'
import type { TieringContext } from '../../tiering/context.js'
import { summarizeAfter } from '../../tiering/summarize.js'
import { newStream, sealedRow } from '../contract/segment-rows.js'
import { bodyOf, countingRandom, MemoryArchive, memoryLogger } from '../helpers/archive.js'
import { openFor } from '../metadata/helpers.js'

let root = ''
let metadata: SqliteMetadata
let said: string[] = []
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-summarize-'))
  metadata = openFor(join(root, 'index.db'), { building: true })
  said = []
})
afterEach(async () => {
  await metadata.close()
  rmSync(root, { recursive: true, force: true })
})

const never = new AbortController().signal

function contextOf(): TieringContext {
  const ledger = { logger: memoryLogger(said) }
  return { index: metadata.index, random: countingRandom(), ledger } as unknown as TieringContext
}

/** A stream of archived segments, its objects in an archive; those of `sealed` are not copied yet. */
async function stream(count: number, sealed: readonly number[] = []) {
  const { incarnation } = await metadata.index.createStream(newStream('orders'))
  const rows = Array.from({ length: count }, (_, i) =>
    sealed.includes(i + 1) ? sealedRow(incarnation, BigInt(i + 1)) : archivedRow(incarnation, BigInt(i + 1)),
  )
  await metadata.adoptSegments(rows)
  const archive = new MemoryArchive()
  for (const { object } of rows) if (object !== null) await archive.putIfAbsent(object.key, bodyOf('x'))
  const copied = async (segment: number) => {
    const row = present(await metadata.index.segment(incarnation, BigInt(segment)), 'row')
    await summarizeAfter(contextOf(), archive, row, never)
  }
  const summarized = async () => {
    const found: bigint[] = []
    for (let first = 1n; first <= BigInt(count); first += 1_000n)
      if (await isSummarized(archive, incarnation, first)) found.push(first)
    return found
  }
  return { incarnation, archive, copied, summarized, rows }
}

function archivedRow(incarnation: string, segment: bigint): SegmentRow {
  const row = sealedRow(incarnation, segment)
  const contentDigest = 'a'.repeat(64)
  const completionMs = row.sealedMs ?? 0
  const key = encodeSegmentKey({
    ...row,
    contentDigest,
    completionMs,
    indexBytes: 152,
    attempt: '0'.repeat(13),
  })
  const object = { key, sizeBytes: 1, indexBytes: 152 }
  return { ...row, state: 'archived', contentDigest, object, archivedMs: completionMs }
}

describe('summaries by the agent', () => {
  test('the copy that completes a thousand writes one, no other does', async () => {
    const { copied, summarized, archive, incarnation } = await stream(1_500, [1_000])
    for (const segment of [1, 999, 1_001, 1_500]) await copied(segment)
    assert.deepEqual(await summarized(), [])
    const row = present(await metadata.index.segment(incarnation, 1_000n), 'row')
    const { state, object, contentDigest, archivedMs } = archivedRow(incarnation, 1_000n)
    await metadata.index.updateSegment(row, { state, object, contentDigest, archivedMs })
    await archive.putIfAbsent(object?.key ?? '', bodyOf('x'))
    await copied(1_000)
    assert.deepEqual(await summarized(), [1n])
    await copied(1_000)
    assert.equal([...archive.objects.keys()].filter((key) => key.includes('/m')).length, 1)
    const named: string[] = []
    for await (const { key } of listSummarized(archive, incarnation, { check: 'first' })) named.push(key)
    const rows = await metadata.index.listSegments(incarnation, 1n, 2_000)
    assert.deepEqual(
      named,
      rows.map((one) => one.object?.key),
    )
  })

  test('one that a crash left out is written with the next; one of a late copy when that comes', async () => {
    const { copied, summarized } = await stream(3_000)
    await copied(2_000)
    assert.deepEqual(await summarized(), [1n, 1_001n])
    // Segment 2,500 was copied after 3,000.
    await copied(2_500)
    assert.deepEqual(await summarized(), [1n, 1_001n, 2_001n])
  })

  test('a thousand with a segment that has no object gets none', async () => {
    const { copied, summarized } = await stream(2_000, [400])
    await copied(1_000)
    await copied(2_000)
    assert.deepEqual(await summarized(), [1_001n])
  })

  test('an archive that refuses it does not undo the copy: it is told, and made up for later', async () => {
    const { copied, summarized, archive } = await stream(2_000)
    const put = archive.putIfAbsent.bind(archive)
    archive.putIfAbsent = () =>
      Promise.reject(new StratalogError('archive_full', 'full', { retryable: true }))
    await copied(1_000)
    assert.equal(said.length, 1)
    archive.putIfAbsent = put
    await copied(2_000)
    assert.deepEqual(await summarized(), [1n, 1_001n])
  })
})
