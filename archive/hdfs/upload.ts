import { decodeBase32, encodeBase32, encodeBase32Bytes } from '../../src/format/base32.js'
import type { ArchiveContext, ReplayableBody } from '../../src/ports/archive-store.js'
import { HdfsChecksum } from './checksum.js'
import { HdfsFailure } from './errors.js'
import { namesIn } from './list.js'
import type { NameNodes } from './namenodes.js'
import type { FileStatus, Namespace } from './namespace.js'
import type { HdfsPlace } from './settings.js'
import type { Transfer } from './transfer.js'

/** Directory of objects that are being written, below the root. */
export const TEMPORARY = '.tmp'

const LEFTOVER_AGE_MS = 24 * 3_600_000
/** For the removal of what a failed upload left: it is of no use to anybody, and nobody waits for it for long. */
const REMOVAL_MS = 10_000
/** What `createflag` says so that a DataNode syncs each block to its disk before it says that the file is closed. */
const SYNCED = 'CREATE,SYNC_BLOCK'

/** What uploads need. */
export interface UploadParts {
  readonly context: ArchiveContext
  readonly place: HdfsPlace
  readonly namenodes: NameNodes
  readonly namespace: Namespace
  readonly transfer: Transfer
}

/** A file under a temporary name: whole, checked, and not an object yet. */
export interface Uploaded {
  readonly path: string
  readonly status: FileStatus
}

/** Writes bodies to temporary files and makes sure that they arrived. */
export class Uploads {
  readonly #parts: UploadParts
  /** Blocks of the cluster, once it was asked. */
  #blockBytes: number | null = null
  /** Whether this cluster knows how to sync blocks. */
  #synced = true
  #checksumKinds: 'equal' | 'other' | 'unknown' = 'unknown'

  constructor(parts: UploadParts) {
    this.#parts = parts
  }

  /** Whether DataNodes are told to sync, and whether the cluster's checksum is one we can compute. */
  get facts(): { readonly synced: boolean; readonly checksums: 'equal' | 'other' | 'unknown' } {
    return { synced: this.#synced, checksums: this.#checksumKinds }
  }

  /**
   * The body in a temporary file, its length and checksum as they should be. Each try has a name of its own: what a
   * failed one left may still be written by a DataNode that nobody hears of any more.
   */
  async store(body: ReplayableBody, signal: AbortSignal | undefined): Promise<Uploaded> {
    const blockBytes = await this.#blockSize(signal)
    return this.#parts.transfer.run(signal, (attempt) => this.#storeOnce(body, blockBytes, attempt, signal))
  }

  /** Removes a temporary file, if it can be done soon. Never fails: what stays is removed as a leftover. */
  async discard(path: string): Promise<void> {
    const { namespace, context } = this.#parts
    const soon = new AbortController()
    const timer = context.clock.setTimer(REMOVAL_MS, () => soon.abort(new Error('it took too long')))
    try {
      await namespace.delete(path, soon.signal)
    } catch (error) {
      // The object's fate is decided and told; the file costs space until it is removed as a leftover.
      // While the log is being closed nobody has to hear of it.
      const level = context.signal.aborted ? 'debug' : 'warn'
      context.logger[level]({ error, path }, 'a temporary file of the archive could not be removed')
    } finally {
      timer.cancel()
    }
  }

  async #storeOnce(
    body: ReplayableBody,
    blockBytes: number,
    attempt: number,
    signal: AbortSignal | undefined,
  ): Promise<Uploaded> {
    const { transfer, place } = this.#parts
    const path = `${place.root}/${TEMPORARY}/${temporaryName(this.#parts.context)}`
    const checksum = new HdfsChecksum(blockBytes)
    const upload = {
      sizeBytes: body.sizeBytes,
      open: () => body.open(),
      sent: (chunk: Uint8Array) => checksum.update(chunk),
    }
    try {
      await transfer.create(path, this.#params(blockBytes), upload, signal, attempt)
      const checked = this.#checkArrived(path, { sent: checksum, blockBytes, attempt }, signal)
      return { path, status: await checked }
    } catch (error) {
      await this.discard(path)
      if (this.#synced && refusesFlags(error)) {
        this.#synced = false
        throw new HdfsFailure('this cluster does not know how to sync blocks: once more without')
      }
      throw error
    }
  }

  #params(blockBytes: number): Record<string, string> {
    const { replication } = this.#parts.place.settings
    return {
      blocksize: String(blockBytes),
      permission: '644',
      ...(replication === undefined ? {} : { replication: String(replication) }),
      ...(this.#synced ? { createflag: SYNCED } : {}),
    }
  }

  /**
   * A DataNode's 201 says that a file was closed, not that it holds all that was sent: an upload that was cut short by
   * something in between is closed just the same.
   */
  async #checkArrived(
    path: string,
    { sent, blockBytes, attempt }: { sent: HdfsChecksum; blockBytes: number; attempt: number },
    signal: AbortSignal | undefined,
  ): Promise<FileStatus> {
    const { namespace, transfer } = this.#parts
    const status = await namespace.status(path, signal)
    if (status === null) throw new HdfsFailure('what was uploaded is gone again')
    if (status.type !== 'FILE' || status.length !== sent.sizeBytes) {
      throw new HdfsFailure(`${status.length} bytes arrived of ${sent.sizeBytes}`)
    }
    if (status.length === 0) return status
    // Encrypted and erasure-coded files have checksums of other bytes, or of another kind.
    const comparable = status.encBit !== true && status.ecBit !== true && status.blockSize === blockBytes
    const told = comparable ? await transfer.checksum(path, signal, attempt) : null
    if (told !== null && told === sent.md5()) {
      this.#checksumKinds = 'equal'
      return status
    }
    if (told === null) this.#checksumKinds = 'other'
    // Only the bytes themselves can tell now.
    const found = await transfer.readBack(path, sent.sizeBytes, signal, attempt)
    if (found === sent.wholeCrc) return status
    throw new HdfsFailure('other bytes arrived than were sent')
  }

