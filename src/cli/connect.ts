import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ControlApi } from '../model/control-api.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import { settingsFor } from './from-archive.js'
import type { CliIo } from './io.js'
import { quietSystem } from './quiet.js'

/** How long a command waits for a directory that somebody has and that has no socket (yet). */
const WAIT_MS_MAX = 5_000
const RETRY_MS = 50
/** A store begins a new file in every process that writes to it: for a few records that one should be small. */
const FILE_BYTES = 4 * 1024 * 1024
const BULK_FILE_BYTES = 64 * 1024 * 1024
const CONFIG_FILE = 'stratalog.yaml'
/** After this time with a log of its own a command answers others beside it: most are done before. */
const SERVE_AFTER_MS = 300

/** A log to work on, opened here or in the process that has it. */
export interface Connection {
  readonly api: ControlApi
  readonly directory: string
  /** Whether another process has the log open. */
  readonly beside: boolean
  close(): Promise<void>
}

export interface ConnectOptions {
  /** Make the log where there is none. @default 'never' */
  readonly create?: 'create' | 'never'
  /** The command may run for long: others are to work beside it. @default false */
  readonly lasting?: boolean
  /** Much is going to be appended. @default false */
  readonly bulk?: boolean
}

/** The directory a command works in: `--dir`, STRATALOG_DIR, the nearest stratalog.yaml upwards, ./data. */
export function logDirectory(io: Pick<CliIo, 'dir' | 'env'>): string {
  if (io.dir !== undefined) return resolve(io.dir)
  const named = io.env.STRATALOG_DIR
  if (named !== undefined && named !== '') return resolve(named)
  for (let directory = process.cwd(); ; directory = dirname(directory)) {
    if (existsSync(join(directory, CONFIG_FILE))) return directory
    if (dirname(directory) === directory) return resolve('./data')
  }
}

/** Runs `work` on the log of this command line and closes it whatever happens. */
export async function withLog<T>(
  io: CliIo,
  options: ConnectOptions,
  work: (connection: Connection) => Promise<T>,
): Promise<T> {
  const connection = await connect(io, options)
  try {
    return await work(connection)
  } finally {
    await connection.close()
  }
}

async function connect(io: CliIo, options: ConnectOptions): Promise<Connection> {
  if (io.attach !== undefined) return attach(io, io.attach)
  const directory = logDirectory(io)
  let holder: unknown
  let until = Number.POSITIVE_INFINITY
  for (;;) {
    const beside = await connectBeside(directory)
    if (beside !== null) {
      if (io.keyRing !== undefined)
        io.note('(--key-ring is not used: the application that has the log open has rings of its own)')
      if (io.config !== undefined)
        io.note('(--config is not used: the application that has the log open has its own)')
      return beside
    }
    try {
      return await openHere(io, directory, options)
    } catch (error) {
      // Its holder may be about to open its socket, or be another command that is done in a moment.
      if (!isStratalogError(error, 'directory_in_use')) throw error
      // A queue of commands moves on: only a holder that stays is waited for no longer.
      if (until === Number.POSITIVE_INFINITY || error.found !== holder)
        until = performance.now() + WAIT_MS_MAX
      holder = error.found
      if (performance.now() > until) throw error
    }
    await sleep(RETRY_MS * (1 + Math.random()), undefined, { signal: io.signal })
  }
}

/** The process that has the directory open, if it answers. */
async function connectBeside(directory: string): Promise<Connection | null> {
  const socket = await socketOf(directory)
  if (socket === null) return null
  const { ControlClient } = await import('../client/control-client.js')
  const api = new ControlClient(socket)
  try {
    await api.ping()
  } catch (error) {
    // Left behind by a process that is gone, or one that just closes: opening the log tells which.
    if (isStratalogError(error, 'closed')) return null
    throw error
  }
  return { api, directory, beside: true, close: () => Promise.resolve() }
}

async function socketOf(directory: string): Promise<string | null> {
  let text: string
  try {
    text = await readFile(join(directory, 'control.json'), 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return null
    throw new StratalogError(
      'access_denied',
      `${join(directory, 'control.json')} can't be read: run the command as the user of the process that has the log open`,
      { cause: error },
    )
  }
  let note: { socket?: unknown; directoryId?: unknown }
  try {
    note = JSON.parse(text) as typeof note
  } catch {
    // Damaged by a crash: as if there were none, and the next process to open the log replaces it.
    return null
  }
  const { dev, ino } = await stat(directory, { bigint: true })
  // In a copy of a directory the note still names the socket of the original.
  return typeof note.socket === 'string' && note.directoryId === `${dev}:${ino}` ? note.socket : null
}

/** The archive of another log; without a directory for its cache one that goes when the command ends. */
async function attach(io: CliIo, archive: string): Promise<Connection> {
  const { openLog } = await import('../open.js')
  const { LocalControl } = await import('../serve/control-api.js')
  const kept = io.dir === undefined ? null : resolve(io.dir)
  const directory = kept ?? (await mkdtemp(join(tmpdir(), 'stratalog-attached-')))
  const remove = () => (kept === null ? rm(directory, { recursive: true, force: true }) : Promise.resolve())
  try {
    const system = await quietSystem()
    const fixed = {
      attach: archive,
      control: 'off',
      config: 'none',
      system,
      ...(await settingsFor(io, archive)),
    } as const
    const log = await openLog(directory, { ...fixed, ...ringOf(io) })
    const close = () => log.close().finally(remove)
    return { api: new LocalControl(log), directory, beside: false, close }
  } catch (error) {
    await remove()
    throw error
  }
}

/** A ring that is named on the command line is meant from where the command was typed. */
export function ringOf({ keyRing }: CliIo): { readonly keyRing?: string } {
  return keyRing === undefined ? {} : { keyRing: resolve(keyRing) }
}

async function openHere(io: CliIo, directory: string, options: ConnectOptions): Promise<Connection> {
  const { openLog } = await import('../open.js')
  const { LocalControl } = await import('../serve/control-api.js')
  // A configuration somebody wrote says that there is to be a log.
  const create = options.create === 'create' || existsSync(join(directory, CONFIG_FILE)) ? 'create' : 'never'
  const log = await openLog(directory, {
    create,
    tiering: 'off',
    control: 'off',
    system: await quietSystem(),
    storeFileBytes: options.bulk === true ? BULK_FILE_BYTES : FILE_BYTES,
    ...ringOf(io),
    ...(io.config === undefined ? {} : { config: resolve(io.config) }),
  })
  let server: Promise<{ close(): Promise<void> }> | null = null
  const serve = async () => {
    const { startControl } = await import('../serve/control-server.js')
    return startControl(log, directory)
  }
  const timer = options.lasting === true ? setTimeout(() => (server = serve()), SERVE_AFTER_MS) : undefined
  return {
    api: new LocalControl(log),
    directory,
    beside: false,
    async close() {
      clearTimeout(timer)
      await (await server)?.close()
      await log.close()
    },
  }
}
