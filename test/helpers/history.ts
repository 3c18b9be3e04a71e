import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { isStratalogError } from '../../src/model/errors.js'
import type { Ack } from '../../src/model/record.js'
import type { Stream } from '../../src/stream.js'

/** One process that appends records of its own, and what it was told of each. */
export class Appender {
  /** Acknowledged payloads, with where they are. */
  readonly acked: Map<string, Ack> = new Map()
  /** Codes of the appends that failed. */
  readonly refused: string[] = []
  readonly #stream: Stream
  readonly #name: string
  #next = 0

  constructor(stream: Stream, name: string) {
    this.#stream = stream
    this.#name = name
  }

  /** Appends some records together; how many were acknowledged. Whether one may fail is for the test to say. */
  async append(count: number): Promise<number> {
    const before = this.acked.size
    await Promise.all(
      Array.from({ length: count }, async () => {
        const payload = `${this.#name} ${this.#next++}`
        try {
          this.acked.set(payload, await this.#stream.append(payload))
        } catch (error) {
          if (!isStratalogError(error)) throw error
          this.refused.push(error.code)
        }
      }),
    )
    return this.acked.size - before
  }
}

const TRIES_MAX = 100

/**
 * Invariants 1, 2 and 3 as one reader sees them: every acknowledged record once, where its acknowledgement said, in order.
 * Of a segment that is being written a reader sees what it heard to be confirmed, so it is given some time. The payloads.
 */
export async function checkHistory(stream: Stream, appenders: readonly Appender[]): Promise<string[]> {
  const acked = appenders.flatMap((appender) => [...appender.acked])
  for (let tries = 1; ; tries++) {
    const found = await historyOf(stream)
    const missing = acked.filter(([text]) => !found.has(text))
    if (missing.length > 0 && tries < TRIES_MAX) {
      await sleep(50)
      continue
    }
    for (const [text, { dlsn }] of acked)
      assert.equal(found.get(text), String(dlsn), `${text} was acknowledged`)
    return [...found.keys()]
  }
}

async function historyOf(stream: Stream): Promise<Map<string, string>> {
  const found = new Map<string, string>()
  for await (const { dlsn, payload } of stream.read()) {
    const text = Buffer.from(payload).toString()
    // A record whose outcome nobody knew may be there, too: once as any other.
    assert.ok(!found.has(text), `${text} is there twice: ${found.get(text)} and ${dlsn}`)
    found.set(text, String(dlsn))
  }
  return found
}
