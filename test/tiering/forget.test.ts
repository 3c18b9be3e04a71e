import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { directoryArchive } from '../../archive/directory/store.js'
import { openLog } from '../../src/open.js'
import { silentLogger } from '../../src/system/logger.js'
import { TieringAgent } from '../../tiering/agent.js'
import type { TieringContext } from '../../tiering/context.js'
import { forgetTrimmed } from '../../tiering/evict.js'
import { newStream, openRow, sealedRow } from '../contract/segment-rows.js'
import { openFor } from '../metadata/helpers.js'

let root = ''
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'stratalog-forget-'))
})
afterEach(() => rmSync(root, { recursive: true, force: true }))

describe('rows of trimmed segments', () => {
  test('the newest closed one stays while only an open one follows, which recovery may find empty', async () => {
    const metadata = openFor(join(root, 'index.db'))
    const { index } = metadata
    const context = { index } as Partial<TieringContext> as TieringContext
    const { incarnation, version } = await index.createStream(newStream('orders'))
    await index.updateStream(incarnation, version, { epoch: 1n })
    const add = async (segment: bigint) => {
      await index.adoptSegment(sealedRow(incarnation, segment))
      const row = await index.segment(incarnation, segment)
      assert.ok(row)
      return index.updateSegment(row, { state: 'trimmed', ledgerId: null })
    }
    await add(1n)
    const second = await add(2n)
    const open = await index.beginSegment(openRow(incarnation, 3n, { startSequenceId: 20n }))
    await forgetTrimmed(context, second)
    // Segment 1 is not needed any more; 2 is what numbering goes on from.
    const left = await index.listSegments(incarnation, 0n, 10)
    assert.deepEqual(
      left.map((row) => row.segment),
      [2n, 3n],
    )
    await index.removeSegment(open)
    const newest = await index.newestSegment(incarnation)
    assert.equal((newest?.startSequenceId ?? 0n) + (newest?.recordCount ?? 0n), 20n)
    await metadata.close()
  })
})

for (const { when, call, gone } of [
  { when: 'between plan and step', call: 'segment', gone: null },
  // An empty ledger's row, the only one of its stream, removed by whoever recovered it.
  { when: 'while the plan is made', call: 'listSegments', gone: [] },
]) {
  test(`a row that another process removed ${when} is nothing to do, and no bug`, async () => {
    const log = await openLog(join(root, 'log'), {
      archive: directoryArchive(join(root, 'archive')),
      tiering: 'off',
      control: 'off',
      config: 'none',
      storeFileBytes: 4 * 2 ** 20,
      system: { logger: silentLogger() },
    })
    try {
      await log.stream('orders').append('one')
      await log.stream('orders').seal()
      const { segments, hub, random, archive } = log.parts
      // What was seen a moment ago is gone.
      const index = new Proxy(segments.index, {
        get: (target, name) => {
          if (name === call) return async () => gone
          const value: unknown = Reflect.get(target, name)
          return typeof value === 'function' ? value.bind(target) : value
        },
      })
      const lost = new AbortController().signal
      const acquire = async (name: string) => ({ name, epoch: 1n, lost, release: async () => {} })
      const agent = new TieringAgent({
        logId: log.logId,
        ledger: segments.ledger,
        index,
        coordination: { acquire, close: async () => {} },
        random,
        archive,
        writers: hub,
        policy: async () => (await log.policyOf('orders')).resolved,
      })
      const report = await agent.runOnce()
      assert.deepEqual(report.failed, [])
      assert.equal(report.copied, 0)
      await agent.close()
    } finally {
      await log.close()
    }
  })
}
