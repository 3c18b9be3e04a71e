/**
 * Record bytes that the writers of a process took and that are not durable yet, of all streams together (invariant 11):
 * ten thousand streams may each have a little under way, or a few very much, but not all of them very much.
 */
export class TakenBytes {
  /** Beyond it a stream that has anything under way takes no more. */
  readonly bytesMax: number
  #bytes = 0

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax
  }

  get bytes(): number {
    return this.#bytes
  }

  /** Counts bytes that were taken; negative ones became durable, or were given up. */
  add(bytes: number): void {
    this.#bytes += bytes
  }
}
