import { StratalogError } from '../model/errors.js'
import type { ZkSession, ZooKeeper, ZooKeeperSettings } from './client.js'
import type { Address } from './connection.js'
import { loadNative, NativeSession } from './native.js'
import { RenewingZooKeeper } from './renewing.js'
import { SocketSession, type ZooKeeperPorts } from './session.js'

const PORT = 2181
const SERVER = /^(?:\[(?<six>[0-9a-fA-F:.]+)\]|(?<host>[^\s:[\]/]+))(?::(?<port>\d{1,5}))?$/

/** Opens ZooKeeper: a first session within `connectTimeoutMs`, and the next one whenever one is lost. */
export async function openZooKeeper(settings: ZooKeeperSettings, ports: ZooKeeperPorts): Promise<ZooKeeper> {
  const servers = settings.servers.map(parseServer)
  if (servers.length === 0)
    throw new StratalogError('config_invalid', 'no server of ZooKeeper is named: write zk://host:2181/path')
  const open = (signal?: AbortSignal): Promise<ZkSession> =>
    SocketSession.open(settings, servers, ports, signal)
  const socket = new RenewingZooKeeper(await open(), open)
  return settings.client === 'native' ? native(socket, settings, ports) : socket
}

/** The native client for everything but multi, which stays with the socket. */
async function native(
  socket: ZooKeeper,
  settings: ZooKeeperSettings,
  ports: ZooKeeperPorts,
): Promise<ZooKeeper> {
  try {
    const client = loadNative()
    const open = (signal?: AbortSignal): Promise<ZkSession> =>
      NativeSession.open(settings, client, socket, ports, signal)
    return new RenewingZooKeeper(await open(), open, () => socket.close())
  } catch (error) {
    await socket.close()
    throw error
  }
}

/** `host`, `host:port`, `[2001:db8::1]:port`. */
export function parseServer(server: string): Address {
  const { six, host, port } = SERVER.exec(server.trim())?.groups ?? {}
  const name = six ?? host
  const number = port === undefined ? PORT : Number(port)
  if (name === undefined || number < 1 || number > 65_535) {
    throw new StratalogError('config_invalid', `${JSON.stringify(server)} is no server: write host:port`)
  }
  return { host: name, port: number }
}
