import { encodeProducers, producersBytes } from '../format/producers.js'
import { Dlsn } from '../model/dlsn.js'
import { StratalogError } from '../model/errors.js'
import { PRODUCERS_MAX, type ProducerRecord, type ProducerState } from '../model/producer.js'
import type { Ack } from '../model/record.js'
import { type Batch, type LateWaiter, RecordAck, type Waiter } from './batch.js'

/** Entry bytes written since the last snapshot before another is due: what opening a writer reads at most. */
const SNAPSHOT_EVERY_BYTES = 8 * 1024 * 1024
/** Duplicates that wait for one entry: more is a client that does not wait for answers (invariant 11). */
const DUPLICATES_WAITING_MAX = 10_000

/** What is known of the producers of a stream when its writer opens; or why nothing is. */
export type KnownProducers =
  | { readonly states: ReadonlyMap<string, ProducerState> }
  | { readonly unknown: StratalogError }

/** What one entry changes. */
export interface ProducerChanges {
  readonly states: readonly ProducerState[]
}

/**
 * The producers of a stream: who appended which of its records last. The state as of an entry stands in the control
 * record of that entry (format/producers.ts), in one piece with the records it tells of, so that no crash separates
 * them: an entry is there whole, with its records and what makes their retries duplicates, or not at all.
 *
 * Once there is a state, every entry of the segment carries such a record, so that the last entry of a segment leads
 * to all of it. A stream without producers has none, and pays nothing.
 */
export class ProducerTable {
  #unknown: StratalogError | null
  /** By id, the least recent first: as of the last entry that is acknowledged, and of the last that was sent. */
  #acked = new Map<string, ProducerState>()
  #sent = new Map<string, ProducerState>()
  /** Of records that are taken and not acknowledged. */
  readonly #taken = new Map<string, { sequence: bigint; late: LateWaiter[] }>()
  #idBytes = 0
  /** Entry of the open segment with the last snapshot; −1n: none yet. */
  #snapshotEntry = -1n
  #bytesSinceSnapshot = 0

  constructor(known: KnownProducers) {
    this.#unknown = null
    this.learn(known)
  }

  /** Why producers are unknown; null: they are known. */
  get unknown(): StratalogError | null {
    return this.#unknown
  }

  /** What the history says. Nothing of a producer can have been taken while that was unknown. */
  learn(known: KnownProducers): void {
    this.#unknown = 'unknown' in known ? known.unknown : null
    if ('unknown' in known) return
    this.#acked = new Map(known.states)
    this.#restart()
  }

