import { type FileHandle, link, mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import process from 'node:process'
import { noRing } from '../../archive/keys.js'
import { checkRingName } from '../../archive/stream-keys.js'
import { encodeBase32Bytes } from '../format/base32.js'
import { corrupt, unsupportedVersion } from '../format/bytes.js'
import { KEY_BYTES, NONCE_BYTES, openSecret, sealSecret } from '../format/envelope.js'
import { StratalogError } from '../model/errors.js'
import type { KeyRing, RingKey } from '../ports/key-ring.js'
import type { Random } from '../ports/random.js'

/*
 * A key ring in a file, JSON: { format: 1, ring: <its id>, keys: [{ id, createdMs, key: base64 of 32 bytes }] }, oldest
 * key first. Nobody but its owner may read it. It is written whole beside itself and renamed; keys are only ever added.
 * What is in it never leaves this file: messages name ids.
 */

const FORMAT = 1
const RING_BYTES_MAX = 1024 * 1024
const RING_ID_BYTES = 10

interface FileKey extends RingKey {
  readonly key: Uint8Array
}

interface RingFile {
  readonly ring: string
  readonly keys: readonly FileKey[]
}

/**
 * The ring in a file, read again at each use: keys are needed rarely, and one that was just added is there at once.
 * `key_missing` if there is no file, `access_denied` if others may read it, `corrupt` if it is no ring.
 */
export async function fileKeyRing(path: string, random: Random): Promise<KeyRing> {
  const { ring } = await present(path)
  const keyOf = async (keyId: string): Promise<Uint8Array> => {
    const found = (await present(path)).keys.find(({ id }) => id === keyId)
    if (found !== undefined) return found.key
    throw new StratalogError(
      'key_missing',
      `ring ${path} has no key "${keyId}": make it with "stratalog key add ${keyId} --key-ring ${path}"`,
      { expected: keyId },
    )
  }
  return {
    id: ring,
    location: path,
    keys: async () => (await present(path)).keys.map(({ id, createdMs }) => ({ id, createdMs })),
    wrap: async (keyId, secret, context) =>
      sealSecret(await keyOf(keyId), random.bytes(NONCE_BYTES), secret, context),
    unwrap: async (keyId, wrapped, context) => {
      const secret = openSecret(await keyOf(keyId), wrapped, context)
      if (secret !== null) return secret
      throw new StratalogError(
        'key_wrong',
        `key "${keyId}" of ring ${path} is not the one this was encrypted with: put the right ring back`,
        { expected: keyId },
      )
    },
  }
}

/** Adds a new random key to the ring, which is made where there is none. `file_exists` if it has a key of that id. */
export async function addRingKey(
  path: string,
  id: string,
  { random, nowMs }: { readonly random: Random; readonly nowMs: number },
): Promise<{ readonly ring: string; readonly made: boolean }> {
  checkRingName(id, 'the id of a key')
  const before = await readRing(path)
  if (before?.keys.some((key) => key.id === id)) {
    throw new StratalogError('file_exists', `ring ${path} has a key "${id}": give the new one another id`, {
      found: id,
    })
  }
  const ring = before?.ring ?? `r-${encodeBase32Bytes(random.bytes(RING_ID_BYTES))}`
  const added = { id, createdMs: nowMs, key: random.bytes(KEY_BYTES) }
  await writeRing(path, { ring, keys: [...(before?.keys ?? []), added] }, before === null)
  return { ring, made: before === null }
}

async function present(path: string): Promise<RingFile> {
  const ring = await readRing(path)
  if (ring === null) throw noRing(path)
  return ring
}

/** Null: there is no such file. */
async function readRing(path: string): Promise<RingFile | null> {
  let file: FileHandle
  try {
    file = await open(path, 'r')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw unreadable(path, error)
  }
  try {
    const { mode, size } = await file.stat()
    if (process.platform !== 'win32' && (mode & 0o077) !== 0) {
      throw new StratalogError(
        'access_denied',
        `key ring ${path} may be read by others (mode ${(mode & 0o777).toString(8)}): run "chmod 600 ${path}", and think of its keys as known`,
        { expected: '600', found: (mode & 0o777).toString(8) },
      )
    }
    if (size > RING_BYTES_MAX) throw damaged(path, `it has ${size} bytes`)
    return parseRing(path, await file.readFile('utf8'))
  } catch (error) {
    if (error instanceof StratalogError) throw error
    throw unreadable(path, error)
  } finally {
    await file.close()
  }
}

function parseRing(path: string, text: string): RingFile {
  let body: { format?: unknown; ring?: unknown; keys?: unknown } | null
  try {
    body = JSON.parse(text) as typeof body
  } catch {
    // The cause of the parser quotes what it read, and that may be a key.
    throw damaged(path, 'it is not JSON')
  }
  if (typeof body !== 'object' || body === null) throw damaged(path, 'it is not a JSON object')
  const { format, ring, keys } = body
  if (typeof format === 'number' && format > FORMAT)
    throw unsupportedVersion(`key ring ${path} has format ${format}: use a newer stratalog`, {
      found: format,
    })
  if (format !== FORMAT || typeof ring !== 'string' || !Array.isArray(keys))
    throw damaged(path, 'its fields are not what they must be')
  return {
    ring: checkRingName(ring, `${path}: the id of a ring`),
    keys: keys.map((key) => parseKey(path, key)),
  }
}

function parseKey(path: string, value: unknown): FileKey {
  const { id, createdMs, key } = (value ?? {}) as { id?: unknown; createdMs?: unknown; key?: unknown }
  if (typeof id !== 'string' || typeof key !== 'string' || !Number.isSafeInteger(createdMs))
    throw damaged(path, 'one of its keys is not what it must be')
  const bytes = Buffer.from(key, 'base64')
  if (bytes.length !== KEY_BYTES || bytes.toString('base64') !== key)
    throw damaged(path, `its key ${JSON.stringify(id)} is not ${KEY_BYTES} bytes in base64`)
  return { id: checkRingName(id, `${path}: the id of a key`), createdMs: createdMs as number, key: bytes }
}

/**
 * Order: the whole ring durable beside it, then its name. A crash leaves the ring as it was, and a file beside it that
 * the next command asks to look at: it is the only one there may be.
 */
async function writeRing(path: string, ring: RingFile, fresh: boolean): Promise<void> {
  const keys = ring.keys.map(({ id, createdMs, key }) => ({
    id,
    createdMs,
    key: Buffer.from(key).toString('base64'),
  }))
  const beside = `${path}.new`
  const directory = dirname(resolve(path))
  const file = await create(directory, beside)
  try {
    try {
      await file.writeFile(`${JSON.stringify({ format: FORMAT, ring: ring.ring, keys }, null, 2)}\n`)
      await file.sync()
    } finally {
      await file.close()
    }
    // A link refuses a name that is taken: of two that make a ring at once one is told.
    if (fresh) await link(beside, path)
    else await rename(beside, path)
  } catch (error) {
    await rm(beside, { force: true })
    throw unreadable(path, error)
  }
  if (fresh) await rm(beside)
  const parent = await open(directory, 'r')
  await parent.sync().finally(() => parent.close())
}

async function create(directory: string, beside: string): Promise<FileHandle> {
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 })
    return await open(beside, 'wx', 0o600)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw unreadable(beside, error)
    throw new StratalogError(
      'file_exists',
      `${beside} is there: another command is writing the ring; if none is, a crash left it: remove it`,
      { cause: error },
    )
  }
}

function unreadable(path: string, cause: unknown): StratalogError {
  const why = cause instanceof Error ? cause.message : String(cause)
  return new StratalogError('access_denied', `key ring ${path} can't be used: ${why}`, { cause })
}

function damaged(path: string, why: string): StratalogError {
  return corrupt(`key ring ${path} is damaged: ${why}; put it back from its backup`)
}
