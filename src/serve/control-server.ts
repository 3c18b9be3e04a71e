import { chmod, mkdtemp, readFile, rename, rm, rmdir, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import process from 'node:process'
import type { FastifyInstance } from 'fastify'
import type { Log } from '../log.js'
import { StratalogError } from '../model/errors.js'
import { directoryId, LocalControl } from './control-api.js'
import { controlRoutes } from './control-routes.js'

/** Unix sockets take about 104 bytes of path, the shortest limit of the systems there are. */
const SOCKET_PATH_BYTES_MAX = 100
const SOCKET = 'control.sock'
const NOTE = 'control.json'
const TEMPORARY_PREFIX = 'stratalog-'
/** Requests under way at the end get this long; streams are ended at once. */
const CLOSE_WAIT_MS = 1_000

/** What control.json says. `directoryId` is the directory's device and inode: a copy of the file is not believed. */
interface Note {
  readonly socket: string
  readonly pid: number
  readonly version: 1
  readonly directoryId: string
}

/**
 * Answers the command line on a Unix socket in the log's directory, so that commands work beside this process. A
 * failure to do so is a warning: the log works without.
 */
export async function startControl(log: Log, directory: string): Promise<{ close(): Promise<void> }> {
  try {
    return await start(log, directory)
  } catch (error) {
    log.parts.segments.ledger.logger.warn(
      { err: error, directory },
      'no control socket: commands have to wait until this process has closed the log',
    )
    return { close: () => Promise.resolve() }
  }
}

async function start(log: Log, directory: string): Promise<{ close(): Promise<void> }> {
  const { fastify } = await import('fastify')
  const ending = new AbortController()
  const app = fastify({
    logger: false,
    // Idle and streaming connections must not hold up the end of the log.
    forceCloseConnections: true,
    routerOptions: { maxParamLength: 1_024 },
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false } },
  })
  const busy = countRequests(app)
  controlRoutes(app, new LocalControl(log), ending.signal)
  const id = await directoryId(directory)
  await removeStale(directory, id)
  const socket = await socketPath(directory)
  const close = async () => {
    ending.abort(new StratalogError('closed', 'the log is being closed', { retryable: true }))
    await removeNote(directory)
    await busy.idle((signal) => log.parts.segments.ledger.clock.sleep(CLOSE_WAIT_MS, signal))
    await app.close()
    await removeSocket(socket, directory)
  }
  try {
    await app.listen({ path: socket })
    await chmod(socket, 0o600)
    const note: Note = { socket, pid: process.pid, version: 1, directoryId: id }
    // In one step, and only once somebody answers: who reads it half-written or early would take the log for dead.
    await writeFile(join(directory, `${NOTE}.tmp`), `${JSON.stringify(note)}\n`, { mode: 0o600 })
    await rename(join(directory, `${NOTE}.tmp`), join(directory, NOTE))
  } catch (error) {
    await close()
    throw error
  }
  // A server nobody uses must not keep an application alive that forgot to close its log.
  app.server.unref()
  return { close }
}

/** The directory is locked by this process, so whoever made a socket or note in it before is gone. */
async function removeStale(directory: string, id: string): Promise<void> {
  await rm(join(directory, SOCKET), { force: true })
  const note = await readNote(directory)
  // A copied directory carries the note of the original, whose socket may be in use.
  if (note !== null && note.directoryId === id) await removeSocket(note.socket, directory)
  await removeNote(directory)
}

/**
 * Removes a socket of ours and, if it had one outside the log, its private directory. Never recursively: whatever else
 * is in a directory is not ours to delete (a log may lie in the temporary directory too, under any name).
 */
async function removeSocket(socket: string, directory: string): Promise<void> {
  if (basename(socket) !== SOCKET) return
  await rm(socket, { force: true })
  const parent = dirname(socket)
  if (parent === directory || !basename(parent).startsWith(TEMPORARY_PREFIX)) return
  await rmdir(parent).catch(() => {
    // Not empty, not there, or not ours: it stays.
  })
}

async function readNote(directory: string): Promise<Pick<Note, 'socket' | 'directoryId'> | null> {
  try {
    const note = JSON.parse(await readFile(join(directory, NOTE), 'utf8')) as Partial<Note>
    return typeof note.socket === 'string' && typeof note.directoryId === 'string'
      ? { socket: note.socket, directoryId: note.directoryId }
      : null
  } catch {
    // Absent or damaged: there is nothing to clear up after.
    return null
  }
}

async function removeNote(directory: string): Promise<void> {
  await rm(join(directory, NOTE), { force: true })
}

async function socketPath(directory: string): Promise<string> {
  const inside = join(directory, SOCKET)
  if (Buffer.byteLength(inside) <= SOCKET_PATH_BYTES_MAX) return inside
  // mkdtemp makes it for its owner alone (0700).
  const outside = join(await mkdtemp(join(tmpdir(), TEMPORARY_PREFIX)), SOCKET)
  if (Buffer.byteLength(outside) <= SOCKET_PATH_BYTES_MAX) return outside
  await rmdir(dirname(outside))
  throw new StratalogError(
    'invalid_argument',
    `neither ${directory} nor ${tmpdir()} is short enough for a socket: point TMPDIR to a shorter path`,
  )
}

/** Counts requests under way, so that the end can wait for their answers. */
function countRequests(app: FastifyInstance): {
  idle(wait: (signal: AbortSignal) => Promise<void>): Promise<void>
} {
  let busy = 0
  const quiet = new EventTarget()
  app.addHook('onRequest', (_request, reply, done) => {
    busy += 1
    reply.raw.once('close', () => {
      busy -= 1
      if (busy === 0) quiet.dispatchEvent(new Event('quiet'))
    })
    done()
  })
  return {
    async idle(wait) {
      if (busy === 0) return
      const over = new AbortController()
      quiet.addEventListener('quiet', () => over.abort(), { once: true })
      await wait(over.signal).catch((error: unknown) => {
        if (!over.signal.aborted) throw error
      })
    },
  }
}
