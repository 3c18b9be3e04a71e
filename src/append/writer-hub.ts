import { isStratalogError, StratalogError } from '../model/errors.js'
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
  readonly #shared: boolean
  readonly #writers = new Map<string, Promise<StreamWriter>>()
  readonly #ready = new Map<string, StreamWriter>()
  /** The last of the renewals of a stream that are under way, one behind the other. */
  readonly #renewing = new Map<string, Promise<unknown>>()
  /** Recoveries under way for whoever is not a writer, one a segment. */
  readonly #recovering = new Map<string, Promise<StratalogError | null>>()
  #closed = false

  constructor(
    context: SegmentContext,
    coordination: Coordination,
    options: (stream: StreamRow) => Promise<StreamWriterOptions>,
    /** Other processes write streams of the same index: what this one did not open may be at work elsewhere. */
    shared = false,
  ) {
    this.#context = context
    this.#coordination = coordination
    this.#options = options
    this.#shared = shared
  }

  /** The writer if it is open and well: the way of every append but the first. */
  ready(incarnation: string): StreamWriter | null {
    const writer = this.#ready.get(incarnation)
    return writer?.works ? writer : null
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

  /** Streams that a writer of this process may have a segment open of. */
  openStreams(): readonly string[] {
    return [...this.#ready.keys()].filter(
      (incarnation) => (this.ready(incarnation)?.openSegment ?? null) !== null,
    )
  }

  /**
   * See `Writers`. What a writer of another process has open is only that one's to seal: `conflict` says who has it.
   */
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
      // A reader of this process may be about to recover it as well: they would hold the lock against each other.
      const held = row !== null && !isClosed(row.state) ? await this.#recoverOnce(row) : null
      if (held !== null) throw openElsewhere(stream, segment, held)
      return
    }
  }

  /**
   * Closes a segment that nobody in this process writes any more; does nothing while its writer is at work. Rejects
   * as `recoverSegment` does. Several that ask at once share one recovery.
   */
  async recover(row: SegmentRow): Promise<void> {
    await this.#recoverOnce(row)
  }

  /** Resolves to who has it where that is a writer in another process: see `#end`. */
  #recoverOnce(row: SegmentRow): Promise<StratalogError | null> {
    const key = `${row.incarnation}/${row.segment}`
    let recovering = this.#recovering.get(key)
    if (recovering === undefined) {
      recovering = this.#recover(row).finally(() => this.#recovering.delete(key))
      this.#recovering.set(key, recovering)
    }
    return recovering
  }

  async #recover(found: SegmentRow): Promise<StratalogError | null> {
    for (;;) {
      const opening = this.#writers.get(found.incarnation)
      const writer = opening === undefined ? null : await opening.catch(() => null)
      if (writer?.works) return null
      // A writer that failed ends its segment at its last acknowledgement, if it can; recovery does it else.
      await writer?.close()
      const row = await this.#context.index.segment(found.incarnation, found.segment)
      // As in `seal`: the segment may be that of a writer who came meanwhile.
      if (this.#writers.get(found.incarnation) !== opening) continue
      return row !== null && !isClosed(row.state) ? this.#end(row) : null
    }
  }

  /**
   * Fences and closes what no writer of this process has. Where others write as well only under the writer's lease:
   * who holds it is at work elsewhere, and its segment is not to be fenced (invariant 3). Resolves to the refusal then.
   */
  async #end(found: SegmentRow): Promise<StratalogError | null> {
    if (!this.#shared) {
      await recoverSegment(this.#context, found)
      return null
    }
    const options = { holder: 'recovery', waitMs: 0 }
    const lease = await this.#coordination
      .acquire(`writer/${found.incarnation}`, options)
      .catch((error: unknown) => {
        if (isStratalogError(error, 'conflict')) return error
        throw error
      })
    if (lease instanceof StratalogError) return lease
    try {
      // Its writer may have closed it before it let the lease go.
      const row = await this.#context.index.segment(found.incarnation, found.segment)
      if (row !== null && !isClosed(row.state)) await recoverSegment(this.#context, row)
      return null
    } finally {
      await lease.release()
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

function openElsewhere({ name }: StreamRow, segment: bigint, held: StratalogError): StratalogError {
  const who = typeof held.found === 'string' ? held.found : 'another process'
  return new StratalogError(
    'conflict',
    `segment ${segment} of ${name} is open in ${who}, and only its writer may seal it: run "stratalog segment seal ${name}" in the directory of that process, or stop it`,
    { retryable: true, found: who, cause: held },
  )
}
