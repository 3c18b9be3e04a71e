import { lookup as resolveName } from 'node:dns'
import { Agent as HttpAgent, request } from 'node:http'
import { Agent as HttpsAgent } from 'node:https'
import { BlockList, isIP, type LookupFunction, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { rootCertificates, connect as secure } from 'node:tls'
import { StratalogError } from '../../src/model/errors.js'
import type { S3Place } from './settings.js'

/*
 * Connections to a store: kept alive, to no link-local address unless that is allowed, through a proxy where there is
 * one. At 169.254.169.254 clouds hand out the credentials of the machine: an endpoint that somebody else may set must
 * not become a way to ask there, whether it says so or its name resolves to it.
 */

const linkLocal = new BlockList()
linkLocal.addSubnet('169.254.0.0', 16, 'ipv4')
linkLocal.addSubnet('fe80::', 10, 'ipv6')
// Where AWS and Google answer the same over IPv6: unique local addresses, and as little an archive.
linkLocal.addSubnet('fd00:ec2::', 32, 'ipv6')
linkLocal.addSubnet('fd20:ce::', 32, 'ipv6')

/** Whether an address (not a name) is link-local, also as IPv4 written in IPv6. */
export function isLinkLocal(address: string): boolean {
  const plain = address.replace(/^\[|\]$/g, '').replace(/%.*$/, '')
  const family = isIP(plain)
  return family !== 0 && linkLocal.check(plain, family === 4 ? 'ipv4' : 'ipv6')
}

/** What is thrown where a store would be asked at a link-local address. */
export function linkLocalRefused(location: string, host: string): StratalogError {
  return new StratalogError(
    'refused',
    `archive ${location}: ${host} is a link-local address, where clouds keep credentials and no archive is: correct the endpoint, or set allowLinkLocal if it is meant`,
    { found: host },
  )
}

/** Looks names up as ever, and refuses one that leads to a link-local address. */
function guardedLookup(location: string): LookupFunction {
  return (hostname, options, callback) => {
    resolveName(hostname, { ...options, all: true }, (error, addresses) => {
      if (error !== null) return callback(error, [])
      const refused = addresses.find(({ address }) => isLinkLocal(address))
      if (refused !== undefined)
        return callback(linkLocalRefused(location, `${hostname} (${refused.address})`), [])
      const [first] = addresses
      if (options.all === true || first === undefined) return callback(null, addresses)
      callback(null, first.address, first.family)
    })
  }
}

/** The agents that make a store's connections. */
export function agentsFor(
  place: S3Place,
  ca: string | null,
): { httpAgent: HttpAgent; httpsAgent: HttpsAgent } {
  const options = {
    keepAlive: true,
    // What bounds requests is the limit above; a socket more than that waits for nobody.
    maxSockets: place.concurrency + 4,
    ...(place.allowLinkLocal ? {} : { lookup: guardedLookup(place.location) }),
    ...(ca === null ? {} : { ca: [...rootCertificates, ca] }),
  }
  if (place.proxy === null) return { httpAgent: new HttpAgent(options), httpsAgent: new HttpsAgent(options) }
  return {
    httpAgent: new TunnelAgent(options, place.proxy),
    httpsAgent: new SecureTunnelAgent(options, place.proxy),
  }
}

type Reached = (error: Error | null, socket: Socket | null) => void
type Connected = (error: Error | null, stream: Duplex) => void
/** What Node hands an agent with a request; not all of it is in the types. */
type Target = { host?: string | null; port?: number | string | null; servername?: string }

/** Plain HTTP through a tunnel of the proxy. */
class TunnelAgent extends HttpAgent {
  readonly #proxy: URL

  constructor(options: ConstructorParameters<typeof HttpAgent>[0], proxy: URL) {
    super(options)
    this.#proxy = proxy
  }

  override createConnection(target: Target, connected?: Connected): undefined {
    tunnel(
      this.#proxy,
      target,
      connectedWith(connected, (socket) => socket),
    )
  }
}

/** TLS with the store itself, inside the tunnel: the proxy sees names and sizes only. */
class SecureTunnelAgent extends HttpsAgent {
  readonly #proxy: URL

  constructor(options: ConstructorParameters<typeof HttpsAgent>[0], proxy: URL) {
    super(options)
    this.#proxy = proxy
  }

  override createConnection(target: Target, connected?: Connected): undefined {
    const securely = (socket: Socket) =>
      secure({ ...target, host: target.host ?? '', port: Number(target.port), socket })
    tunnel(this.#proxy, target, connectedWith(connected, securely))
  }
}

/** Node gives either an error or a stream; its types ask for both. */
function connectedWith(connected: Connected | undefined, over: (socket: Socket) => Duplex): Reached {
  return (error, socket) => {
    if (socket === null) connected?.(error, undefined as unknown as Duplex)
    else connected?.(null, over(socket))
  }
}

function tunnel(proxy: URL, target: Target, reached: Reached): void {
  const host = target.host ?? ''
  const path = `${host.includes(':') ? `[${host}]` : host}:${target.port ?? 443}`
  const credentials = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`
  const asking = request({
    host: proxy.hostname,
    port: proxy.port === '' ? 80 : proxy.port,
    method: 'CONNECT',
    path,
    agent: false,
    headers: {
      host: path,
      ...(proxy.username === ''
        ? {}
        : { 'proxy-authorization': `Basic ${Buffer.from(credentials).toString('base64')}` }),
    },
  })
  let settled = false
  const settle: Reached = (error, socket) => {
    if (settled) return
    settled = true
    reached(error, socket)
  }
  asking.once('connect', ({ statusCode }, socket) => {
    if (statusCode === 200) return settle(null, socket)
    socket.destroy()
    settle(proxyRefused(proxy, path, `answered ${statusCode}`), null)
  })
  asking.once('response', ({ statusCode }) =>
    settle(proxyRefused(proxy, path, `answered ${statusCode}`), null),
  )
  asking.once('error', (error) => settle(proxyRefused(proxy, path, error.message), null))
  // Whoever gave up waiting for the connection is not told of it; the proxy gets no longer than that either.
  asking.setTimeout(30_000, () => asking.destroy(new Error('no answer for 30 s')))
  asking.end()
}

function proxyRefused(proxy: URL, path: string, why: string): Error {
  return Object.assign(new Error(`the proxy ${proxy.host} made no tunnel to ${path}: ${why}`), {
    code: 'ECONNREFUSED',
  })
}
