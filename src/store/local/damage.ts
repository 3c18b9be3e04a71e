import type { Logger } from '../../ports/logger.js'
import type { LogFile } from './log-file.js'

/** Places that are told apart; beyond them damage is counted no more, but still refused. */
const PLACES_MAX = 65_536

/** Durable bytes that no longer parse: what start found, and what reads came upon since. */
export class Damage {
  readonly #logger: Logger
  readonly #places = new Set<string>()
  #bytes: number

  constructor(foundAtStart: number, logger: Logger) {
    this.#bytes = foundAtStart
    this.#logger = logger
  }

  get bytes(): number {
    return this.#bytes
  }

  /** A frame that the index points to is not what it was. What start counted in the same file is not counted again. */
  found(file: LogFile, offset: number, bytes: number): void {
    const place = `${file.generation}:${offset}`
    if (file.damaged || this.#places.has(place) || this.#places.size >= PLACES_MAX) return
    this.#places.add(place)
    this.#bytes += bytes
    this.#logger.error({ path: file.path, offset, bytes }, 'durable bytes are damaged')
  }
}
