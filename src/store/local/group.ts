import { Buffer } from 'node:buffer'
import { assert, present } from '../../model/assert.js'
import {
  encodeFrameHeader,
  encodeGroupHeader,
  FRAME_HEADER_BYTES,
  type FrameKind,
  GROUP_HEADER_BYTES,
  type GroupHeader,
  pageEnd,
} from './frame.js'

/** A frame that is to be written. */
export interface FrameToWrite {
  readonly kind: Exclude<FrameKind, 'group'>
  readonly ledgerId: bigint
  readonly entryId: bigint
  /** Null: the generation of the file it comes to stand in. */
  readonly bornGeneration: bigint | null
  readonly body: Uint8Array
  readonly bodyCrc32c: number
}

/**
 * Bodies up to this are copied between their headers: fewer chunks, and a copy of this is cheaper than one.
 */
const COPIED_BYTES_MAX = 2048
const SCRATCH_BYTES_MIN = 4096
const ZEROS: Uint8Array = new Uint8Array(4096)

export interface EncodedGroup {
  /** To be written at the group's offset: whole pages. */
  readonly chunks: Uint8Array[]
  readonly groupBytes: number
  /** Of each frame, from the group's start. */
  readonly frameOffsets: number[]
}

/** Bytes a frame takes. */
export function frameBytes(frame: FrameToWrite): number {
  return FRAME_HEADER_BYTES + frame.body.byteLength
}

/**
 * Makes groups out of frames without copying the bodies that are worth a chunk of their own. The headers and
 * small bodies of a group lie in one buffer, which is used again for the next group and grows with them.
 */
export class GroupEncoder {
  #scratch = Buffer.allocUnsafeSlow(SCRATCH_BYTES_MIN)

  /** The buffer gives its memory back when the log falls idle. */
  shrink(): void {
    if (this.#scratch.byteLength > SCRATCH_BYTES_MIN)
      this.#scratch = Buffer.allocUnsafeSlow(SCRATCH_BYTES_MIN)
  }

  /** The chunks are valid until the next call. */
  encode(
    frames: readonly FrameToWrite[],
    seed: number,
    group: Omit<GroupHeader, 'groupBytes'>,
  ): EncodedGroup {
    this.#grow(frames)
    const scratch = this.#scratch
    const chunks: Uint8Array[] = []
    const frameOffsets: number[] = []
    let groupBytes = GROUP_HEADER_BYTES
    let used = GROUP_HEADER_BYTES
    let unsent = 0
    for (const frame of frames) {
      frameOffsets.push(groupBytes)
      groupBytes += frameBytes(frame)
      encodeFrameHeader(scratch, used, seed, {
        kind: frame.kind,
        bodyBytes: frame.body.byteLength,
        bodyCrc32c: frame.bodyCrc32c,
        ledgerId: frame.ledgerId,
        entryId: frame.entryId,
        bornGeneration: frame.bornGeneration ?? group.generation,
      })
      used += FRAME_HEADER_BYTES
      if (frame.body.byteLength <= COPIED_BYTES_MAX) {
        scratch.set(frame.body, used)
        used += frame.body.byteLength
      } else {
        chunks.push(scratch.subarray(unsent, used), frame.body)
        unsent = used
      }
    }
    if (used > unsent) chunks.push(scratch.subarray(unsent, used))
    const padding = pageEnd(groupBytes) - groupBytes
    // Whole pages: a part of one would make the kernel read the rest of it from the disk first.
    if (padding > 0) chunks.push(ZEROS.subarray(0, padding))
    encodeGroupHeader(scratch, 0, seed, { ...group, groupBytes })
    assert(frameOffsets.length === frames.length, 'a frame of a group was left out')
    return { chunks, groupBytes, frameOffsets }
  }

  #grow(frames: readonly FrameToWrite[]): void {
    let needed = GROUP_HEADER_BYTES
    for (const { body } of frames) {
      needed += FRAME_HEADER_BYTES + (body.byteLength <= COPIED_BYTES_MAX ? body.byteLength : 0)
    }
    let capacity = present(this.#scratch.byteLength, 'scratch')
    while (capacity < needed) capacity *= 2
    if (capacity > this.#scratch.byteLength) this.#scratch = Buffer.allocUnsafeSlow(capacity)
  }
}
