import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { ControlClient } from '../../src/client/control-client.js'
import type { Log } from '../../src/log.js'
import type { ControlApi } from '../../src/model/control-api.js'
import { isStratalogError } from '../../src/model/errors.js'
import { openLog } from '../../src/open.js'
import { LocalControl } from '../../src/serve/control-api.js'
import { startControl } from '../../src/serve/control-server.js'
import { silentLogger } from '../../src/system/logger.js'

const records = (...texts: string[]) => texts.map((text) => ({ payload: new Uint8Array(Buffer.from(text)) }))

for (const way of ['in the process', 'through the socket'] as const) {
  describe(`producers, conditions and finishing ${way}`, () => {
    let directory: string
    let log: Log
    let api: ControlApi
    let server: { close(): Promise<void> }
    before(async () => {
      directory = await mkdtemp(join(tmpdir(), 'sl-cond-'))
      log = await openLog(directory, {
        tiering: 'off',
        control: 'off',
        storeFileBytes: 4 * 1024 * 1024,
        system: { logger: silentLogger() },
      })
      server = await startControl(log, directory)
      api =
        way === 'in the process' ? new LocalControl(log) : new ControlClient(join(directory, 'control.sock'))
    })
    after(async () => {
      await server.close()
      await log.close()
      await rm(directory, { recursive: true, force: true })
    })

    test('records of a producer are there once', async () => {
      const first = await api.append('a', records('x', 'y'), { producer: { id: 'p', sequence: 5n } })
      assert.deepEqual(
        first.acks.map(({ duplicate }) => duplicate),
        [false, false],
      )
      const again = await api.append('a', records('x', 'y', 'z'), { producer: { id: 'p', sequence: 5n } })
      assert.deepEqual(
        again.acks.map(({ sequenceId, duplicate }) => `${sequenceId} ${duplicate}`),
        ['1 true', '1 true', '2 false'],
      )
    })

    test('the tail is looked at for the first record; nothing is appended where it differs', async () => {
      const ok = await api.append('b', records('x', 'y', 'z'), { ifTail: 'empty' })
      assert.equal(ok.acks.length, 3)
      await assert.rejects(
        api.append('b', records('x', 'y'), { ifTail: 1n }),
        (error) => isStratalogError(error, 'conflict') && String(error.found) === '2',
      )
      await assert.rejects(
        api.append('b', records('x', 'y'), { fence: 999n }),
        (error) => isStratalogError(error, 'fenced') && String(error.expected) === '999',
      )
      assert.equal((await api.append('b', records('x'), { ifTail: 2n })).acks[0]?.sequenceId, '3')
    })

    test('a finished stream says so', async () => {
      await api.append('c', records('x'))
      const info = await api.finishStream('c')
      assert.ok((info.finishedMs ?? 0) > 0)
      assert.deepEqual(await api.finishStream('c'), info)
      await assert.rejects(api.append('c', records('y')), (error) =>
        isStratalogError(error, 'stream_finished'),
      )
      await assert.rejects(api.finishStream('nowhere'), (error) =>
        isStratalogError(error, 'stream_not_found'),
      )
      assert.equal((await api.listStreams()).find(({ name }) => name === 'c')?.finishedMs, info.finishedMs)
    })
  })
}
