import type { StratalogError } from '../../model/errors.js'
import { BookieConnection } from './connection.js'
import { dial } from './dial.js'
import type { BookieAddress, BookiePorts, BookieSettings } from './settings.js'

/**
 * A way to a bookie that mends itself: it connects when it is needed, and after a failure not before a pause, which
 * doubles and is jittered so that not everybody comes back at once. Until then requests fail at once, so that the ledger
 * goes on with other stores instead of waiting for this one.
 */
export class BookieLink {
  readonly #address: BookieAddress
  readonly #settings: BookieSettings
  readonly #ports: BookiePorts
  #connection: BookieConnection | null = null
  #dialing: Promise<BookieConnection> | null = null
  #closed: StratalogError | null = null
  /** Why there is no connection, and until when none is tried. */
  #failure: StratalogError | null = null
  #pauseMs: number
  #againMs = 0

  constructor(address: BookieAddress, settings: BookieSettings, ports: BookiePorts) {
    this.#address = address
    this.#settings = settings
    this.#ports = ports
    this.#pauseMs = settings.reconnectMs
  }

  /** The connection, if there is one right now. */
  get connection(): BookieConnection | null {
    return this.#connection
  }

  /** Why the last connection failed; null while there is one, or none was tried. */
  get failure(): StratalogError | null {
    return this.#connection === null ? this.#failure : null
  }

  /** The connection, made if there is none. */
  connect(): Promise<BookieConnection> {
    if (this.#closed !== null) return Promise.reject(this.#closed)
    if (this.#connection !== null) return Promise.resolve(this.#connection)
    if (this.#dialing !== null) return this.#dialing
    if (this.#failure !== null && this.#ports.clock.monotonicMs() < this.#againMs) {
      return Promise.reject(this.#failure)
    }
    const dialing = this.#dial().finally(() => {
      this.#dialing = null
    })
    this.#dialing = dialing
    return dialing
  }

  /** Ends it for good once no add is on its way; whatever else waits fails with `closed`. */
  async close(closed: StratalogError): Promise<void> {
    this.#closed = closed
    await this.#dialing?.catch(() => {})
    const connection = this.#connection
    if (connection === null) return
    await connection.drained()
    connection.end(closed)
  }

  async #dial(): Promise<BookieConnection> {
    try {
      const socket = await dial(this.#address, this.#settings, this.#ports)
      const connection = new BookieConnection(this.#address.id, socket, this.#settings, this.#ports, {
        answered: () => {
          this.#pauseMs = this.#settings.reconnectMs
        },
        ended: (error) => this.#ended(error),
      })
      this.#connection = connection
      this.#ports.logger.debug({ bookie: this.#address.id }, 'connected to a bookie')
      return connection
    } catch (error) {
      this.#failed(error as StratalogError)
      throw error
    }
  }

  #ended(error: StratalogError): void {
    this.#connection = null
    if (this.#closed !== null) return
    this.#failed(error)
  }

  #failed(error: StratalogError): void {
    this.#failure = error
    const jitter = 0.5 + this.#ports.random.fraction()
    this.#againMs = this.#ports.clock.monotonicMs() + this.#pauseMs * jitter
    this.#pauseMs = Math.min(this.#settings.reconnectMsMax, this.#pauseMs * 2)
    this.#ports.logger.warn({ err: error, bookie: this.#address.id }, 'no connection to a bookie')
  }
}
