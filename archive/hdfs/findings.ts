import type { ArchiveFinding } from '../../src/ports/archive-store.js'
import type { StoreParts } from './parts.js'

const INFO = '/jmx?qry=Hadoop:service=NameNode,name=NameNodeInfo'
const STATUS = '/jmx?qry=Hadoop:service=NameNode,name=NameNodeStatus'

/** What a cluster is seen to be and to do, for `doctor`. */
export async function findingsOf(parts: StoreParts, signal?: AbortSignal): Promise<ArchiveFinding[]> {
  const { transfer, credentials, place, namenodes } = parts
  const info = await figures(parts, INFO, signal)
  const status = await figures(parts, STATUS, signal)
  const { host, port } = namenodes.active
  const pair = place.namenodes.length > 1
  return [
    {
      name: 'namenode',
      state: 'ok',
      text: `${host}:${port} answers, asked as ${credentials.described}${pair ? `; ${place.namenodes.length} NameNodes are named, and this one is active` : ''}`,
    },
    version(info, transfer.gateway),
    ...safeMode(info),
    ...dataNodes(info, place.settings.replication),
    ...(typeof status?.State === 'string' && status.State !== 'active'
      ? [{ name: 'ha', state: 'bad', text: `the NameNode says that it is ${status.State}` } as const]
      : []),
    ...checksums(parts),
  ]
}

/** Figures are for people who may see them: a NameNode that shows none works as well. */
async function figures(
  { transfer, namenodes, context }: StoreParts,
  query: string,
  signal: AbortSignal | undefined,
): Promise<Record<string, unknown> | null> {
  if (transfer.gateway) return null
  try {
    return await namenodes.figures(query, signal)
  } catch (error) {
    signal?.throwIfAborted()
    context.logger.debug({ error }, 'the NameNode shows no figures')
    return null
  }
}

function version(info: Record<string, unknown> | null, gateway: boolean): ArchiveFinding {
  if (gateway) {
    return { name: 'gateway', state: 'without', text: 'an HttpFS gateway: all bytes pass through it' }
  }
  const told = typeof info?.Version === 'string' ? info.Version.split(',')[0] : undefined
  return told === undefined
    ? { name: 'version', state: 'without', text: 'the NameNode does not tell its version' }
    : { name: 'version', state: 'ok', text: `Hadoop ${told}` }
}

function safeMode(info: Record<string, unknown> | null): ArchiveFinding[] {
  if (typeof info?.Safemode !== 'string') return []
  return [
    info.Safemode === ''
      ? { name: 'safe-mode', state: 'ok', text: 'the NameNode takes writes' }
      : {
          name: 'safe-mode',
          state: 'bad',
          text: 'the NameNode is in safe mode: nothing can be copied until it leaves it',
        },
  ]
}

function dataNodes(info: Record<string, unknown> | null, replication: number | undefined): ArchiveFinding[] {
  const live = countOf(info?.LiveNodes)
  if (live === null) return []
  const dead = countOf(info?.DeadNodes) ?? 0
  const needed = replication ?? 1
  const text = `${live} ${live === 1 ? 'DataNode is' : 'DataNodes are'} up${dead > 0 ? `, ${dead} are not` : ''}`
  if (live >= needed && live > 0) return [{ name: 'datanodes', state: dead > 0 ? 'without' : 'ok', text }]
  return [{ name: 'datanodes', state: 'bad', text: `${text}; ${needed} copies of each block are wanted` }]
}

function countOf(told: unknown): number | null {
  if (typeof told !== 'string') return null
  try {
    return Object.keys(JSON.parse(told) as object).length
  } catch {
    return null
  }
}

function checksums({ uploads, context }: StoreParts): ArchiveFinding[] {
  if (context.readOnly === true) return []
  const { checksums: kind, synced } = uploads.facts
  const sync: ArchiveFinding = synced
    ? { name: 'sync', state: 'ok', text: 'DataNodes are told to sync each block to disk' }
    : {
        name: 'sync',
        state: 'without',
        text: 'blocks are not synced to disk when a file is closed: set dfs.datanode.synconclose',
      }
  if (kind === 'unknown') return [sync]
  return [
    kind === 'equal'
      ? { name: 'checksums', state: 'ok', text: 'uploads are compared with the checksum of HDFS' }
      : {
          name: 'checksums',
          state: 'without',
          text: 'the checksum of HDFS is of another kind (encrypted, erasure-coded): uploads are read back instead',
        },
    sync,
  ]
}
