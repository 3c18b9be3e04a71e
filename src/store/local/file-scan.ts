import { Buffer } from 'node:buffer'
import { StratalogError } from '../../model/errors.js'
import type { Disk } from '../../ports/disk.js'
import {
  CONTROL_BODY_BYTES_MAX,
  decodeFrameHeader,
  decodeGroupHeader,
  FRAME_HEADER_BYTES,
  type FrameHeader,
  type FrameKind,
  GROUP_HEADER_BYTES,
  type GroupHeader,
  lacOf,
  PAGE_BYTES,
  pageEnd,
} from './frame.js'
import type { Mark } from './mark-body.js'
import { ScanWindow } from './scan-window.js'

const WINDOW_BYTES = 1 << 20
const LAC_BYTES = 24

/** An entry whose frame header is whole. */
export interface ScannedEntry {
  readonly ledgerId: bigint
  readonly entryId: bigint
  readonly offset: number
  readonly bodyBytes: number
}

/** Called for each valid frame, in the order of the file. */
export interface ScanVisitor {
  entry(entry: ScannedEntry, lac: bigint): void
  mark(mark: Mark): void
}

/** Bytes that do not parse: of a group, of a frame, or of everything up to the next group. */
export interface Hole {
  readonly from: number
  readonly to: number
  /** Set where only the body of an entry is damaged: then nothing else is in doubt. */
  readonly entry: ScannedEntry | null
}

export interface FileScan {
  readonly sizeBytes: number
  readonly groups: number
  /** The last group is the mark of a clean close. */
  readonly cleanEnd: boolean
  /** Where the last group ends, after the last frame of it that can be found: what is torn off was never durable. */
  readonly end: number
  readonly holes: readonly Hole[]
  /** Up to where the groups of this file say that it was durable. */
  readonly durableOffset: number
  /** The file before it in the same run (0: none), and up to where that one was durable. */
  readonly previousGeneration: bigint
  readonly previousOffset: number
}

interface Progress {
  groups: number
  cleanEnd: boolean
  end: number
  durableOffset: number
  previousGeneration: bigint
  previousOffset: number
  readonly holes: Hole[]
}

/**
 * Reads a log file from end to end with bounded memory, checks every frame and tells the visitor. What does
 * not parse is listed as holes; whether a hole is damage or the end of the log only its surroundings can say
 * (`start.ts`). Where a group's header does not parse, later pages are searched for one that does. Throws
 * `version_unsupported` for a valid frame of an unknown kind.
 */
export async function scanFile(
  disk: Disk,
  log: { readonly path: string; readonly generation: bigint; readonly seed: number },
  visitor: ScanVisitor,
): Promise<FileScan> {
  const file = await disk.open(log.path, 'read')
  try {
    const sizeBytes = await file.sizeBytes()
    const window = new ScanWindow(file, sizeBytes, WINDOW_BYTES)
    return { sizeBytes, ...(await new Scan(window, log, visitor).run()) }
  } finally {
    await file.close()
  }
}

