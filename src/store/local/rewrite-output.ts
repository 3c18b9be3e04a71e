import { present } from '../../model/assert.js'
import { GROUP_HEADER_BYTES, lacOf, PAGE_BYTES, pageEnd } from './frame.js'
import { type FrameToWrite, frameBytes, GroupEncoder } from './group.js'
import { IndexRoom } from './index-room.js'
import { endWithIndexBlock } from './index-writer.js'
import type { RewrittenFile } from './ledger-table.js'
import { FileRange } from './log-file.js'
import type { Mark } from './mark-body.js'
import type { WritableFile } from './space.js'

/** A rewritten file while it is written: groups, the mark of a clean end, the index block. */
export class RewriteOutput {
  readonly #open: WritableFile
  readonly #fileBytes: number
  readonly #groupBytesMax: number
  readonly #encoder: GroupEncoder = new GroupEncoder()
  #end = 0
  #groups = 0

  constructor(open: WritableFile, fileBytes: number, groupBytesMax: number) {
    this.#open = open
    this.#fileBytes = fileBytes
    this.#groupBytesMax = groupBytesMax
  }

  get file(): WritableFile['file'] {
    return this.#open.file
  }

  /** Writes frames in their order and syncs them; returns how many found room. The first of a file always does. */
  async write(frames: readonly FrameToWrite[]): Promise<number> {
    let written = 0
    while (written < frames.length) {
      const group = this.#takeGroup(frames, written)
      if (group.length === 0) break
      await this.#writeGroup(group, false)
      written += group.length
    }
    if (written > 0) await this.#open.handle.dataSync()
    return written
  }

  #takeGroup(frames: readonly FrameToWrite[], from: number): FrameToWrite[] {
    const room = new IndexRoom(this.file)
    let bytes = GROUP_HEADER_BYTES
    let to = from
    for (; to < frames.length; to += 1) {
      const frame = present(frames[to], 'frame')
      bytes += frameBytes(frame)
      const fileBytes = this.#end + pageEnd(bytes) + PAGE_BYTES + room.with(frame)
      if (to > from && bytes > this.#groupBytesMax) break
      if (fileBytes > this.#fileBytes && (to > from || this.#groups > 0)) break
    }
    return frames.slice(from, to)
  }

  async #writeGroup(group: readonly FrameToWrite[], cleanEnd: boolean): Promise<void> {
    const { file, handle } = this.#open
    const { chunks, groupBytes, frameOffsets } = this.#encoder.encode(group, file.seed, {
      generation: file.generation,
      groupNumber: this.#groups,
      cleanEnd,
      durableOffset: file.end,
      previousGeneration: 0n,
      previousOffset: 0,
    })
    await handle.write(chunks, this.#end)
    for (const [at, frame] of group.entries()) {
      this.#note(frame, this.#end + present(frameOffsets[at], 'frame offset'))
    }
    file.end = this.#end + groupBytes
    this.#end = pageEnd(file.end)
    this.#groups += 1
  }

  #note(frame: FrameToWrite, offset: number): void {
    const { file } = this
    const { kind, ledgerId, entryId, body } = frame
    if (kind !== 'control') file.ledgerIds.add(ledgerId)
    if (kind !== 'entry') {
      file.addMark({ kind, ledgerId, entryId, body, bornGeneration: frame.bornGeneration ?? file.generation })
      return
    }
    file.noteEntry()
    const range = file.ranges.get(ledgerId) ?? new FileRange(ledgerId, file, null)
    file.ranges.set(ledgerId, range)
    const place = { offset, bodyBytes: body.byteLength }
    range.set(present(range.rows, 'rows of an open file'), Number(entryId), place, lacOf(body))
  }

  /** Makes the file durable as a whole and answers what it holds; nothing of that is in the table yet. */
  async finish(): Promise<RewrittenFile> {
    const { file, handle } = this.#open
    await this.#writeGroup([], true)
    await handle.dataSync()
    file.closed = true
    file.cleanEnd = true
    const marks: Mark[] = [...file.marks]
    const sections = await endWithIndexBlock(file, handle)
    await handle.close()
    file.forgetContents()
    return { file, sections, marks }
  }

  close(): Promise<void> {
    return this.#open.handle.close()
  }
}