  async #blockSize(signal: AbortSignal | undefined): Promise<number> {
    const { namenodes, place } = this.#parts
    const wanted = place.settings.blockSizeBytes
    if (wanted !== undefined) return wanted
    this.#blockBytes ??= await serverBlockSize(namenodes, signal)
    return this.#blockBytes
  }

  /** Removes what crashed uploads left more than a day ago, by the time in the name, and nothing else; says how many. */
  async removeLeftovers(): Promise<number> {
    const { namenodes, namespace, place, context } = this.#parts
    const directory = `${place.root}/${TEMPORARY}`
    let removed = 0
    for await (const name of namesIn(namenodes, directory)) {
      const madeMs = madeMsOf(name)
      if (madeMs === null || context.clock.nowMs() - madeMs <= LEFTOVER_AGE_MS) continue
      // False: another process that opens the archive now removes the same ones.
      if (await namespace.delete(`${directory}/${name}`)) removed += 1
    }
    return removed
  }
}

/** What the cluster uses for a file of which nothing else is said; 128 MiB where it does not tell. */
async function serverBlockSize(namenodes: NameNodes, signal: AbortSignal | undefined): Promise<number> {
  const usual = 128 * 1024 * 1024
  try {
    const operation = { method: 'GET', op: 'GETSERVERDEFAULTS', path: '' } as const
    const answer = await namenodes.ask(operation, 'asking for defaults', signal)
    const told = JSON.parse(answer.body.toString('utf8')) as { FsServerDefaults?: { blockSize?: unknown } }
    const blockSize = told.FsServerDefaults?.blockSize
    return typeof blockSize === 'number' && blockSize >= 512 && blockSize % 512 === 0 ? blockSize : usual
  } catch (error) {
    // Older NameNodes and gateways have no such call; the size is stated with every file, so it is known all the same.
    if (error instanceof HdfsFailure || error instanceof SyntaxError) return usual
    throw error
  }
}

/** Whether it is the flags that a cluster does not take. */
function refusesFlags(error: unknown): boolean {
  return error instanceof HdfsFailure && /createflag|CreateFlag|SYNC_BLOCK/.test(error.message)
}

/** A name for a temporary file that states when it was made, and is nobody else's. */
function temporaryName({ clock, random }: ArchiveContext): string {
  return `${encodeBase32(BigInt(clock.nowMs()), 10)}-${encodeBase32Bytes(random.bytes(16))}`
}

function madeMsOf(name: string): number | null {
  const match = /^([0-9a-v]{10})-[0-9a-v]{26}$/.exec(name)
  return match === null ? null : Number(decodeBase32(match[1] ?? ''))
}
