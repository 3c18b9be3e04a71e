import { Buffer } from 'node:buffer'

/*
 * Memory for entries on their way in. Small ones share slabs; larger ones come from a pool that they go back to when
 * every store has them. Without it each of them is memory outside of V8's heap, made and collected: with 64 KiB records
 * marking for that took as much CPU as the kernel's copies (docs/performance.md).
 */

/** Entries up to this share a slab: a buffer of its own for each lone record costs more than the record. */
const SLICE_BYTES_MAX = 8 * 1_024
/** Small enough that a slab which one slow store still holds is no loss. Not a size of the pool: slabs never go there. */
const SLAB_BYTES = 64 * 1_024
/** What entries take that are full, or full with a record of 64 KiB, and some between; larger ones are rare. */
const POOLED_BYTES = [16, 32, 104, 168].map((kib) => kib * 1_024)
/** Memory that waits to be used again, at most (invariant 11). */
const FREE_BYTES_MAX = 16 * 1_024 * 1_024

const free = new Map<number, Buffer[]>(POOLED_BYTES.map((sizeBytes) => [sizeBytes, []]))
let freeBytes = 0
let slab = Buffer.allocUnsafeSlow(0)
let slabUsed = 0

/** Memory for an entry that nobody else has, of at least that size; what is in it is of no account. */
export function takeBuffer(sizeBytes: number): Buffer {
  if (sizeBytes <= SLICE_BYTES_MAX) return sliceOfSlab(sizeBytes)
  const pooledBytes = POOLED_BYTES.find((one) => one >= sizeBytes)
  if (pooledBytes === undefined) return Buffer.allocUnsafeSlow(sizeBytes)
  const again = free.get(pooledBytes)?.pop()
  if (again === undefined) return Buffer.allocUnsafeSlow(pooledBytes)
  freeBytes -= pooledBytes
  return again
}

/** Gives back memory of `takeBuffer`, or a part of it: nobody reads or writes any of it any more. */
export function giveBuffer(bytes: Uint8Array): void {
  const { buffer } = bytes
  const others = free.get(buffer.byteLength)
  if (others === undefined || freeBytes + buffer.byteLength > FREE_BYTES_MAX) return
  freeBytes += buffer.byteLength
  others.push(Buffer.from(buffer))
}

/** Each byte of a slab is handed out once; its memory goes back when the last of them does. */
function sliceOfSlab(sizeBytes: number): Buffer {
  if (slabUsed + sizeBytes > slab.length) {
    slab = Buffer.allocUnsafeSlow(SLAB_BYTES)
    slabUsed = 0
  }
  slabUsed += sizeBytes
  return slab.subarray(slabUsed - sizeBytes, slabUsed)
}
