import type { EntryAnswer } from '../../ports/segment-store.js'

/** Reads that are on their way for one run of entries at most. */
const WINDOW_READS = 128
/** And at first, where nothing is known of the entries' size yet; each answer lets one more go at a time. */
const FIRST_READS = 8
/** Bytes that are expected of one bookie at a time, by all runs together. A run that finds no room waits for its turn. */
const EXPECTED_BYTES_MAX = 32 * 2 ** 20
/** Ledgers whose entries' size is remembered from one run to the next. */
const LEDGERS_MAX = 1_024
/** Weight of one entry that is smaller than what was expected. */
const WEIGHT = 1 / 8

/** Reads one entry of a bookie. */
export type ReadOne = (ledgerId: bigint, entryId: bigint) => Promise<EntryAnswer>

/** Bytes that reads on their way are expected to bring, of all runs of one bookie (invariant 11). */
class Room {
  #takenBytes = 0
  readonly #waiting: { readonly bytes: number; readonly taken: () => void }[] = []

  /** Whether there is room, and nobody waits for it; who gets it gives it back. One read alone always has it. */
  take(bytes: number): boolean {
    if (this.#waiting.length > 0 || !this.#fits(bytes)) return false
    this.#takenBytes += bytes
    return true
  }

  /** Calls once the room is taken, behind those that came before. */
  wait(bytes: number, taken: () => void): void {
    this.#waiting.push({ bytes, taken })
  }

  give(bytes: number): void {
    this.#takenBytes -= bytes
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      if (!this.#fits(next.bytes)) return
      this.#waiting.shift()
      this.#takenBytes += next.bytes
      next.taken()
    }
  }

  #fits(bytes: number): boolean {
    return this.#takenBytes === 0 || this.#takenBytes + bytes <= EXPECTED_BYTES_MAX
  }
}

/**
 * Runs of consecutive entries of one bookie, each entry with a read of its own, many on their way at once (the protocol's
 * batched read is for version 2 only).
 */
export class RunReader {
  readonly #read: ReadOne
  readonly #room = new Room()
  /** By ledger, the one used longest ago first: what an entry is expected to take. */
  readonly #entryBytes = new Map<bigint, number>()

  constructor(read: ReadOne) {
    this.#read = read
  }

