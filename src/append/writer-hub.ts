import { StratalogError } from '../model/errors.js'
import { isClosed, type StreamRow } from '../model/segment.js'
import type { Coordination } from '../ports/coordination.js'
import { openWriter } from './open-writer.js'
import { recoverSegment, type SegmentContext } from './segment-writer.js'
import type { StreamWriter, StreamWriterOptions } from './stream-writer.js'

/**
 * The writers of this process, one a stream, opened by the first append and shared by all handles. A writer that
 * failed for a passing reason is replaced at the next append; one that was fenced stays: another owns the stream.
 */
export class WriterHub {
  readonly #context: SegmentContext
  readonly #coordination: Coordination
  readonly #options: (stream: StreamRow) => Promise<StreamWriterOptions>
  readonly #writers = new Map<string, Promise<StreamWriter>>()
  readonly #ready = new Map<string, StreamWriter>()
  #closed = false

  constructor(context: SegmentContext, coordination: Coordination, options: (stream: StreamRow) => Promise<StreamWriterOptions>) {
    this.#context = context
    this.#coordination = coordination
    this.#options = options
  }

  /** The writer if it is open and well: the way of every append but the first. */
  ready(incarnation: string): StreamWriter | null {
    const writer = this.#ready.get(incarnation)
    return writer === undefined || (writer.failure !== null && writer.failure.code !== 'fenced') ? null : writer
  }

  /** The stream's writer, opened if need be. */
  async writer(stream: StreamRow): Promise<StreamWriter> {
    if (this.#closed) throw new StratalogError('closed', 'the log is closed')
    const found = this.#writers.get(stream.incarnation)
    if (found !== undefined) {
      const writer = await found
      if (writer.failure === null || writer.failure.code === 'fenced') return writer
      if (this.#writers.get(stream.incarnation) === found) {
        this.#writers.delete(stream.incarnation)
        await writer.close()
      }
      return this.writer(stream)
    }
    const opening = this.#open(stream)
    this.#writers.set(stream.incarnation, opening)
    opening.catch(() => {
      if (this.#writers.get(stream.incarnation) === opening) this.#writers.delete(stream.incarnation)
    })
    return opening
  }

  async #open(stream: StreamRow): Promise<StreamWriter> {
    const writer = await openWriter(this.#context, this.#coordination, stream, await this.#options(stream))
    this.#ready.set(stream.incarnation, writer)
    return writer
  }

  /** See `Writers` in tiering/context.ts. */
  openSegment(stream: StreamRow): { lengthBytes: number; lastAppendMs: number } | null {
    return this.#ready.get(stream.incarnation)?.openSegment ?? null
  }

  async seal(stream: StreamRow, segment: bigint): Promise<void> {
    const writer = this.ready(stream.incarnation)
    if (writer !== null) {
      if (writer.openSegment?.row.segment === segment) await writer.roll()
      return
    }
    const row = await this.#context.index.segment(stream.incarnation, segment)
    if (row !== null && !isClosed(row.state)) await recoverSegment(this.#context, row)
  }

  /** Seals everything that is open and lets the streams go. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all([...this.#writers.values()].map(async (opening) => (await opening.catch(() => null))?.close()))
    this.#writers.clear()
    this.#ready.clear()
  }
}
