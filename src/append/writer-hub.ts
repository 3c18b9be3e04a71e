import { StratalogError } from '../model/errors.js'
import { isClosed, type SegmentRow, type StreamRow } from '../model/segment.js'
import type { Coordination } from '../ports/coordination.js'
import { openWriter } from './open-writer.js'
import type { StreamWriterOptions } from './segment-pipe.js'
import { recoverSegment, type SegmentContext } from './segment-writer.js'
import type { StreamWriter } from './stream-writer.js'

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
  /** The last of the renewals of a stream that are under way, one behind the other. */
  readonly #renewing = new Map<string, Promise<unknown>>()
  /** Recoveries under way for whoever is not a writer, one a segment. */
  readonly #recovering = new Map<string, Promise<void>>()
  #closed = false

  constructor(
    context: SegmentContext,
    coordination: Coordination,
    options: (stream: StreamRow) => Promise<StreamWriterOptions>,
  ) {
    this.#context = context
    this.#coordination = coordination
    this.#options = options
  }

  /** The writer if it is open and well: the way of every append but the first. */
  ready(incarnation: string): StreamWriter | null {
    const writer = this.#ready.get(incarnation)
    return writer?.works ? writer : null
  }

  /** Record bytes of all streams taken and not yet durable. */
  get takenBytes(): number {
    let bytes = 0
    for (const writer of this.#ready.values()) bytes += writer.takenBytes
    return bytes
  }

  /** The stream's writer, opened if need be. */
  async writer(stream: StreamRow): Promise<StreamWriter> {
    if (this.#closed) throw new StratalogError('closed', 'the log is closed')
    const found = this.#writers.get(stream.incarnation)
    if (found !== undefined) {
      const writer = await found
      if (writer.works) return writer
      if (this.#writers.get(stream.incarnation) === found) this.#writers.delete(stream.incarnation)
      // Everybody waits for it: the next writer takes the lease that this one lets go.
      await writer.close()
      return this.writer(stream)
    }
    const opening = this.#open(stream)
    this.#writers.set(stream.incarnation, opening)
    opening.catch(() => {
      if (this.#writers.get(stream.incarnation) === opening) this.#writers.delete(stream.incarnation)
    })
    return opening
  }

  /**
   * Takes the stream over, from this process's own writer or from another that fenced it: what was taken is sealed,
   * and the writer that comes has a higher epoch, so that tokens of the one before are refused. Of many at once each
   * gets a writer, and so a token, of its own: the next takes over from it (invariant 3).
   */
  renew(stream: StreamRow): Promise<StreamWriter> {
    const { incarnation } = stream
    const renewed = (this.#renewing.get(incarnation) ?? Promise.resolve()).then(() => this.#renew(stream))
    const settled = (): void => {
      if (this.#renewing.get(incarnation) === last) this.#renewing.delete(incarnation)
    }
    const last: Promise<void> = renewed.then(settled, settled)
    this.#renewing.set(incarnation, last)
    return renewed
  }

  async #renew(stream: StreamRow): Promise<StreamWriter> {
    const found = await this.#writers.get(stream.incarnation)?.catch(() => null)
    const taken = `another handle took ${stream.name} over: appends of a session that began before are refused`
    await found?.close(new StratalogError('fenced', taken))
    if (found?.failure?.code === 'fenced') this.#writers.delete(stream.incarnation)
    return this.writer(stream)
  }

  /** Ends the stream's writer, if there is one: what was taken is sealed, what comes later is refused for `reason`. */
  async release(stream: StreamRow, reason: StratalogError): Promise<void> {
    const opening = this.#writers.get(stream.incarnation)
    const writer = await opening?.catch(() => null)
    await writer?.close(reason)
    if (this.#writers.get(stream.incarnation) === opening) this.#writers.delete(stream.incarnation)
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
    for (;;) {
      const opening = this.#writers.get(stream.incarnation)
      // One that is on its way recovers what was left open itself.
      const writer = opening === undefined ? null : await opening.catch(() => null)
      if (writer?.works) {
        if (writer.openSegment?.row.segment === segment) await writer.roll()
        return
      }
      const row = await this.#context.index.segment(stream.incarnation, segment)
      // A writer that came meanwhile may have given the number to its own segment: that one is not to be fenced.
      if (this.#writers.get(stream.incarnation) !== opening) continue
      if (row !== null && !isClosed(row.state)) await recoverSegment(this.#context, row)
      return
    }
  }

  /**
   * Closes a segment that nobody in this process writes any more; does nothing while its writer is at work. Rejects
   * as `recoverSegment` does. Several that ask at once share one recovery.
   */
  recover(row: SegmentRow): Promise<void> {
    const key = `${row.incarnation}/${row.segment}`
    let recovering = this.#recovering.get(key)
    if (recovering === undefined) {
      recovering = this.#recover(row).finally(() => this.#recovering.delete(key))
      this.#recovering.set(key, recovering)
    }
    return recovering
  }

  async #recover(found: SegmentRow): Promise<void> {
    for (;;) {
      const opening = this.#writers.get(found.incarnation)
      const writer = opening === undefined ? null : await opening.catch(() => null)
      if (writer?.works) return
      // A writer that failed ends its segment at its last acknowledgement, if it can; recovery does it else.
      await writer?.close()
      const row = await this.#context.index.segment(found.incarnation, found.segment)
      // As in `seal`: the segment may be that of a writer who came meanwhile.
      if (this.#writers.get(found.incarnation) !== opening) continue
      if (row !== null && !isClosed(row.state)) await recoverSegment(this.#context, row)
      return
    }
  }

  /** Seals everything that is open and lets the streams go. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all(
      [...this.#writers.values()].map(async (opening) => (await opening.catch(() => null))?.close()),
    )
    this.#writers.clear()
    this.#ready.clear()
  }
}
