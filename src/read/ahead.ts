import { isClosed, type SegmentRow } from '../model/segment.js'
import type { SegmentIndex } from '../ports/segment-index.js'
import type { SegmentSource } from './source.js'

/** Rows looked up at a time. */
const PAGE = 8
/** Segments opened ahead at most, however small they are. */
const SEGMENTS_MAX = 32

/** What is begun of a segment grows in steps of at least this. */
const MORE_BYTES = 2 ** 20

interface Prepared {
  readonly row: SegmentRow
  readonly source: Promise<SegmentSource>
  begunBytes: number
}

/** What a reader that goes forward through segments tells of itself. */
export interface AheadContext {
  readonly index: Pick<SegmentIndex, 'listSegments'>
  readonly incarnation: string
  /** The tier's copy that a reader would open. */
  open(row: SegmentRow): Promise<SegmentSource>
  /** Whether the reader is going to read that segment, as far as is known. */
  wanted(row: SegmentRow): boolean
}

/**
 * Opens the segments that come next while one is read, and begins to fetch them as far as there is room: else each
 * border between two segments is a pause of two round trips. Whatever fails here is left to the reader, which opens
 * the segment anew when it gets there, as it does where the segment has changed since.
 */
export class SegmentAhead {
  readonly #context: AheadContext
  /** In order of segments, without a hole. */
  #prepared: Prepared[] = []
  #working = false
  #ended = false

  constructor(context: AheadContext) {
    this.#context = context
  }

  /** The reader is in segment `at`, and so many bytes beyond it may be fetched. Never rejects, nor waits. */
  top(at: bigint, roomBytes: number): void {
    if (this.#working || this.#ended || roomBytes <= 0) return
    this.#working = true
    void this.#fill(at, roomBytes)
      .catch(() => undefined)
      .finally(() => {
        this.#working = false
      })
  }

  /** The open copy of a segment, if it is still the row it was; what lies before it is let go. */
  take(row: SegmentRow): Promise<SegmentSource> | null {
    while (this.#prepared[0] !== undefined && this.#prepared[0].row.segment < row.segment) this.#drop()
    const first = this.#prepared[0]
    if (first === undefined || first.row.segment !== row.segment) return null
    if (first.row.version !== row.version) {
      this.#drop()
      return null
    }
    this.#prepared.shift()
    return first.source
  }

  /** Ends what is fetched. */
  close(): void {
    this.#ended = true
    while (this.#prepared.length > 0) this.#drop()
  }

  async #fill(at: bigint, roomBytes: number): Promise<void> {
    let room = roomBytes
    for (const one of this.#prepared) {
      this.#begin(one, Math.min(room, one.row.lengthBytes))
      room -= Math.max(1, one.row.lengthBytes)
    }
    while (room > 0 && this.#prepared.length < SEGMENTS_MAX) {
      const from = (this.#prepared.at(-1)?.row.segment ?? at) + 1n
      const rows = await this.#context.index.listSegments(this.#context.incarnation, from, PAGE)
      for (const row of rows) {
        const readable = isClosed(row.state) && row.state !== 'trimmed' && row.state !== 'gap'
        if (!readable || room <= 0 || this.#ended || !this.#context.wanted(row)) return
        const source = this.#context.open(row)
        source.catch(() => undefined)
        const prepared = { row, source, begunBytes: 0 }
        this.#prepared.push(prepared)
        this.#begin(prepared, Math.min(room, row.lengthBytes))
        room -= Math.max(1, row.lengthBytes)
      }
      if (rows.length < PAGE) return
    }
  }

  /** Has its first bytes fetched; little more than was begun before is not worth a request. */
  #begin(prepared: Prepared, sizeBytes: number): void {
    if (sizeBytes <= prepared.begunBytes || sizeBytes - prepared.begunBytes < Math.min(MORE_BYTES, sizeBytes))
      return
    prepared.begunBytes = sizeBytes
    prepared.source.then(
      (source) => {
        // One that was taken meanwhile is read by whoever took it.
        if (this.#prepared.includes(prepared)) source.readAhead?.(sizeBytes)
      },
      () => undefined,
    )
  }

  #drop(): void {
    const dropped = this.#prepared.shift()
    dropped?.source.then(
      (source) => source.close?.(),
      () => undefined,
    )
  }
}
