/** A timer that has been set; cancelling one that fired or was cancelled does nothing. */
export interface Timer {
  cancel(): void
}

/** Time comes in through here, so that the simulator can own it. */
export interface Clock {
  /** Milliseconds since the epoch, UTC. May jump either way: only for what is recorded, never for measuring. */
  nowMs(): number
  /** Milliseconds of a clock that never goes back, from an arbitrary start, with fractions. */
  monotonicMs(): number
  /** Calls `fire` once after `delayMs`; never synchronously. Does not keep the process alive. */
  setTimer(delayMs: number, fire: () => void): Timer
  /** Resolves after `delayMs`; rejects with `signal.reason` when aborted, also if it already is. Keeps the process alive. */
  sleep(delayMs: number, signal?: AbortSignal): Promise<void>
}
