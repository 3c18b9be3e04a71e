import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'

const LOWEST = 10_240
const TRIES_MAX = 1000

/** The first port that the system gives to outgoing connections. */
function ephemeralFrom(): number {
  try {
    return Number(readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8').split(/\s+/)[0])
  } catch {
    return 32_768
  }
}

/**
 * Ports of 127.0.0.1 that nobody listens on, below those of outgoing connections: else a connection of any test could
 * take the port of a server that is down for a moment.
 */
export async function freePorts(count: number): Promise<number[]> {
  const below = Math.max(LOWEST + 1000, ephemeralFrom())
  const ports = new Set<number>()
  for (let tries = 0; ports.size < count; tries++) {
    if (tries === TRIES_MAX) throw new Error(`no ${count} free ports between ${LOWEST} and ${below}`)
    const port = LOWEST + Math.floor(Math.random() * (below - LOWEST))
    if (!ports.has(port) && (await isFree(port))) ports.add(port)
  }
  return [...ports]
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer()
  try {
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    return true
  } catch {
    return false
  } finally {
    server.close()
  }
}
