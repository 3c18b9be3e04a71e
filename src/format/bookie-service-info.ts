import type { Schema } from './protobuf.js'
import { decodeMessage, integer, messages, text } from './protobuf.js'

/*
 * What a bookie says of itself in its node of ZooKeeper (BookieServiceInfoFormat), as far as it is looked at: where
 * it takes BookKeeper's protocol. Bookies of old leave the node empty: there the id is `host:port`.
 */

const ENDPOINT: Schema = [
  { no: 1, name: 'id', kind: 'string' },
  { no: 2, name: 'port', kind: 'int32' },
  { no: 3, name: 'host', kind: 'string' },
  { no: 4, name: 'protocol', kind: 'string' },
]
const SERVICE_INFO: Schema = [{ no: 6, name: 'endpoint', kind: { fields: ENDPOINT } }]
const PROTOCOL = 'bookie-rpc'
const ID = /^(?<host>[^:]+):(?<port>\d{1,5})$/

/** Where a bookie listens. */
export interface BookieAddress {
  readonly host: string
  readonly port: number
}

/** The address in a bookie's node, else that in its id, else null. Throws `corrupt` for bytes that are no such node. */
export function bookieAddress(id: string, node: Uint8Array): BookieAddress | null {
  const endpoints = node.length === 0 ? [] : messages(decodeMessage(SERVICE_INFO, node), 'endpoint')
  const rpc = endpoints.find((endpoint) => text(endpoint, 'protocol') === PROTOCOL)
  if (rpc !== undefined) {
    const [host, port] = [text(rpc, 'host'), Number(integer(rpc, 'port') ?? 0n)]
    if (host !== undefined && isPort(port)) return { host, port }
  }
  return addressInId(id)
}

function addressInId(id: string): BookieAddress | null {
  const { host, port } = ID.exec(id)?.groups ?? {}
  return host !== undefined && isPort(Number(port)) ? { host, port: Number(port) } : null
}

function isPort(port: number): boolean {
  return Number.isInteger(port) && port > 0 && port <= 65_535
}
