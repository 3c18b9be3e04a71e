import process from 'node:process'
import { s3Archive } from '../../../archive/s3/engine.js'
import type { S3Settings } from '../../../archive/s3/settings.js'
import { type ArchiveContractOptions, archiveContract } from '../../contract/archive-store.js'
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
}