  /** As `SegmentStore.readEntries`; rejects only where the first entry can't be read, or the signal is aborted. */
  async read(
    ledgerId: bigint,
    first: bigint,
    last: bigint,
    bytesMax: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array[]> {
    const read = (place: number) => this.#read(ledgerId, first + BigInt(place))
    const count = Math.max(0, Number(last - first) + 1)
    const run = new Run(read, count, bytesMax, this.#entryBytes.get(ledgerId) ?? null, this.#room)
    try {
      return await run.run(signal)
    } finally {
      if (run.entryBytes !== null) this.#remember(ledgerId, run.entryBytes)
    }
  }

  #remember(ledgerId: bigint, bytes: number): void {
    this.#entryBytes.delete(ledgerId)
    this.#entryBytes.set(ledgerId, bytes)
    if (this.#entryBytes.size <= LEDGERS_MAX) return
    for (const oldest of this.#entryBytes.keys()) {
      this.#entryBytes.delete(oldest)
      return
    }
  }
}

/**
 * One run, a sliding window: every answer lets the next read go. Reads no further ahead than what is expected to fit into
 * `bytesMax`, and what comes beyond is dropped as it comes, however large the entries turn out to be: what is held
 * is at most `bytesMax`, or one entry.
 */
class Run {
  readonly #read: (place: number) => Promise<EntryAnswer>
  readonly #bytesMax: number
  readonly #room: Room
  /** By place in the run; null: on its way. */
  readonly #found: (Uint8Array | null)[] = []
  #heldBytes = 0
  /** The run ends before this place at the latest. */
  #end: number
  /** Places below the end whose answers are still to come. */
  #open = 0
  #window: number
  #entryBytes: number | null
  #resolve: ((entries: Uint8Array[]) => void) | null = null
  #reject: (error: unknown) => void = () => {}

  constructor(
    read: (place: number) => Promise<EntryAnswer>,
    count: number,
    bytesMax: number,
    entryBytes: number | null,
    room: Room,
  ) {
    this.#read = read
    this.#end = count
    this.#bytesMax = bytesMax
    this.#room = room
    this.#entryBytes = entryBytes
    this.#window = entryBytes === null ? FIRST_READS : WINDOW_READS
  }

  /** What the next entry is expected to take; null: nothing is known. */
  get entryBytes(): number | null {
    return this.#entryBytes
  }

  /** `signal` ends it at once: what is on its way then is not waited for, and nothing more is asked for. */
  run(signal?: AbortSignal): Promise<Uint8Array[]> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) return reject(signal.reason)
      // One listener for all the reads of a run: a signal with many warns.
      const aborted = (): void => this.#fail(signal?.reason)
      signal?.addEventListener('abort', aborted, { once: true })
      const over = (): void => {
        this.#resolve = null
        signal?.removeEventListener('abort', aborted)
      }
      this.#resolve = (entries) => {
        over()
        resolve(entries)
      }
      this.#reject = (error) => {
        over()
        reject(error)
      }
      this.#begin()
    })
  }

  get #expectedBytes(): number {
    return this.#entryBytes ?? this.#bytesMax / FIRST_READS
  }

  /** Only the first read waits for room: who has an entry gives it to the caller rather than wait. */
  #begin(): void {
    const bytes = this.#expectedBytes
    if (this.#end === 0 || this.#room.take(bytes)) this.#goOn(bytes)
    else this.#room.wait(bytes, () => (this.#resolve === null ? this.#room.give(bytes) : this.#goOn(bytes)))
  }

  /** Asks for what may be asked for; `roomBytes` was taken for the first read. */
  #goOn(roomBytes = 0): void {
    if (roomBytes > 0 && this.#end > 0) this.#ask(roomBytes)
    while (this.#resolve !== null && this.#mayAsk() && this.#room.take(this.#expectedBytes)) {
      this.#ask(this.#expectedBytes)
    }
    if (this.#open === 0) this.#resolve?.(this.#found.slice(0, this.#end) as Uint8Array[])
  }

  #mayAsk(): boolean {
    if (this.#found.length >= this.#end || this.#open >= this.#window) return false
    return this.#heldBytes + (this.#open + 1) * this.#expectedBytes <= this.#bytesMax
  }

  #ask(roomBytes: number): void {
    const place = this.#found.length
    this.#found.push(null)
    this.#open += 1
    const answered = (take: () => void): void => {
      if (this.#resolve !== null && place < this.#end) take()
      this.#room.give(roomBytes)
      this.#goOn()
    }
    this.#read(place).then(
      (answer) =>
        answered(() => (answer.kind === 'entry' ? this.#take(place, answer.bytes) : this.#endAt(place))),
      (error: unknown) => answered(() => this.#refused(place, error)),
    )
  }

  #take(place: number, bytes: Uint8Array): void {
    this.#found[place] = bytes
    this.#open -= 1
    this.#heldBytes += bytes.length
    this.#window = Math.min(WINDOW_READS, this.#window + 1)
    const expected = this.#entryBytes ?? bytes.length
    this.#entryBytes = Math.max(bytes.length, expected + (bytes.length - expected) * WEIGHT)
    // With all before the last one it would be too much, whatever is still to come of them.
    for (let top = this.#top; this.#heldBytes > this.#bytesMax && top > 1; top = this.#top)
      this.#endAt(top - 1)
  }

  /** What can't be read is for the caller to ask about, once it needs it. */
  #refused(place: number, error: unknown): void {
    if (place === 0) this.#fail(error)
    else this.#endAt(place)
  }

  /** Gives up this place and those behind it, whatever came of them or is still to come. */
  #endAt(end: number): void {
    const top = this.#top
    this.#end = end
    for (let place = end; place < top; place += 1) {
      const entry = this.#found[place]
      if (entry === null) this.#open -= 1
      else if (entry !== undefined) this.#heldBytes -= entry.length
      this.#found[place] = null
    }
  }

  /** The place behind the last one that was asked for and may be part of the run. */
  get #top(): number {
    return Math.min(this.#end, this.#found.length)
  }

  #fail(error: unknown): void {
    if (this.#resolve !== null) this.#reject(error)
  }
}
