import assert from 'node:assert/strict'
import { existsSync, readdirSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { GetObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3'
import { present } from '../../src/model/assert.js'
import { skipWithout } from './cache.js'
import { plainClient } from './s3.js'
import { startVersitygw, type Versitygw } from './versitygw.js'

describe('versitygw for tests', { skip: await skipWithout('versitygw') }, () => {
  let started: Versitygw | undefined
  const server = (): Versitygw => present(started, 'versitygw')
  before(async () => {
    started = await startVersitygw()
  })
  after(() => started?.close())

  const read = async (timeoutMs: number): Promise<string> => {
    const client = plainClient(server().endpoint)
    try {
      const command = new GetObjectCommand({ Bucket: 'one', Key: 'a/b' })
      const found = await client.send(command, { abortSignal: AbortSignal.timeout(timeoutMs) })
      return (await found.Body?.transformToString()) ?? ''
    } finally {
      client.destroy()
    }
  }

  test('keeps its objects through kill -9 and a stop', async () => {
    await server().makeBucket('one')
    await server().makeBucket('one')
    const client = plainClient(server().endpoint)
    await client.send(new PutObjectCommand({ Bucket: 'one', Key: 'a/b', Body: 'text' }))
    client.destroy()
    await server().kill()
    await assert.rejects(read(5000))
    await server().restart()
    assert.equal(await read(5000), 'text')
    server().stop()
    await assert.rejects(read(300))
    server().cont()
    assert.equal(await read(5000), 'text')
    assert.ok(readdirSync(server().root).includes('one'))
  })

  test('two at once are two, and closing removes the data', async () => {
    const other = await startVersitygw()
    assert.notEqual(other.endpoint, server().endpoint)
    assert.ok(existsSync(other.root))
    await other.close()
    assert.ok(!existsSync(other.root))
    assert.ok(existsSync(server().root))
  })
})
