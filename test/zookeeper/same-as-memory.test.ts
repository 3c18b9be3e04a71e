import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { ZkOp, ZkStat, ZooKeeper } from '../../src/zookeeper/client.js'
import { zkCode } from '../../src/zookeeper/errors.js'
import { MemoryZooKeeper } from '../helpers/zookeeper-memory.js'
import { skipWithout } from '../servers/cache.js'
import { startZooKeeper } from '../servers/zookeeper.js'
import { text } from './contract.js'
import { freshRoot, openAt } from './helpers.js'

type Step =
  | { readonly kind: 'change'; readonly op: ZkOp }
  | { readonly kind: 'multi'; readonly ops: readonly ZkOp[] }
  | { readonly kind: 'look'; readonly path: string }

const path = fc.constantFrom('/a', '/a/b', '/a/b/c', '/d', '/a/s-')
const version = fc.constantFrom(-1, 0, 0, 1, 2)
const data = fc.constantFrom('', 'x', 'yy').map(text)
const op: fc.Arbitrary<ZkOp> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({ op: fc.constant('create' as const), path, data, sequential: fc.boolean() }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ op: fc.constant('create' as const), path, data, ephemeral: fc.constant(true) }),
  },
  fc.record({ op: fc.constant('delete' as const), path, version }),
  fc.record({ op: fc.constant('set' as const), path, data, version }),
  fc.record({ op: fc.constant('check' as const), path, version }),
)
const step: fc.Arbitrary<Step> = fc.oneof(
  op.filter(({ op }) => op !== 'check').map((op) => ({ kind: 'change' as const, op })),
  fc.array(op, { minLength: 1, maxLength: 4 }).map((ops) => ({ kind: 'multi' as const, ops })),
  path.map((path) => ({ kind: 'look' as const, path })),
)

/** What is the same at any server: no times, no numbers of transactions or sessions. */
const plain = (stat: ZkStat | null) =>
  stat === null
    ? null
    : [stat.version, stat.cversion, stat.numChildren, stat.dataLength, stat.ephemeralOwner !== 0n]

async function took(zk: ZooKeeper, step: Step): Promise<unknown> {
  const shown = (result: ZkStat | string | null) => (typeof result === 'object' ? plain(result) : result)
  try {
    if (step.kind === 'multi') return (await zk.multi(step.ops)).map(shown)
    if (step.kind === 'look') {
      const node = await zk.get(step.path)
      const names = (await zk.children(step.path))?.names ?? []
      return [node && Buffer.from(node.data).toString(), plain(node?.stat ?? null), [...names].sort()]
    }
    const { op } = step
    if (op.op === 'create') return await zk.create(op.path, op.data, op)
    if (op.op === 'set') return plain(await zk.set(op.path, op.data, op.version))
    assert.equal(op.op, 'delete')
    return await zk.delete(op.path, op.op === 'delete' ? op.version : 0)
  } catch (error) {
    assert.notEqual(zkCode(error), null, String(error))
    return `error ${zkCode(error)}`
  }
}

describe('ZooKeeper in memory', { skip: await skipWithout('bookkeeper') }, () => {
  test('does what ZooKeeper does, whatever is asked', async () => {
    const server = await startZooKeeper()
    try {
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 25 }), async (steps) => {
          const memory = await new MemoryZooKeeper().open()
          const real = await openAt([server.address], { chroot: await freshRoot(server.address) })
          try {
            for (const one of steps) assert.deepEqual(await took(memory, one), await took(real, one))
          } finally {
            await real.close()
          }
        }),
        { numRuns: 60 },
      )
    } finally {
      await server.stop()
    }
  })
})
