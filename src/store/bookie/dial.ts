import { connect, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { corrupt } from '../../format/bytes.js'
import { StratalogError } from '../../model/errors.js'
import { FrameReader } from './frames.js'
import { rareFrame } from './requests.js'
import { decodeResponse } from './responses.js'
import type { BookieAddress, BookiePorts, BookieSettings, BookieTls } from './settings.js'
import { STATUS, statusError } from './status.js'

/** What comes is read in pieces of this size at most. */
const READ_BYTES = 256 * 1024
/** Keeps a way open through whatever forgets silent connections, and finds out that the other machine is gone. */
const KEEP_ALIVE_MS = 30_000

/**
 * Connects to a bookie, with TLS where that is asked for; what `data` tells of is valid during the call only. Rejects with `store_unavailable` (retryable), `timeout`, or
 * `access_denied` where the two do not accept each other's certificates.
 */
export async function dial(
  address: BookieAddress,
  settings: BookieSettings,
  ports: BookiePorts,
): Promise<Socket> {
  const { host, port } = address
  const { connectTimeoutMs, tls } = settings
  const socket = connect({
    ...{ host, port, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEP_ALIVE_MS },
    // TLS reads by itself, and into buffers of its own.
    ...(tls === null ? { onread: { buffer: Buffer.allocUnsafeSlow(READ_BYTES), callback: received } } : {}),
  })
  // One buffer for all that comes: one for each piece would have the heap collected twice as often.
  function received(sizeBytes: number, buffer: Uint8Array): boolean {
    socket.emit('data', buffer.subarray(0, sizeBytes))
    return true
  }
  return new Promise((resolve, reject) => {
    // Where this process stood still, timers come before the connection that has been there for long: it has one turn.
    let connected = false
    const tooLate = (): void => {
      const message = `bookie ${address.id} at ${host}:${port} took no connection within ${connectTimeoutMs} ms`
      if (!connected) end(new StratalogError('timeout', message, { retryable: true }))
    }
    const timer = ports.clock.setTimer(connectTimeoutMs, () => {
      setImmediate(tooLate)
    })
    const end = (error: StratalogError): void => {
      timer.cancel()
      socket.destroy()
      reject(error)
    }
    const failed = (cause: Error): void => end(unreachable(address, cause))
    const closed = (): void => end(unreachable(address, new Error('it closed the connection')))
    socket.on('error', failed)
    socket.on('close', closed)
    socket.once('connect', () => {
      const secured = tls === null ? Promise.resolve(socket) : startTls(socket, address, tls, settings)
      secured.then((ready) => {
        connected = true
        timer.cancel()
        socket.off('error', failed)
        socket.off('close', closed)
        resolve(ready)
      }, end)
    })
  })
}

/** Asks in clear to go on with TLS, and does (FORMATS.md §1.6). */
async function startTls(
  socket: Socket,
  address: BookieAddress,
  tls: BookieTls,
  settings: BookieSettings,
): Promise<Socket> {
  await tlsAgreed(socket, address, settings.frameBytesMax)
  const { ca, cert, key, serverName } = tls
  return new Promise((resolve, reject) => {
    const secure = connectTls({
      socket,
      host: address.host,
      // An address is no server name; the certificate is checked against the host then.
      ...(serverName === undefined ? {} : { servername: serverName }),
      ...(ca === undefined ? {} : { ca }),
      ...(cert === undefined ? {} : { cert }),
      ...(key === undefined ? {} : { key }),
    })
    const failed = (cause: Error): void => {
      const message = `bookie ${address.id} and this program do not accept each other over TLS: ${cause.message}`
      reject(new StratalogError('access_denied', message, { cause }))
    }
    secure.once('error', failed)
    secure.once('secureConnect', () => {
      secure.off('error', failed)
      resolve(secure)
    })
  })
}

function tlsAgreed(socket: Socket, address: BookieAddress, frameBytesMax: number): Promise<void> {
  const frames = new FrameReader(frameBytesMax)
  return new Promise((resolve, reject) => {
    let answered = false
    const received = (chunk: Buffer): void => {
      try {
        frames.push(chunk, (buffer, at, end) => {
          if (answered) throw corrupt('more than one answer to START_TLS')
          answered = true
          const { operation, status } = decodeResponse(buffer, at, end)
          if (operation !== 'startTls') throw corrupt(`an answer to START_TLS is one to ${operation}`)
          if (status !== STATUS.ok) throw statusError(status, address.id, 'TLS')
        })
        if (!answered) return
        if (!frames.between) throw corrupt('bytes in clear stand behind the answer to START_TLS')
        socket.off('data', received)
        socket.pause()
        resolve()
      } catch (error) {
        socket.off('data', received)
        reject(
          error instanceof StratalogError && error.code !== 'corrupt' ? error : unreachable(address, error),
        )
      }
    }
    socket.on('data', received)
    socket.write(rareFrame(0, { operation: 'startTls' }))
  })
}

function unreachable(address: BookieAddress, cause: unknown): StratalogError {
  const why = cause instanceof Error ? cause.message : String(cause)
  const { id, host, port } = address
  return new StratalogError('store_unavailable', `bookie ${id} at ${host}:${port} can't be reached: ${why}`, {
    cause,
    retryable: true,
  })
}
