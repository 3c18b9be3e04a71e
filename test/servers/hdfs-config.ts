import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** How a cluster is laid out on 127.0.0.1. */
export interface HdfsLayout {
  readonly directory: string
  readonly rpcPort: number
  readonly httpPort: number
  readonly datanodes: readonly DatanodePorts[]
  readonly blockBytes: number
  readonly replication: number
  readonly user: string
}

/** Where one DataNode listens; `data` is what `excludedatanodes` names. */
export interface DatanodePorts {
  readonly data: number
  readonly http: number
  readonly ipc: number
}

type Properties = Readonly<Record<string, string | number | boolean>>

/** Writes the configuration of the NameNode and of each DataNode. */
export function writeHdfsConfig(layout: HdfsLayout): void {
  const { directory } = layout
  // The jar has no webapps/ and the daemons refuse to start without; empty ones do: REST and /jmx need none.
  for (const name of ['hdfs', 'datanode', 'webhdfs', 'static']) {
    const place = join(directory, 'web', 'webapps', name, 'WEB-INF')
    mkdirSync(place, { recursive: true })
    writeFileSync(
      join(place, 'web.xml'),
      '<web-app xmlns="http://java.sun.com/xml/ns/javaee" version="2.4"/>\n',
    )
  }
  writeOne(layout, 'nn', {})
  for (const [i, ports] of layout.datanodes.entries()) {
    writeOne(layout, `dn${i}`, {
      'dfs.datanode.data.dir': `file://${join(directory, `dn${i}`)}`,
      'dfs.datanode.address': `127.0.0.1:${ports.data}`,
      'dfs.datanode.http.address': `127.0.0.1:${ports.http}`,
      'dfs.datanode.ipc.address': `127.0.0.1:${ports.ipc}`,
    })
  }
}

function writeOne(layout: HdfsLayout, name: string, more: Properties): void {
  const place = join(layout.directory, 'conf', name)
  mkdirSync(place, { recursive: true })
  writeFileSync(join(place, 'core-site.xml'), xml(coreSite(layout)))
  writeFileSync(join(place, 'hdfs-site.xml'), xml({ ...hdfsSite(layout), ...more }))
  writeFileSync(
    join(place, 'log4j.properties'),
    [
      'log4j.rootLogger=WARN,A',
      'log4j.appender.A=org.apache.log4j.ConsoleAppender',
      'log4j.appender.A.layout=org.apache.log4j.PatternLayout',
      'log4j.appender.A.layout.ConversionPattern=%d{ISO8601} %p %c{2}: %m%n',
    ].join('\n'),
  )
}

function coreSite({ directory, rpcPort, user }: HdfsLayout): Properties {
  return {
    'fs.defaultFS': `hdfs://127.0.0.1:${rpcPort}`,
    'hadoop.tmp.dir': join(directory, 'tmp'),
    'hadoop.http.staticuser.user': user,
    [`hadoop.proxyuser.${user}.hosts`]: '*',
    [`hadoop.proxyuser.${user}.groups`]: '*',
  }
}

function hdfsSite(layout: HdfsLayout): Properties {
  return {
    'dfs.namenode.name.dir': `file://${join(layout.directory, 'name')}`,
    'dfs.namenode.rpc-address': `127.0.0.1:${layout.rpcPort}`,
    'dfs.namenode.http-address': `127.0.0.1:${layout.httpPort}`,
    'dfs.replication': layout.replication,
    'dfs.blocksize': layout.blockBytes,
    'dfs.namenode.fs-limits.min-block-size': 4096,
    'dfs.webhdfs.enabled': true,
    // A page of a listing: several of them with few files.
    'dfs.ls.limit': 50,
    'dfs.namenode.safemode.extension': 0,
    // A DataNode is dead after 2 × recheck + 10 × heartbeat: 14 s, the least that 3.4 allows with whole seconds.
    'dfs.heartbeat.interval': 1,
    'dfs.namenode.heartbeat.recheck-interval': 2000,
    // One that was not heard of for 3 s is the last to be given anything, as docs/archives/hdfs.md advises.
    'dfs.namenode.stale.datanode.interval': 3000,
    'dfs.namenode.avoid.read.stale.datanode': true,
    'dfs.namenode.avoid.write.stale.datanode': true,
    'dfs.namenode.datanode.registration.ip-hostname-check': false,
    'dfs.datanode.hostname': '127.0.0.1',
    'dfs.client.block.write.replace-datanode-on-failure.policy': 'NEVER',
    'dfs.namenode.handler.count': 8,
    'dfs.datanode.handler.count': 4,
    'dfs.datanode.fsdatasetcache.max.threads.per.volume': 1,
    'dfs.datanode.du.reserved': 0,
    'fs.getspaceused.classname': 'org.apache.hadoop.fs.DFCachingGetSpaceUsed',
    'dfs.block.scanner.volume.bytes.per.second': 0,
    // Deleted blocks go soon: the disk of a test is small.
    'dfs.namenode.redundancy.interval.seconds': 1,
    // A copy that was asked of a DataNode which died is asked of another one; five minutes by default.
    'dfs.namenode.reconstruction.pending.timeout-sec': 5,
    'dfs.namenode.startup.delay.block.deletion.sec': 0,
  }
}

function xml(properties: Properties): string {
  const lines = Object.entries(properties).map(
    ([name, value]) => `<property><name>${name}</name><value>${value}</value></property>`,
  )
  return ['<configuration>', ...lines, '</configuration>', ''].join('\n')
}
