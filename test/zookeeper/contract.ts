import assert from 'node:assert/strict'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ErrorCode } from '../../src/model/errors.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { ZkStat, ZooKeeper } from '../../src/zookeeper/client.js'
import { outcomeUnknown, ZK, zkCode } from '../../src/zookeeper/errors.js'

/** An empty ZooKeeper, and other sessions of it. */
export interface OpenedZooKeeper {
  readonly zk: ZooKeeper
  another(): Promise<ZooKeeper>
  cleanup(): Promise<void>
}

export const text = (value: string): Uint8Array => new Uint8Array(Buffer.from(value, 'utf8'))
export const failsAs =
  (code: ErrorCode, number: number) =>
  (error: unknown): boolean =>
    isStratalogError(error, code) && zkCode(error) === number && !outcomeUnknown(error)

/** A watch, and how often it was called. */
export function counted(): { readonly watch: () => void; calls: number; soon(): Promise<void> } {
  const counter = {
    calls: 0,
    watch: () => {
      counter.calls += 1
    },
    soon: async () => {
      for (let i = 0; i < 200 && counter.calls === 0; i++) await sleep(5)
    },
  }
  return counter
}

/** What everything here takes for granted of ZooKeeper, whoever speaks to it. */
export function zooKeeperContract(
  name: string,
  open: () => Promise<OpenedZooKeeper>,
  skip: string | false = false,
): void {
  describe(`ZooKeeper: ${name}`, { skip }, () => {
    let opened: OpenedZooKeeper
    let zk: ZooKeeper
    beforeEach(async () => {
      opened = await open()
      zk = opened.zk
    })
    afterEach(() => opened.cleanup())

    test('versions begin at 0, and 0 is checked as any other', async () => {
      assert.equal(await zk.create('/a', text('one')), '/a')
      const node = await zk.get('/a')
      assert.deepEqual([Buffer.from(node?.data ?? '').toString(), node?.stat.version], ['one', 0])
      assert.equal((await zk.set('/a', text('two'), 0)).version, 1)
      await assert.rejects(zk.set('/a', text('three'), 0), failsAs('conflict', ZK.BAD_VERSION))
      await assert.rejects(zk.delete('/a', 0), failsAs('conflict', ZK.BAD_VERSION))
      await assert.rejects(
        zk.multi([{ op: 'check', path: '/a', version: 0 }]),
        failsAs('conflict', ZK.BAD_VERSION),
      )
      await zk.delete('/a', 1)
      assert.equal(await zk.get('/a'), null)
    })

    test('what is not there, what is there, and what has children', async () => {
      assert.equal(await zk.exists('/b'), null)
      assert.equal(await zk.children('/b'), null)
      await assert.rejects(zk.create('/b/c', text('')), failsAs('not_found', ZK.NO_NODE))
      await assert.rejects(zk.set('/b', text(''), 0), failsAs('not_found', ZK.NO_NODE))
      await assert.rejects(zk.delete('/b', 0), failsAs('not_found', ZK.NO_NODE))
      await zk.create('/b', text(''))
      await zk.create('/b/<default>', text(''))
      await assert.rejects(zk.create('/b', text('')), failsAs('conflict', ZK.NODE_EXISTS))
      await assert.rejects(zk.delete('/b', 0), failsAs('conflict', ZK.NOT_EMPTY))
      assert.deepEqual((await zk.children('/b'))?.names, ['<default>'])
      assert.equal((await zk.exists('/b'))?.numChildren, 1)
    })

    test('sequential nodes get growing numbers; ephemeral ones end with their session', async () => {
      await zk.create('/q', text(''))
      const first = await zk.create('/q/n-', text(''), { sequential: true })
      const other = await opened.another()
      const second = await other.create('/q/n-', text('x'), { sequential: true, ephemeral: true })
      assert.match(first, /^\/q\/n-\d{10}$/)
      assert.ok(second > first)
      assert.equal((await zk.exists(second))?.ephemeralOwner, other.sessionId)
      await assert.rejects(
        other.create(`${second}/below`, text('')),
        failsAs('refused', ZK.NO_CHILDREN_FOR_EPHEMERALS),
      )
      const { lost } = other
      await other.close()
      assert.equal(lost.aborted, true)
      await assert.rejects(other.exists('/q'), (error) => isStratalogError(error, 'closed'))
      await zk.sync('/q')
      assert.deepEqual((await zk.children('/q'))?.names, [first.slice(3)])
    })

    test('a multi is all or nothing, names the operation that failed, and answers each', async () => {
      await zk.create('/m', text('1'))
      const results = await zk.multi([
        { op: 'check', path: '/m', version: 0 },
        { op: 'set', path: '/m', data: text('2'), version: 0 },
        { op: 'create', path: '/m/a', data: text('') },
        { op: 'create', path: '/m/s-', data: text(''), sequential: true },
        { op: 'delete', path: '/m/a', version: 0 },
      ])
      assert.equal(results[0], null)
      assert.equal((results[1] as ZkStat).version, 1)
      assert.deepEqual(results.slice(2), ['/m/a', '/m/s-0000000001', null])
      const failing = zk.multi([
        { op: 'create', path: '/m/b', data: text('') },
        { op: 'set', path: '/m', data: text('3'), version: 0 },
        { op: 'create', path: '/m/c', data: text('') },
      ])
      await assert.rejects(
        failing,
        (error) =>
          failsAs('conflict', ZK.BAD_VERSION)(error) &&
          isStratalogError(error) &&
          error.details.index === 1 &&
          /set \/m/.test(error.message),
      )
      assert.equal(await zk.exists('/m/b'), null)
      assert.equal(Buffer.from((await zk.get('/m'))?.data ?? '').toString(), '2')
      assert.deepEqual(await zk.multi([]), [])
    })

    test('watches are called once, by what another changed', async () => {
      const other = await opened.another()
      await zk.create('/w', text(''))
      const [data, children, appears, none] = [counted(), counted(), counted(), counted()]
      await zk.get('/w', data.watch)
      await zk.children('/w', children.watch)
      await zk.exists('/w/new', appears.watch)
      assert.equal(await zk.get('/w/none', none.watch), null)
      await other.create('/w/new', text(''))
      await children.soon()
      await appears.soon()
      assert.deepEqual([data.calls, children.calls, appears.calls], [0, 1, 1])
      await other.set('/w', text('x'), 0)
      await other.set('/w', text('y'), 1)
      await other.delete('/w/new', 0)
      await data.soon()
      assert.deepEqual([data.calls, children.calls, appears.calls, none.calls], [1, 1, 1, 0])
      await other.close()
    })

    test('calls are carried out in their order, many at once', async () => {
      await zk.create('/o', text(''))
      const sets = Array.from({ length: 200 }, (_, at) => zk.set('/o', text(`${at}`), at))
      const read = zk.get('/o')
      assert.deepEqual(
        (await Promise.all(sets)).map((stat) => stat.version),
        sets.map((_, at) => at + 1),
      )
      assert.equal(Buffer.from((await read)?.data ?? '').toString(), '199')
    })
  })
}
