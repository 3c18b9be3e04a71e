import { type FileHandle, link, lstat, open, rename, rm } from 'node:fs/promises'
import { StratalogError } from '../model/errors.js'
import type { CliIo } from './io.js'

/** Where an export goes. */
export interface ExportTarget {
  write(piece: string | Uint8Array): Promise<void>
  /** All is written: a file gets its name. */
  commit(): Promise<void>
  /** Not all could be written: a file leaves nothing behind. Does nothing after `commit`. */
  abandon(): Promise<void>
}

/** Bytes gathered before they are written. */
const PIECE_BYTES = 256 * 1024

/** Stdout, as fast as its reader takes it. */
export function stdoutTarget(io: CliIo): ExportTarget {
  return { write: (piece) => io.write(piece), commit: async () => undefined, abandon: async () => undefined }
}

/** A file that has its name when all of it is on disk, and not before. */
export async function fileTarget(file: string, options: { readonly force: boolean }): Promise<ExportTarget> {
  if (!options.force) await refuseExisting(file)
  // Next to the file: a name can't be moved from one file system to another.
  const temporary = `${file}.${process.pid}.part`
  try {
    return new FileTarget(file, temporary, await open(temporary, 'w'), options.force)
  } catch (error) {
    throw writeError(error, file)
  }
}

class FileTarget implements ExportTarget {
  readonly #file: string
  readonly #temporary: string
  readonly #handle: FileHandle
  readonly #force: boolean
  #pieces: Uint8Array[] = []
  #bytes = 0
  #done = false

  constructor(file: string, temporary: string, handle: FileHandle, force: boolean) {
    this.#file = file
    this.#temporary = temporary
    this.#handle = handle
    this.#force = force
  }

  async write(piece: string | Uint8Array): Promise<void> {
    const bytes = typeof piece === 'string' ? Buffer.from(piece, 'utf8') : piece
    this.#pieces.push(bytes)
    this.#bytes += bytes.byteLength
    if (this.#bytes >= PIECE_BYTES) await this.#flush()
  }

  async commit(): Promise<void> {
    await this.#flush()
    try {
      await this.#handle.sync()
      await this.#handle.close()
      if (this.#force) await rename(this.#temporary, this.#file)
      else await this.#nameNew()
      this.#done = true
    } catch (error) {
      throw writeError(error, this.#file)
    }
  }

  async abandon(): Promise<void> {
    if (this.#done) return
    await this.#handle.close()
    await rm(this.#temporary, { force: true })
  }

  /** A link fails where the name was taken meanwhile, and a rename would not. */
  async #nameNew(): Promise<void> {
    try {
      await link(this.#temporary, this.#file)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code !== 'EPERM' && code !== 'ENOTSUP' && code !== 'ENOSYS') throw error
      // A file system without links: looking and renaming are two steps there.
      await refuseExisting(this.#file)
      await rename(this.#temporary, this.#file)
      return
    }
    await rm(this.#temporary, { force: true })
  }

  async #flush(): Promise<void> {
    const pieces = Buffer.concat(this.#pieces)
    this.#pieces = []
    this.#bytes = 0
    try {
      await this.#handle.writeFile(pieces)
    } catch (error) {
      throw writeError(error, this.#file)
    }
  }
}

async function refuseExisting(file: string): Promise<void> {
  try {
    await lstat(file)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw writeError(error, file)
  }
  throw existing(file)
}

function existing(file: string): StratalogError {
  return new StratalogError(
    'file_exists',
    `${file} exists: name another file, or give --force to write over it`,
    { found: file },
  )
}

function writeError(error: unknown, file: string): unknown {
  if (error instanceof StratalogError) return error
  const { code, message } = error as NodeJS.ErrnoException
  if (code === 'EEXIST') return existing(file)
  if (code === 'EISDIR')
    return new StratalogError('invalid_argument', `${file} is a directory: name a file`, { cause: error })
  if (code === 'ENOENT')
    return new StratalogError('file_not_found', `there is no directory for ${file}: make it first`, {
      cause: error,
    })
  if (code === 'EACCES' || code === 'EPERM')
    return new StratalogError('access_denied', `${file} can't be written: ${message}`, { cause: error })
  return new StratalogError('io_failed', `${file} can't be written: ${message}`, { cause: error })
}
