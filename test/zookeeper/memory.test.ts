import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isStratalogError } from '../../src/model/errors.js'
import { outcomeUnknown } from '../../src/zookeeper/errors.js'
import { MemoryZooKeeper } from '../helpers/zookeeper-memory.js'
import { counted, text, zooKeeperContract } from './contract.js'

zooKeeperContract('in memory', async () => {
  const server = new MemoryZooKeeper()
  return { zk: await server.open(), another: () => server.open(), cleanup: async () => undefined }
})

test('a lost answer is an unknown outcome, and what was asked is done', async () => {
  const server = new MemoryZooKeeper()
  const zk = await server.open()
  server.fault = ({ op }) => (op === 'create' ? 'lost-answer' : null)
  await assert.rejects(zk.create('/a', text('')), outcomeUnknown)
  server.fault = ({ op }) => (op === 'create' ? 'lost-request' : null)
  await assert.rejects(zk.create('/b', text('')), outcomeUnknown)
  server.fault = null
  assert.ok(await zk.exists('/a'))
  assert.equal(await zk.exists('/b'), null)
})

test('a session that expires takes its nodes along, calls its watches, and another comes after it', async () => {
  const server = new MemoryZooKeeper()
  const zk = await server.open()
  const { lost, sessionId } = zk
  await zk.create('/e', text(''), { ephemeral: true })
  const seen = counted()
  await zk.exists('/never', seen.watch)
  server.expire(sessionId)
  assert.ok(isStratalogError(lost.reason, 'metadata_unavailable'))
  await seen.soon()
  assert.equal(seen.calls, 1)
  assert.equal(await zk.exists('/e'), null)
  assert.notEqual(zk.sessionId, sessionId)
  assert.equal(zk.lost.aborted, false)
})
