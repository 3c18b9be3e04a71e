import type { ArchiveContext, ArchiveEngine, ArchiveStore } from '../../src/ports/archive-store.js'
import { Retrier } from '../engine/retry.js'
import { Credentials, readWhole } from './credentials.js'
import { archiveError } from './errors.js'
import { RedirectRule } from './hosts.js'
import { Http } from './http.js'
import { NameNodes } from './namenodes.js'
import { Namespace } from './namespace.js'
import { prepareRoot } from './open.js'
import { Publisher } from './publish.js'
import { type HdfsPlace, type HdfsSettings, hdfsPlace } from './settings.js'
import { HdfsStore } from './store.js'
import { Transfer } from './transfer.js'
import { Uploads } from './upload.js'

const CALLS_AT_ONCE = 32
const TRANSFERS_AT_ONCE = 8

/** Opens an archive in HDFS: `hdfs://namenode:9870/path`. */
export function hdfsArchive(location: string, settings: HdfsSettings = {}): ArchiveEngine {
  const place = hdfsPlace(location, settings)
  return { apiVersion: 1, name: location, open: (context) => open(place, context) }
}

async function open(place: HdfsPlace, context: ArchiveContext): Promise<ArchiveStore> {
  const { caFile, concurrency } = place.settings
  const { clock, random, signal, logger, disk } = context
  const ca = caFile === undefined ? undefined : await readWhole(disk, caFile)
  const credentials = await Credentials.open(place, disk)
  const http = new Http(ca)
  const retrier = new Retrier({ clock, random }, { concurrencyMax: CALLS_AT_ONCE })
  const cluster = { place, clock, http, credentials, retrier, signal }
  const namenodes = new NameNodes(cluster)
  const namespace = new Namespace(cluster, namenodes)
  const transfers = new Retrier({ clock, random }, { concurrencyMax: concurrency ?? TRANSFERS_AT_ONCE })
  const redirects = new RedirectRule(place)
  const transfer = new Transfer({ cluster, namenodes, redirects, retrier: transfers, logger })
  const uploads = new Uploads({ context, place, namenodes, namespace, transfer })
  const publisher = new Publisher(namespace, place.root)
  const parts = { place, context, http, credentials, namenodes, namespace, transfer, uploads, publisher }
  try {
    const writing = await prepareRoot({ ...parts, publish: publisher.publish.bind(publisher) })
    return new HdfsStore({ ...parts, writing })
  } catch (error) {
    http.close()
    throw archiveError(error, place.location, 'opening it')
  }
}
