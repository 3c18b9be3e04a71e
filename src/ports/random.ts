/** Randomness comes in through here, so that a seed replays a run. */
export interface Random {
  /** `count` fresh bytes, owned by the caller. Unpredictable in production: they name incarnations and attempts. */
  bytes(count: number): Uint8Array
  /** A number in [0, 1), for jitter. */
  fraction(): number
}