class Scan {
  readonly #window: ScanWindow
  readonly #log: { readonly path: string; readonly generation: bigint; readonly seed: number }
  readonly #visitor: ScanVisitor
  readonly #progress: Progress = {
    groups: 0,
    cleanEnd: false,
    end: 0,
    durableOffset: 0,
    previousGeneration: 0n,
    previousOffset: 0,
    holes: [],
  }

  constructor(
    window: ScanWindow,
    log: { readonly path: string; readonly generation: bigint; readonly seed: number },
    visitor: ScanVisitor,
  ) {
    this.#window = window
    this.#log = log
    this.#visitor = visitor
  }

  async run(): Promise<Progress> {
    let at = 0
    let lostFrom: number | null = null
    while (at < this.#window.sizeBytes) {
      const bytes = await this.#window.view(at, GROUP_HEADER_BYTES)
      const group = decodeGroupHeader(bytes, 0, this.#log.seed, this.#log.generation)
      if (group === null) {
        lostFrom ??= at
        at += PAGE_BYTES
        continue
      }
      if (lostFrom !== null) this.#hole(lostFrom, at)
      lostFrom = null
      this.#noteGroup(group)
      const groupEnd = at + group.groupBytes
      this.#progress.end = await this.#frames(at + GROUP_HEADER_BYTES, groupEnd)
      at = Math.max(pageEnd(groupEnd), at + PAGE_BYTES)
    }
    if (lostFrom !== null) this.#hole(lostFrom, this.#window.sizeBytes)
    return this.#progress
  }

  #noteGroup(group: GroupHeader): void {
    const progress = this.#progress
    progress.groups += 1
    progress.cleanEnd = group.cleanEnd
    progress.durableOffset = Math.max(progress.durableOffset, group.durableOffset)
    progress.previousGeneration = group.previousGeneration
    progress.previousOffset = group.previousOffset
  }

  #hole(from: number, to: number, entry: ScannedEntry | null = null): void {
    this.#progress.holes.push({ from, to, entry })
  }

  /**
   * The frames of one group; answers where they end. After a damaged frame header nothing in the group can be found any
   * more.
   */
  async #frames(from: number, end: number): Promise<number> {
    let at = from
    while (at < end) {
      const bytes = await this.#window.view(at, FRAME_HEADER_BYTES)
      const header = decodeFrameHeader(bytes, 0, this.#log.seed)
      const frameEnd = header === null ? 0 : at + FRAME_HEADER_BYTES + header.bodyBytes
      if (header === null || frameEnd > end || header.kind === 'group') {
        this.#hole(at, end)
        return at
      }
      if (header.kind === null) throw this.#unknownKind(at)
      if (header.kind === 'entry') await this.#entry(header, at)
      else await this.#mark(header, header.kind, at)
      at = frameEnd
    }
    return at
  }

  async #entry(header: FrameHeader, offset: number): Promise<void> {
    const { ledgerId, entryId, bodyBytes } = header
    const entry = { ledgerId, entryId, offset, bodyBytes }
    const body = offset + FRAME_HEADER_BYTES
    const lac = lacOf(await this.#window.view(body, Math.min(LAC_BYTES, bodyBytes)))
    if ((await this.#window.checksum(body, bodyBytes)) === header.bodyCrc32c) this.#visitor.entry(entry, lac)
    else this.#hole(offset, body + bodyBytes, entry)
  }

  async #mark(
    header: FrameHeader,
    kind: Exclude<FrameKind, 'group' | 'entry'>,
    offset: number,
  ): Promise<void> {
    const body = offset + FRAME_HEADER_BYTES
    const { ledgerId, entryId, bornGeneration, bodyBytes } = header
    const whole =
      bodyBytes <= CONTROL_BODY_BYTES_MAX &&
      (await this.#window.checksum(body, bodyBytes)) === header.bodyCrc32c
    if (!whole) {
      this.#hole(offset, body + bodyBytes)
      return
    }
    const bytes = Buffer.from(await this.#window.view(body, bodyBytes))
    this.#visitor.mark({ kind, ledgerId, entryId, bornGeneration, body: bytes })
  }

  #unknownKind(offset: number): StratalogError {
    return new StratalogError(
      'version_unsupported',
      `${this.#log.path} holds a frame of a kind this version does not know, at ${offset}: ` +
        'use the stratalog that wrote it',
    )
  }
}

/** Whether a file begins with a group of its generation: then it was written to. */
export async function beginsWithGroup(
  disk: Disk,
  log: { readonly path: string; readonly generation: bigint; readonly seed: number },
): Promise<boolean> {
  const file = await disk.open(log.path, 'read')
  try {
    const bytes = Buffer.alloc(GROUP_HEADER_BYTES)
    const filled = await file.read(bytes, 0)
    return decodeGroupHeader(bytes.subarray(0, filled), 0, log.seed, log.generation) !== null
  } finally {
    await file.close()
  }
}
