import type { ArchiveContext } from '../../src/ports/archive-store.js'
import type { Writing } from '../engine/writing.js'
import type { Credentials } from './credentials.js'
import type { Http } from './http.js'
import type { NameNodes } from './namenodes.js'
import type { Namespace } from './namespace.js'
import type { Publisher } from './publish.js'
import type { HdfsPlace } from './settings.js'
import type { Transfer } from './transfer.js'
import type { Uploads } from './upload.js'

/** The parts of an archive in HDFS. */
export interface StoreParts {
  readonly place: HdfsPlace
  readonly context: ArchiveContext
  readonly http: Http
  readonly credentials: Credentials
  readonly namenodes: NameNodes
  readonly namespace: Namespace
  readonly transfer: Transfer
  readonly uploads: Uploads
  readonly publisher: Publisher
  readonly writing: Writing
}
