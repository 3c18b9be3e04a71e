import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { ErrorCode } from '../../src/model/errors.js'
import { isStratalogError } from '../../src/model/errors.js'

/**
 * Golden bytes that Java's BookKeeper and DistributedLog 4.17.3 made; tests run in the project's directory.
 */
export interface Vectors {
  readonly master_keys: Readonly<Record<string, string>>
  readonly digest: Readonly<Record<string, Readonly<Record<string, string>>>>
  readonly ledger_metadata: Readonly<Record<string, string>>
  readonly dlsn: Readonly<Record<string, string | { readonly v1_hex: string; readonly v1_base64: string }>>
  readonly log_records: Readonly<Record<string, string>>
  readonly log_segment_metadata: Readonly<Record<string, string>>
  readonly live: {
    readonly segment_metadata: readonly string[]
    readonly ledger_metadata: readonly string[]
    readonly entries: readonly string[]
  }
}

/** All of test/golden/vectors.json. */
export const vectors: Vectors = JSON.parse(
  readFileSync(join(process.cwd(), 'test', 'golden', 'vectors.json'), 'utf8'),
)

/** The vector of that name, which must be there. */
export function vector(of: Readonly<Record<string, string>> | undefined, name: string): string {
  const found = of?.[name]
  assert.ok(found !== undefined, `vector ${name}`)
  return found
}

/** Bytes from hexadecimal. */
export function hex(text: string): Buffer {
  return Buffer.from(text, 'hex')
}

/** Hexadecimal from bytes. */
export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

/** Expects an error of ours with that code. */
export function refuses(code: ErrorCode, run: () => unknown, message?: string): void {
  assert.throws(run, (error) => isStratalogError(error, code), message)
}

/**
 * Runs a decoder on bytes nobody wrote: it may read something, but an error must be one of the two named
 * ones.
 */
export function readsOrNames(run: () => unknown): void {
  try {
    run()
  } catch (error) {
    if (isStratalogError(error, 'corrupt') || isStratalogError(error, 'version_unsupported')) return
    throw error
  }
}

/**
 * Every proper prefix of `bytes` from `leastBytes` on is refused by name, and with any single byte damaged
 * they are read or refused by name.
 */
export function survivesDamage(
  bytes: Uint8Array,
  decode: (bytes: Uint8Array) => unknown,
  leastBytes = 0,
): void {
  for (let length = leastBytes; length < bytes.length; length++) {
    const cut = bytes.subarray(0, length)
    let read = true
    try {
      decode(cut)
    } catch (error) {
      read = false
      readsOrNames(() => {
        throw error
      })
    }
    assert.ok(!read, `the first ${length} bytes of ${bytes.length} are read as if they were whole`)
  }
  for (let at = 0; at < bytes.length; at++) {
    for (const value of [0, 1, 0x7f, 0x80, 0xff]) {
      const damaged = Uint8Array.from(bytes)
      damaged[at] = value
      readsOrNames(() => decode(damaged))
    }
  }
}