  /**
   * Answers a record of a producer: `new`, or `seen` where its retry was answered, now or when the entry that holds
   * it is acknowledged; or why nothing can be said.
   */
  look(record: ProducerRecord, copies: number, waiter: Waiter): 'new' | 'seen' | StratalogError {
    if (this.#unknown !== null) return this.#unknown
    const acked = this.#acked.get(record.id)
    if (acked !== undefined && record.sequence <= acked.sequence) {
      waiter.resolve(duplicateAck(acked, copies))
      return 'seen'
    }
    const taken = this.#taken.get(record.id)
    if (taken === undefined || record.sequence > taken.sequence) return 'new'
    if (taken.late.length >= DUPLICATES_WAITING_MAX) {
      return new StratalogError(
        'backpressure',
        `${DUPLICATES_WAITING_MAX} retries of producer ${record.id} wait for one entry: await acknowledgements`,
        { retryable: true, expected: DUPLICATES_WAITING_MAX },
      )
    }
    taken.late.push({ id: record.id, waiter })
    return 'seen'
  }

  /** The record is in the batch. */
  take(record: ProducerRecord, batch: Batch): void {
    batch.addProducer(record)
    this.#taken.set(record.id, { sequence: record.sequence, late: batch.late })
  }

  /** The next entry begins a segment. */
  beginSegment(): void {
    this.#snapshotEntry = -1n
  }

  /** What of an entry that is sent has to be known later; null where there are no producers. */
  changes(batch: Batch, segment: bigint, entryId: bigint, timeMs: number): ProducerChanges | null {
    if (batch.producers.size === 0) return null
    const states: ProducerState[] = []
    for (const [id, { sequence, slot }] of batch.producers) {
      const dlsn = new Dlsn(segment, entryId, BigInt(slot))
      const sequenceId = batch.firstSequenceId + BigInt(slot)
      states.push({ id, sequence, dlsn, sequenceId, txid: batch.txidAt(slot), timeMs })
    }
    states.sort((a, b) => a.dlsn.compare(b.dlsn))
    return { states }
  }

  /**
   * Payload of the control record of an entry that is about to be sent; null: it needs none. A snapshot as soon as
   * one is due and fits behind the user records; the entry says where the last one is.
   */
  control(
    changes: ProducerChanges | null,
    entryId: bigint,
    entryBytes: number,
    roomBytes: number,
  ): Buffer | null {
    for (const state of changes?.states ?? []) {
      if (!this.#sent.has(state.id)) this.#idBytes += Buffer.byteLength(state.id)
      const forgotten = remember(this.#sent, state)
      if (forgotten !== null) this.#idBytes -= Buffer.byteLength(forgotten)
    }
    if (this.#sent.size === 0 && this.#unknown === null) return null
    this.#bytesSinceSnapshot += entryBytes
    const due = this.#snapshotEntry < 0n || this.#bytesSinceSnapshot >= SNAPSHOT_EVERY_BYTES
    // While the history is unknown only what points back to it is true.
    if (due && this.#unknown === null && producersBytes(this.#sent.size, this.#idBytes) <= roomBytes) {
      this.#snapshotEntry = entryId
      this.#bytesSinceSnapshot = 0
      return encodeProducers({
        kind: 'snapshot',
        snapshotEntry: entryId,
        producers: [...this.#sent.values()],
      })
    }
    // Of more than are remembered the earlier ones are forgotten by the later ones of the same entry.
    const producers = changes?.states.slice(-PRODUCERS_MAX) ?? []
    return encodeProducers({ kind: 'changes', snapshotEntry: this.#snapshotEntry, producers })
  }

  /** An entry is acknowledged: its records are what retries are compared with. */
  acknowledged(changes: ProducerChanges | null, batch: Batch, copies: number): void {
    if (changes === null) return
    for (const state of changes.states) {
      remember(this.#acked, state)
      if (this.#taken.get(state.id)?.late === batch.late) this.#taken.delete(state.id)
    }
    for (const { id, waiter } of batch.late.splice(0)) {
      const state = changes.states.find((one) => one.id === id)
      if (state !== undefined) waiter.resolve(duplicateAck(state, copies))
    }
  }

  /** What was sent and not acknowledged is not in the log: it goes again, and is counted again then. */
  sendAgain(): void {
    this.#restart()
  }

  #restart(): void {
    this.#sent = new Map(this.#acked)
    this.#idBytes = 0
    for (const id of this.#sent.keys()) this.#idBytes += Buffer.byteLength(id)
    this.#snapshotEntry = -1n
  }
}

/** Sets a producer's state; names the producer that had to be forgotten for it. */
export function remember(states: Map<string, ProducerState>, state: ProducerState): string | null {
  // Deleted first, so that the order of the map stays that of the last records.
  states.delete(state.id)
  states.set(state.id, state)
  if (states.size <= PRODUCERS_MAX) return null
  for (const oldest of states.keys()) {
    states.delete(oldest)
    return oldest
  }
  return null
}

/** What a retry is told: where the producer's last record is, its own or, for an older one, at most a later one. */
function duplicateAck(state: ProducerState, copies: number): Ack {
  const { dlsn, sequenceId, txid, timeMs } = state
  const first = sequenceId - dlsn.slot
  return new RecordAck(dlsn.segment, dlsn.entry, Number(dlsn.slot), first, txid, timeMs, copies, true)
}
