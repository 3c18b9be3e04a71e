import assert from 'node:assert/strict'
import process from 'node:process'
import { test } from 'node:test'
import { s3Archive } from '../../../archive/s3/engine.js'
import type { S3Settings } from '../../../archive/s3/settings.js'
import { isStratalogError } from '../../../src/model/errors.js'
import { type ArchiveContractOptions, archiveContract } from '../../contract/archive-store.js'
import { bodyOf } from '../../helpers/archive.js'
import { FaultProxy } from '../../helpers/fault-proxy.js'
import { S3_ENVIRONMENT, type S3Server } from '../../servers/s3.js'
import { archiveFaults } from './archive-faults.js'
import { networkContext } from './network-context.js'

/** Small limits: every way of storing is taken with bodies that are quickly sent. */
const SETTINGS: S3Settings = { putMaxBytes: 2 << 20, partBytes: 5 << 20 }
/** Short ones: a stall costs this much each time it is tried again. */
const FAULT_SETTINGS: S3Settings = { idleTimeoutMs: 500, totalTimeoutMs: 2000 }
/** Six attempts that stall, and waits between them; more than that on a busy machine. */
const LIMIT_MS = 30_000

let buckets = 0

/** Both suites of archives against one S3 server, each in buckets of its own. */
export function s3Suites(server: () => S3Server, name: string, options: ArchiveContractOptions = {}): void {
  Object.assign(process.env, S3_ENVIRONMENT)
  const bucket = async (): Promise<string> => {
    const made = `bucket-${buckets++}`
    await server().makeBucket(made)
    return made
  }
  archiveContract(
    async () => {
      const location = `s3://${await bucket()}/a/prefix`
      const settings = { ...SETTINGS, endpoint: server().endpoint }
      const store = await s3Archive(location, settings).open(networkContext())
      return { store, cleanup: async () => undefined }
    },
    `S3: ${name}`,
    options,
  )
  archiveFaults(
    async () => {
      const location = `s3://${await bucket()}/a/prefix`
      const proxy = await FaultProxy.start(server().endpoint)
      const through = { ...FAULT_SETTINGS, endpoint: proxy.url }
      return {
        store: await s3Archive(location, through).open(networkContext()),
        direct: await s3Archive(location, { endpoint: server().endpoint }).open(networkContext()),
        proxy,
        cleanup: async () => undefined,
      }
    },
    `S3: ${name}`,
    { limitMs: LIMIT_MS },
  )
  test(`${name}: a gateway that stops or is killed under load loses and doubles nothing`, async () => {
    await gatewayFails(server(), `s3://${await bucket()}/load`)
  })
}

/** Six writers go on while their gateway stops, goes on, is killed and comes back. */
async function gatewayFails(server: S3Server, location: string): Promise<void> {
  const settings = { ...FAULT_SETTINGS, endpoint: server.endpoint }
  const store = await s3Archive(location, settings).open(networkContext())
  const bytes = Buffer.alloc(200_000, 'load')
  const stored = new Set<string>()
  let failures = 0
  let over = false
  const writer = async (number: number): Promise<void> => {
    for (let i = 0; !over; i++) {
      const key = `w${number}/${String(i).padStart(5, '0')}`
      try {
        await store.putIfAbsent(key, bodyOf(bytes))
        stored.add(key)
      } catch (error) {
        assert.ok(isStratalogError(error, 'archive_unavailable'), `${error}`)
        failures += 1
      }
    }
  }
  const until = async (done: () => boolean): Promise<void> => {
    for (let tries = 0; !done(); tries++) {
      assert.ok(tries < 2000, 'the writers go on')
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
  const writers = Promise.all(Array.from({ length: 6 }, (_, i) => writer(i)))
  await until(() => stored.size > 20)
  server.stop()
  await new Promise((resolve) => setTimeout(resolve, 800))
  server.cont()
  const before = stored.size
  await until(() => stored.size > before + 20)
  await server.kill()
  await until(() => failures > 0)
  await server.restart()
  const after = stored.size
  await until(() => stored.size > after + 20)
  over = true
  await writers
  const listed = await store.listFrom('', '', 100_000)
  const found = new Set(listed.map(({ key }) => key))
  // What was acknowledged is there; what failed may be, and then it is whole (invariant 6).
  for (const key of stored) assert.ok(found.has(key), `${key} was acknowledged`)
  assert.ok(listed.every(({ sizeBytes }) => sizeBytes === bytes.length))
  await store.close()
}
