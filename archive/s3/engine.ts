import process from 'node:process'
import { checkArchiveKey } from '../../src/format/archive-names.js'
import { StratalogError } from '../../src/model/errors.js'
import type {
  ArchiveCapabilities,
  ArchiveContext,
  ArchivedKey,
  ArchiveEngine,
  ArchiveFinding,
  ArchiveStore,
  ReplayableBody,
  StorageWishes,
} from '../../src/ports/archive-store.js'
import { Writing } from '../engine/writing.js'
import { NO_ABILITIES } from './abilities.js'
import { deleteKey } from './delete.js'
import { findingsOf } from './findings.js'
import { removeLeftovers } from './leftovers.js'
import { findMarker, MARKER, markerMissing, requireMarker, writeMarker } from './marker.js'
import { learnAbilities, probeAnew, readNotes, stillBelieved } from './notes.js'
import { putObject } from './put.js'
import { headObject, listKeys, listPage, readRange } from './read.js'
import { clientFor, customerKeyOf, type S3Credentials, S3Session } from './session.js'
import { type S3Place, type S3Settings, s3Place } from './settings.js'
import { thawObject } from './thaw.js'

/**
 * Opens an S3 archive: `s3://bucket/prefix`. Credentials come from the SDK's chain, or from a function; never from
 * settings. `config_invalid` at once where location or settings can't be right.
 */
export function s3Archive(
  location: string,
  settings: S3Settings = {},
  credentials?: S3Credentials,
): ArchiveEngine {
  const place = s3Place(location, settings, process.env)
  return {
    apiVersion: 1,
    name: place.location,
    async open(context) {
      const session = await openSession(place, context, credentials)
      try {
        return new S3Archive(session, await prepare(session))
      } catch (error) {
        session.close()
        throw error
      }
    },
  }
}

async function openSession(
  place: S3Place,
  context: ArchiveContext,
  credentials: S3Credentials | undefined,
): Promise<S3Session> {
  const abilities = () => session.abilities
  const client = await clientFor(place, abilities, credentials)
  const customerKey = await customerKeyOf(place)
  const session: S3Session = new S3Session(place, context, { client, customerKey, abilities: NO_ABILITIES })
  return session
}

/**
 * Makes the place an archive, or makes sure that it is one that can be written. One that must exist already is never
 * made: the marker tells it from an empty bucket of the same name.
 */
async function prepare(session: S3Session): Promise<Writing> {
  const { existing, readOnly } = session.context
  let marked = await findMarker(session)
  if (!marked && existing) throw markerMissing(session)
  if (!marked) await refuseOthersObjects(session)
  if (readOnly === true) await readNotes(session)
  const writing = new Writing(async () => {
    await learnAbilities(session)
    if (!marked) await writeMarker(session)
    marked = true
  })
  await writing.begin(session.context, session.location)
  return writing
}

async function refuseOthersObjects(session: S3Session): Promise<void> {
  const { keys } = await listPage(session, { prefix: '', after: '', limit: 100 }, undefined)
  // A crash of a first start leaves probes and notes, and another process may be making the archive now.
  const others = keys.filter(({ key }) => !key.startsWith('.stratalog-') && key !== MARKER)
  if (others.length === 0) return
  throw new StratalogError(
    'refused',
    `${session.location} is not empty and has no ${MARKER}, so it is not an archive of stratalog: name an empty prefix, or put the marker {"format":1} back if it was removed`,
    { found: others.slice(0, 5).map(({ key }) => key) },
  )
}

class S3Archive implements ArchiveStore {
  readonly location: string
  readonly #session: S3Session
  readonly #writing: Writing

  constructor(session: S3Session, writing: Writing) {
    this.location = session.location
    this.#session = session
    this.#writing = writing
  }

  /** As far as the store is known: one that could only be read when it was opened is tried later. */
  get capabilities(): ArchiveCapabilities {
    const { conditionalPut, crc32c } = this.#session.abilities
    return {
      putIfAbsent: conditionalPut ? 'native' : 'none',
      checksums: crc32c ? ['crc32c'] : [],
      listFrom: true,
      thaw: true,
    }
  }

  async putIfAbsent(
    key: string,
    body: ReplayableBody,
    options: StorageWishes & { readonly signal?: AbortSignal } = {},
  ): Promise<void> {
    if (this.#session.context.readOnly === true) throw openedForReading(this.location)
    checked(key)
    this.#session.check(options.signal)
    if (!stillBelieved(this.#session)) this.#writing.doubt()
    await this.#writing.ready(options.signal)
    await putObject(this.#session, key, body, options)
  }

  async head(key: string, signal?: AbortSignal): Promise<ArchivedKey | null> {
    const found = await headObject(this.#session, checked(key), signal)
    if (found !== null) return { key, sizeBytes: found.sizeBytes }
    // Asked without a body, a store can't say that it is the bucket that is missing.
    await requireMarker(this.#session, signal)
    return null
  }

  async readRange(
    key: string,
    offset: number,
    lengthBytes: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    return readRange(this.#session, checked(key), { offset, lengthBytes }, signal)
  }

  async listFrom(prefix: string, after: string, limit: number, signal?: AbortSignal): Promise<ArchivedKey[]> {
    return listKeys(this.#session, prefix, after, limit, signal)
  }

  async delete(key: string, signal?: AbortSignal): Promise<void> {
    if (this.#session.context.readOnly === true) throw openedForReading(this.location)
    await deleteKey(this.#session, checked(key), signal)
  }

  async removeLeftovers(): Promise<number> {
    await requireMarker(this.#session)
    return removeLeftovers(this.#session)
  }

  async thaw(key: string, forMs: number, signal?: AbortSignal): Promise<'readable' | 'thawing'> {
    return thawObject(this.#session, checked(key), forMs, signal)
  }

  /** Tries the store again where it may be written: `doctor` wants to know how it is and not how it was. */
  async findings(signal?: AbortSignal): Promise<ArchiveFinding[]> {
    const session = this.#session
    if (session.context.readOnly === true) return findingsOf(session, await readNotes(session))
    return findingsOf(session, await probeAnew(session, signal))
  }

  async close(): Promise<void> {
    this.#session.close()
  }
}

function checked(key: string): string {
  if (checkArchiveKey(key) === MARKER)
    throw new StratalogError('invalid_argument', `"${key}" is the archive's own marker`, { found: key })
  return key
}

function openedForReading(location: string): StratalogError {
  return new StratalogError('refused', `archive ${location} was opened for reading only`)
}
