import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { isStratalogError } from '../../src/model/errors.js'
import type { Coordination, Lease } from '../../src/ports/coordination.js'

/** An empty engine for one test. `reopen` closes it and opens the same data again. */
export interface OpenedCoordination {
  readonly subject: Coordination
  readonly reopen?: () => Promise<Coordination>
  cleanup(): Promise<void>
}

const later = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

/** Every promise of `Coordination`, as tests of one engine. */
export function coordinationContract(name: string, open: () => Promise<OpenedCoordination>): void {
  describe(`coordination: ${name}`, () => {
    let opened: OpenedCoordination
    let coordination: Coordination
    const take = (lease: string, holder = 'me', waitMs = 0) => coordination.acquire(lease, { holder, waitMs })
    beforeEach(async () => {
      opened = await open()
      coordination = opened.subject
    })
    afterEach(() => opened.cleanup())

    test('a lease is held by one, and the other hears who', async () => {
      const lease = await take('agent', 'first')
      assert.equal(lease.name, 'agent')
      assert.equal(lease.lost.aborted, false)
      await assert.rejects(
        take('agent', 'second'),
        (error) =>
          isStratalogError(error, 'conflict') && /first/.test(`${error.message}${String(error.found)}`),
      )
      await take('another', 'second')
    })

    test('who holds a lease is told to whoever asks, where an engine can', async () => {
      const { holder } = coordination
      if (holder === undefined) return
      assert.equal(await coordination.holder?.('agent'), null)
      const lease = await take('agent', 'first')
      assert.match((await coordination.holder?.('agent')) ?? '', /first/)
      await lease.release()
      assert.equal(await coordination.holder?.('agent'), null)
    })

    test('of many that ask at once, one gets it', async () => {
      const results = await Promise.allSettled(Array.from({ length: 6 }, (_, i) => take('agent', `h${i}`)))
      assert.equal(results.filter((result) => result.status === 'fulfilled').length, 1)
    })

    test('epochs grow with every grant of a name', async () => {
      let epoch = -1n
      for (let i = 0; i < 5; i++) {
        const lease = await take('agent')
        assert.ok(lease.epoch > epoch, `${lease.epoch} after ${epoch}`)
        epoch = lease.epoch
        await lease.release()
        await lease.release()
      }
    })

    test('releasing a lease twice does not take it from the next', async () => {
      const first = await take('agent', 'first')
      await first.release()
      const second = await take('agent', 'second')
      await first.release()
      await assert.rejects(take('agent', 'third'), (error) => isStratalogError(error, 'conflict'))
      assert.equal(second.lost.aborted, false)
    })

    test('who waits gets the lease when it is released', async () => {
      const first = await take('agent', 'first')
      const waiting = take('agent', 'second', 10_000)
      await later(20)
      await first.release()
      const second = await waiting
      assert.ok(second.epoch > first.epoch)
      await assert.rejects(take('agent', 'third'), (error) => isStratalogError(error, 'conflict'))
    })

    test('all who wait get it, one after another', async () => {
      const first = await take('agent')
      let holding = 0
      const work = async (lease: Lease) => {
        holding += 1
        assert.equal(holding, 1)
        await later(2)
        holding -= 1
        await lease.release()
        return lease.epoch
      }
      const waiting = Array.from({ length: 5 }, (_, i) => take('agent', `h${i}`, 10_000).then(work))
      await first.release()
      assert.equal(new Set(await Promise.all(waiting)).size, 5)
    })

    test('who waits too long is refused and leaves nothing behind', async () => {
      const first = await take('agent', 'first')
      await assert.rejects(take('agent', 'second', 30), (error) => isStratalogError(error, 'conflict'))
      await first.release()
      await later(5)
      await (await take('agent', 'third')).release()
    })

    test('an aborted wait rejects with the reason and leaves nothing behind', async () => {
      const first = await take('agent', 'first')
      const stop = new AbortController()
      const waiting = coordination.acquire('agent', { holder: 'second', waitMs: 10_000, signal: stop.signal })
      const reason = new Error('enough')
      setTimeout(() => stop.abort(reason), 10)
      await assert.rejects(waiting, (error) => error === reason)
      const again = coordination.acquire('agent', { holder: 'second', waitMs: 10_000, signal: stop.signal })
      await assert.rejects(again, (error) => error === reason)
      await first.release()
      await later(5)
      await take('agent', 'third')
    })

    test('closing loses every lease and refuses who waits', async () => {
      const lease = await take('agent')
      const waiting = take('agent', 'second', 10_000)
      const refused = assert.rejects(waiting, (error) => isStratalogError(error, 'closed'))
      await later(5)
      await coordination.close()
      await coordination.close()
      assert.equal(lease.lost.aborted, true)
      assert.ok(isStratalogError(lease.lost.reason, 'lease_lost'))
      await refused
      await lease.release()
      await assert.rejects(take('agent'), (error) => isStratalogError(error, 'closed'))
    })

    test('epochs grow over restarts', async (context) => {
      if (opened.reopen === undefined) return context.skip('this engine can not be opened again')
      const first = await take('agent')
      const again = await opened.reopen()
      assert.equal(first.lost.aborted, true)
      const second = await again.acquire('agent', { holder: 'me', waitMs: 10_000 })
      assert.ok(second.epoch > first.epoch)
    })
  })
}
