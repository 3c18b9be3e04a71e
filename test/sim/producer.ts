import type { AppendConditions } from '../../src/append/refusals.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { Ack } from '../../src/model/record.js'
import type { StreamRow } from '../../src/model/segment.js'
import type { Client } from './client.js'
import type { Oracle } from './oracle.js'
import type { SimRandom } from './random.js'
import type { Scheduler } from './scheduler.js'
import type { Trace } from './trace.js'

/** After how long it takes an append that has not settled for one of which nobody knows what came of it. */
const PATIENCE_MS = 12_000
/** Chance that an answer gets lost on its way from the process to the producer. */
const UNHEARD = 0.15

/** What a producer needs of the world. */
export interface ProducerWorld {
  readonly scheduler: Scheduler
  readonly trace: Trace
  readonly oracle: Oracle
  readonly clients: readonly Client[]
  nextRecord(): number
}

/**
 * Somebody outside who sends records, one after the other, each with its number and again until it is acknowledged,
 * through whatever process is there: nothing of that may be lost and nothing be there twice. Some records also say
 * where the stream has to end.
 */
export class Producer {
  readonly #world: ProducerWorld
  readonly #random: SimRandom
  readonly #stream: StreamRow
  readonly #id: string
  #left: number
  /** Where the stream ended when it last heard of that. */
  #tail: bigint | 'empty' = 'empty'

  constructor(world: ProducerWorld, random: SimRandom, stream: StreamRow, records: number) {
    this.#world = world
    this.#random = random
    this.#stream = stream
    this.#id = `producer of ${stream.name}`
    this.#left = records
  }

  get done(): boolean {
    return this.#left === 0
  }

  /** Sends all of its records, spread over about that time. */
  async run(withinMs: number): Promise<void> {
    const { scheduler } = this.#world
    const pauseMs = withinMs / this.#left
    for (let sequence = 0n; this.#left > 0; sequence += 1n) {
      await scheduler.wait(this.#random.between(0, 2) * pauseMs)
      await this.#send(this.#world.nextRecord(), sequence)
      this.#left -= 1
    }
  }

  async #send(n: number, sequence: bigint): Promise<void> {
    const { scheduler, oracle, trace } = this.#world
    const conditional = this.#random.chance(0.4)
    for (;;) {
      const ifTail = conditional ? this.#tail : null
      const producer = { id: this.#id, sequence }
      const ack = await this.#attempt(n, { producer, ifTail, fence: null, togetherBytes: null })
      if (ack !== null) {
        const expected = ifTail === 'empty' ? 0n : ifTail === null ? ack.sequenceId : ifTail + 1n
        if (!ack.duplicate && ack.sequenceId !== expected)
          trace.violate(2, `record ${n} was to follow on ${ifTail} and has sequenceId ${ack.sequenceId}`)
        oracle.produced(ack, ifTail !== null)
        this.#tail = ack.sequenceId
        return
      }
      await scheduler.wait(this.#random.between(100, 3_000))
    }
  }

  /** The acknowledgement, or null where it failed, was refused, or nobody answers. */
  async #attempt(n: number, conditions: AppendConditions): Promise<Ack | null> {
    const { scheduler, clients } = this.#world
    const client = this.#random.pick(clients)
    let given = false
    const late = scheduler.wait(PATIENCE_MS).then(() => {
      given = true
      return null
    })
    const asked = client.appendIf(this.#stream, n, conditions).catch((error: unknown) => {
      const tail = isStratalogError(error, 'conflict') ? error.found : null
      // What is told to somebody who went away is not heard.
      if (!given && (typeof tail === 'bigint' || tail === 'empty')) this.#tail = tail
      return null
    })
    const ack = await Promise.race([asked, late])
    return this.#random.chance(UNHEARD) ? null : ack
  }
}
