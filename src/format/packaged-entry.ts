import { crc32c } from './checksum.js'

/**
 * A packaged ledger entry (header, digest, payload) on its way to several stores. They share the bytes and the
 * checksum over them, so that neither is computed once per copy.
 */
export class PackagedEntry {
  readonly bytes: Uint8Array
  #crc32c: number | null = null

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
  }

  /** CRC32C over all bytes; unsigned. */
  get crc32c(): number {
    this.#crc32c ??= crc32c(this.bytes)
    return this.#crc32c
  }
}
