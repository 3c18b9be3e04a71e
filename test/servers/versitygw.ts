import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { pathOf } from './cache.js'
import { freePorts } from './ports.js'
import { answers, Household, withRetry } from './process.js'
import { ACCESS_KEY, makeBucket, REGION, S3_ENVIRONMENT, type S3Server, SECRET_KEY } from './s3.js'

/** A Versity S3 gateway and where it keeps its objects. */
export interface Versitygw extends S3Server {
  /** One directory a bucket; objects are plain files below it. */
  readonly root: string
}

/** Starts Versity's S3 gateway on a directory: 0.1 s. What it can't do: docs/testing.md. */
export function startVersitygw(): Promise<Versitygw> {
  return withRetry(start)
}

async function start(): Promise<Versitygw> {
  const program = await pathOf('versitygw')
  const [port] = await freePorts(1)
  const house = new Household('vgw')
  const places = ['root', 'versions', 'iam'].map((name) => join(house.directory, name))
  for (const place of places) mkdirSync(place)
  const [root = '', versions = '', iam = ''] = places
  const command = [
    program,
    ...['--port', `127.0.0.1:${port}`, '--region', REGION, '--keep-alive', '--iam-dir', iam],
    ...['--quiet', '--health', '/health', 'posix', '--versioning-dir', versions, root],
  ]
  const environment = { ...S3_ENVIRONMENT, ROOT_ACCESS_KEY: ACCESS_KEY, ROOT_SECRET_KEY: SECRET_KEY }
  const endpoint = `http://127.0.0.1:${port}`
  const begin = async () => {
    const daemon = house.start('versitygw', command, environment)
    await house.until('versitygw', () => answers(`${endpoint}/health`), 30_000)
    return daemon
  }
  try {
    let daemon = await begin()
    return {
      endpoint,
      region: REGION,
      accessKey: ACCESS_KEY,
      secretKey: SECRET_KEY,
      root,
      makeBucket: (name) => makeBucket(endpoint, name),
      kill: () => daemon.kill(),
      stop: () => daemon.signal('SIGSTOP'),
      cont: () => daemon.signal('SIGCONT'),
      restart: async () => {
        await daemon.kill()
        daemon = await begin()
      },
      close: () => house.close(),
    }
  } catch (error) {
    await house.close()
    throw error
  }
}
