import { BlockList, isIP, isIPv4, isIPv6 } from 'node:net'
import { RedirectRefused } from './errors.js'
import type { HdfsPlace } from './settings.js'

/*
 * Where a NameNode may send us. It is asked over a network that others may be on, and what follows its answer is a PUT
 * of our data: to an address of our own machine or of a cloud's metadata service if nobody looks. So, by default, only to
 *
 *   1. the hosts of the NameNodes as they are named in location and settings;
 *   2. names in the domain of one of those: the name without its first part, if that still has a dot;
 *      names without a dot where a NameNode is named without one too;
 *   3. addresses in the network of the NameNode that answered: 127.0.0.0/8 for a loopback address, /16 within the
 *      private ranges (racks often have a /24 each), else /24; /64 for IPv6. `localhost` counts as a loopback address.
 *
 * Link-local addresses only where `allowedHosts` names them. `allowedHosts` takes the place of 2 and 3.
 */

/** Decides about redirects. */
export class RedirectRule {
  readonly #place: HdfsPlace
  readonly #allowed: readonly string[] | null

  constructor(place: HdfsPlace) {
    this.#place = place
    this.#allowed = place.settings.allowedHosts?.map((host) => host.toLowerCase()) ?? null
  }

  /**
   * The URL of a redirect, or `RedirectRefused`. `peer`: the address of the NameNode that answered.
   */
  check(location: string | undefined, peer: string | null, base: URL): URL {
    const url = location !== undefined && URL.canParse(location, base.href) ? new URL(location, base) : null
    if (url === null) throw new RedirectRefused('a redirect without a place to go')
    const wanted = this.#place.https ? 'https:' : 'http:'
    if (url.protocol !== wanted) {
      throw new RedirectRefused(`a redirect to ${url.protocol}//${url.host}, where ${wanted} is spoken`)
    }
    if (!url.pathname.startsWith('/webhdfs/v1/') || url.username !== '' || url.password !== '') {
      throw new RedirectRefused(`a redirect to something on ${url.host} that is not WebHDFS`)
    }
    if (!this.#isAllowed(bare(url.hostname), peer)) {
      throw new RedirectRefused(`a redirect to ${url.host}, which is not known to be of this cluster`)
    }
    return url
  }

  #isAllowed(host: string, peer: string | null): boolean {
    const own = this.#place.namenodes.map((node) => node.host)
    if (own.includes(host)) return true
    if (this.#allowed !== null) return this.#allowed.some((pattern) => matches(pattern, host))
    const known = [...own, ...(peer === null ? [] : [unmapped(peer)])]
    // What a cluster on one machine calls its DataNode, whatever its NameNode was called.
    if (host === 'localhost') return known.some((name) => name === '::1' || sameNetwork(name, '127.0.0.1'))
    if (isIP(host) === 0) return own.some((name) => sameDomain(name, host))
    return known.some((name) => sameNetwork(name, host))
  }
}

/** Without the brackets that a URL puts around an IPv6 address. */
function bare(hostname: string): string {
  return unmapped(hostname.replace(/^\[(.*)\]$/, '$1').toLowerCase())
}

/** An IPv4 address as such, also where a socket of both families tells it. */
function unmapped(address: string): string {
  return address.startsWith('::ffff:') && isIPv4(address.slice(7)) ? address.slice(7) : address
}

/** A name or address, `*.domain`, or `network/bits`. */
function matches(pattern: string, host: string): boolean {
  if (pattern.startsWith('*.')) return isIP(host) === 0 && host.endsWith(pattern.slice(1))
  const [network = '', bits] = pattern.split('/')
  if (bits === undefined) return network === host
  return isIP(host) !== 0 && isIP(network) === isIP(host) && inNetwork(network, Number(bits), host)
}

function sameDomain(name: string, host: string): boolean {
  if (isIP(name) !== 0) return false
  if (!host.includes('.')) return !name.includes('.') && host !== 'localhost'
  const domain = name.slice(name.indexOf('.') + 1)
  return name.includes('.') && domain.includes('.') && host.endsWith(`.${domain}`)
}

function sameNetwork(known: string, host: string): boolean {
  if (isIP(known) !== isIP(host) || isIP(known) === 0) return false
  if (isIPv6(known)) return !/^fe[89ab]/.test(host) && inNetwork(known, 64, host)
  if (host.startsWith('169.254.')) return false
  if (known.startsWith('127.')) return host.startsWith('127.')
  const isPrivate = /^(10|192\.168|172\.(1[6-9]|2\d|3[01]))\./.test(known)
  return inNetwork(known, isPrivate ? 16 : 24, host)
}

function inNetwork(network: string, bits: number, host: string): boolean {
  const family = isIPv4(network) ? 'ipv4' : 'ipv6'
  if (!Number.isInteger(bits) || bits < 0 || bits > (family === 'ipv4' ? 32 : 128)) return false
  const list = new BlockList()
  list.addSubnet(network, bits, family)
  return list.check(host, family)
}
