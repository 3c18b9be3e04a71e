import { StratalogError } from '../../src/model/errors.js'
import type { ArchiveContext } from '../../src/ports/archive-store.js'
import { Writing } from '../engine/writing.js'
import { archiveError, archiveMissing } from './errors.js'
import { namesIn } from './list.js'
import type { NameNodes } from './namenodes.js'
import type { Namespace } from './namespace.js'
import type { HdfsPlace } from './settings.js'
import type { Transfer } from './transfer.js'
import { TEMPORARY, type Uploads } from './upload.js'

/*
 * Opening a path as an archive; the same names as in a directory:
 *
 *   <path>/stratalog-archive.json       the marker: {"format":1}
 *   <path>/.tmp/<made at 10>-<random>   objects that are being written
 *   <path>/<key>                        objects, the parts of their keys as directories
 */

export const MARKER = 'stratalog-archive.json'

const FORMAT = 1
const MARKER_BYTES_MAX = 4096
const NAMES_SHOWN = 5

/** What opening needs. */
export interface OpenParts {
  readonly place: HdfsPlace
  readonly context: ArchiveContext
  readonly namenodes: NameNodes
  readonly namespace: Namespace
  readonly transfer: Transfer
  readonly uploads: Uploads
  /** Gives an uploaded file its name; false if that is taken. */
  readonly publish: (temporary: { path: string; fileId: number }, path: string) => Promise<boolean>
}

/**
 * Makes the path an archive, or makes sure that it is one that can be written. One that must exist already is never
 * made: neither the directory nor the marker.
 */
export async function prepareRoot(parts: OpenParts): Promise<Writing> {
  const { place, context, namespace, uploads } = parts
  const { location, root } = place
  const found = await namespace.status(root)
  if (found !== null && found.type !== 'DIRECTORY') {
    throw archiveMissing(location, 'its path is a file: name a directory')
  }
  if (found === null && context.existing) {
    throw archiveMissing(location, 'there is no such directory: check path and cluster')
  }
  const marker = found === null ? null : await namespace.status(`${root}/${MARKER}`)
  if (marker !== null) await checkMarker(parts)
  else if (context.existing) throw archiveMissing(location, `it has no ${MARKER}: is it the right cluster?`)
  else if (found !== null) await refuseOthersFiles(parts)
  const prepare = async () => {
    await namespace.makeDirectories(`${root}/${TEMPORARY}`)
    if (marker === null) await writeMarker(parts)
    else await probe(parts)
    await uploads.removeLeftovers()
  }
  const writing = new Writing(() =>
    prepare().catch((error: unknown) => {
      throw archiveError(error, location, 'trying to write to it')
    }),
  )
  await writing.begin(context, location)
  return writing
}

async function refuseOthersFiles({ namenodes, place }: OpenParts): Promise<void> {
  const others: string[] = []
  for await (const name of namesIn(namenodes, place.root)) {
    // A crash between the first two steps of a first start leaves the directory for temporary files.
    if (name !== TEMPORARY) others.push(name)
    if (others.length >= NAMES_SHOWN) break
  }
  if (others.length === 0) return
  throw new StratalogError(
    'refused',
    `${place.location} is not empty and has no ${MARKER}, so it is not an archive of stratalog: name an empty directory, or put the marker {"format":1} back if it was removed`,
    { found: others },
  )
}

async function checkMarker({ transfer, place, namespace }: OpenParts): Promise<void> {
  const path = `${place.root}/${MARKER}`
  const status = await namespace.status(path)
  const sizeBytes = Math.min(status?.length ?? 0, MARKER_BYTES_MAX)
  const bytes = await transfer.run(undefined, (attempt) =>
    transfer.open(path, 0, sizeBytes, undefined, attempt),
  )
  const named = `${place.location}/${MARKER}`
  let format: unknown
  try {
    format = (JSON.parse(Buffer.from(bytes).toString('utf8')) as { format?: unknown } | null)?.format
  } catch (cause) {
    throw new StratalogError('corrupt', `${named} is damaged: restore it as {"format":${FORMAT}}`, { cause })
  }
  if (format === FORMAT) return
  const newer = typeof format === 'number' && Number.isInteger(format) && format > FORMAT
  throw new StratalogError(
    newer ? 'version_unsupported' : 'corrupt',
    newer
      ? `${place.location} is an archive of format ${format}; this stratalog reads ${FORMAT}: use a newer one`
      : `${named} states no format: restore it as {"format":${FORMAT}}`,
    { expected: FORMAT, found: format },
  )
}

/** Writes and removes a file, so that an archive that can't be written is known now and not at the first copy. */
async function probe({ uploads }: OpenParts): Promise<void> {
  const uploaded = await uploads.store(bodyOf('probe'), undefined)
  await uploads.discard(uploaded.path)
}

/** The marker appears whole: uploaded under another name, then renamed. */
async function writeMarker({ uploads, publish, place }: OpenParts): Promise<void> {
  const { path, status } = await uploads.store(bodyOf(`{"format":${FORMAT}}\n`), undefined)
  try {
    // False: another process made the archive in this moment.
    if (!(await publish({ path, fileId: status.fileId }, `${place.root}/${MARKER}`)))
      await uploads.discard(path)
  } catch (error) {
    await uploads.discard(path)
    throw error
  }
}

function bodyOf(text: string): { sizeBytes: number; open(): AsyncIterable<Uint8Array> } {
  const bytes = Buffer.from(text)
  return {
    sizeBytes: bytes.length,
    async *open() {
      yield bytes
    },
  }
}
