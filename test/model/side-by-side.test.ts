import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { sideBySide } from '../../src/model/side-by-side.js'

test('results are in the order of the items, and no more than asked for are under way', async () => {
  let underWay = 0
  let most = 0
  const results = await sideBySide([5, 1, 4, 2, 3], 2, async (turns) => {
    underWay += 1
    most = Math.max(most, underWay)
    for (let i = 0; i < turns; i++) await turn()
    underWay -= 1
    return turns * 10
  })
  assert.deepEqual(results, [50, 10, 40, 20, 30])
  assert.equal(most, 2)
})

test('after a failure nothing is begun, and what had begun is over when it rejects', async () => {
  const begun: number[] = []
  const over: number[] = []
  const work = async (item: number): Promise<void> => {
    begun.push(item)
    if (item === 2) throw new Error('second')
    for (let i = 0; i < 5; i++) await turn()
    over.push(item)
  }
  await assert.rejects(sideBySide([1, 2, 3, 4], 2, work), /second/)
  assert.deepEqual(begun, [1, 2])
  assert.deepEqual(over, [1])
})

test('nothing to do is done', async () => {
  assert.deepEqual(await sideBySide([], 8, async () => assert.fail('called')), [])
})
