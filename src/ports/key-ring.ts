/** A key of a ring, without the key. */
export interface RingKey {
  readonly id: string
  readonly createdMs: number
}

/**
 * Where the keys are that everything else is encrypted with: a file, a key management service. It wraps the few keys
 * of streams and nothing else; its own keys never leave it. Failures: `key_missing` where it has no such key,
 * `key_wrong`, `access_denied`, `archive_unavailable` (retryable) where it does not answer.
 */
export interface KeyRing {
  /** Names the ring for ever: wrapped keys state it, so that another ring is not taken for it. `[0-9a-z._-]`, 1 to 64. */
  readonly id: string
  /** For people: a path, an address. Never a secret. */
  readonly location: string
  /** Ids of its keys, oldest first. */
  keys(): Promise<readonly RingKey[]>
  /**
   * Encrypts a secret of at most 1 KiB under key `keyId`, bound to `context`: it can't be unwrapped for another one.
   */
  wrap(keyId: string, secret: Uint8Array, context: string): Promise<Uint8Array>
  /** The secret. `key_wrong` where `wrapped` was not made by that key for that context. */
  unwrap(keyId: string, wrapped: Uint8Array, context: string): Promise<Uint8Array>
}
