import { randomUUID } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { pathOf } from './cache.js'
import { freePorts } from './ports.js'
import { answers, Household, withRetry } from './process.js'
import { ACCESS_KEY, makeBucket, REGION, type S3Server, SECRET_KEY } from './s3.js'

/** The device of the only OSD is a sparse file: this much may be written to it. */
const DEVICE_BYTES = 8 * 2 ** 30

/**
 * Starts Ceph's object gateway on a cluster of one monitor and one OSD: 13 to 16 s. `kill`, `stop` and `restart` are of
 * the gateway.
 */
export function startCeph(): Promise<S3Server> {
  return withRetry(start)
}

async function start(): Promise<S3Server> {
  const programs = await pathOf('ceph')
  const [port = 0, monitorPort = 0, olderPort = 0] = await freePorts(3)
  const house = new Household('ceph')
  const cluster = new CephCluster(house, programs, { port, monitorPort, olderPort })
  const endpoint = `http://127.0.0.1:${port}`
  try {
    await cluster.startMonitor()
    await cluster.startOsd()
    let gateway = await cluster.startGateway(endpoint)
    cluster.makeUser()
    return {
      endpoint,
      region: REGION,
      accessKey: ACCESS_KEY,
      secretKey: SECRET_KEY,
      makeBucket: (name) => makeBucket(endpoint, name),
      kill: () => gateway.kill(),
      stop: () => gateway.signal('SIGSTOP'),
      cont: () => gateway.signal('SIGCONT'),
      restart: async () => {
        await gateway.kill()
        gateway = await cluster.startGateway(endpoint)
      },
      close: () => house.close(),
    }
  } catch (error) {
    await house.close()
    throw error
  }
}

interface CephPorts {
  readonly port: number
  readonly monitorPort: number
  readonly olderPort: number
}

class CephCluster {
  readonly #house: Household
  readonly #programs: string
  readonly #fsid: string = randomUUID()
  readonly #ports: CephPorts
  readonly #config: string

  constructor(house: Household, programs: string, ports: CephPorts) {
    this.#house = house
    this.#programs = programs
    this.#ports = ports
    this.#config = this.#at('ceph.conf')
    for (const name of ['mon', 'osd', 'rgw', 'sock']) mkdirSync(this.#at(name))
    writeFileSync(this.#config, configText(house.directory, this.#fsid, this.#monitor(), ports.port))
  }

  async startMonitor(): Promise<void> {
    const { keyring, map } = { keyring: this.#at('keyring'), map: this.#at('monmap') }
    this.#run(
      'ceph-authtool',
      '--create-keyring',
      keyring,
      '--gen-key',
      '-n',
      'mon.',
      '--cap',
      'mon',
      'allow *',
    )
    const caps = ['mon', 'osd', 'mgr'].flatMap((name) => ['--cap', name, 'allow *'])
    this.#run('ceph-authtool', keyring, '--gen-key', '-n', 'client.admin', ...caps)
    const place = ['--fsid', this.#fsid, '--addv', 'a', this.#monitor().replaceAll('/0', '')]
    this.#run('monmaptool', '--create', '--clobber', ...place, map)
    const made = ['--mkfs', '-i', 'a', '--monmap', map, '--keyring', keyring]
    this.#run('ceph-mon', '-c', this.#config, ...made)
    this.#begin('ceph-mon', '-i', 'a')
    await this.#house.until('the monitor', () => listens(this.#ports.monitorPort))
  }

  async startOsd(): Promise<void> {
    const uuid = randomUUID()
    this.#run('ceph', '-c', this.#config, 'osd', 'new', uuid, '0')
    this.#run('ceph-osd', '-c', this.#config, '-i', '0', '--mkfs', '--osd-uuid', uuid)
    // The OSD puts itself into the map of devices when it starts: nothing waits for it here, the gateway does.
    this.#begin('ceph-osd', '-i', '0')
  }

  async startGateway(endpoint: string): Promise<ReturnType<Household['start']>> {
    const gateway = this.#begin('radosgw', '-n', 'client.rgw')
    await this.#house.until('radosgw', () => answers(endpoint))
    return gateway
  }

  makeUser(): void {
    const keys = ['--access-key', ACCESS_KEY, '--secret-key', SECRET_KEY]
    const user = ['user', 'create', '--uid=test', '--display-name=test', ...keys]
    this.#run('radosgw-admin', '-c', this.#config, '-n', 'client.admin', ...user)
  }

  #monitor(): string {
    const { monitorPort, olderPort } = this.#ports
    return `[v2:127.0.0.1:${monitorPort}/0,v1:127.0.0.1:${olderPort}/0]`
  }

  #at(name: string): string {
    return join(this.#house.directory, name)
  }

  #begin(program: string, ...args: string[]): ReturnType<Household['start']> {
    return this.#house.start(program, [join(this.#programs, program), '-c', this.#config, '-f', ...args])
  }

  #run(program: string, ...args: string[]): string {
    return this.#house.run([join(this.#programs, program), ...args], 90_000)
  }
}

/** No authentication between the daemons; without it there is no secure mode, and radosgw asks for nothing else. */
function configText(directory: string, fsid: string, monitor: string, port: number): string {
  return `[global]
fsid = ${fsid}
mon_host = ${monitor}
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
mon_warn_on_pool_no_redundancy = false
log_file = ${directory}/log/$name.own.log
admin_socket = ${directory}/sock/$name.asok
run_dir = ${directory}/sock
setuser_match_path =
keyring = ${directory}/keyring
[mon.a]
mon_data = ${directory}/mon
mon_initial_members = a
[osd.0]
osd_data = ${directory}/osd
osd_journal =
osd_objectstore = bluestore
bluestore_block_path =
bluestore_block_size = ${DEVICE_BYTES}
bluestore_block_db_create = false
bluestore_block_wal_create = false
osd_memory_target = 1073741824
osd_class_load_list = *
osd_class_default_list = *
osd_max_object_size = 134217728
osd_crush_initial_weight = 1
[client.rgw]
ms_mon_client_mode = crc secure
rgw_data = ${directory}/rgw
rgw_frontends = beast endpoint=127.0.0.1:${port} tcp_nodelay=1
rgw_enable_usage_log = false
rgw_enable_ops_log = false
rgw_dns_name = localhost
`
}

async function listens(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject))
    return true
  } finally {
    socket.destroy()
  }
}
