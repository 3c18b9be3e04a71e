import { isStratalogError, StratalogError } from '../../model/errors.js'
import type { ZooKeeper } from '../../zookeeper/client.js'
import { checkNamespacePath, parentsOf } from './paths.js'

/*
 * What binds a namespace to a BookKeeper cluster (FORMATS.md §5.1): the text of the namespace's node.
 *
 *   1 LF BKDL LF {"1":{"str":"zk1:2181"},"2":{"str":"/ledgers"},"3":{"tf":1},…}
 *
 * Thrift's TJSONProtocol without a struct's header: field number → type → value; booleans are 1 and 0.
 */

/** A namespace's binding; what is absent in the text has the value Java gives it. */
export interface NamespaceBinding {
  /** ZooKeeper of the BookKeeper cluster, for writers and for readers. */
  readonly bookkeeperServers: string
  readonly bookkeeperServersForReaders: string
  readonly ledgersPath: string
  /** ZooKeeper of the streams' tree. */
  readonly servers: string
  readonly serversForReaders: string
  readonly sanityCheckTxid: boolean
  readonly encodeRegionId: boolean
  /** Name of the node with ACLs in the namespace; null: there is none. */
  readonly aclRoot: string | null
  readonly firstSegment: bigint
  readonly federated: boolean
}

const HEAD = '1\nBKDL\n'
const TEXT_BYTES_MAX = 64 * 1024
const INT64_MAX = 2n ** 63n - 1n

/** The text of a binding as Java writes it: fields 1 to 7, the others where they differ from what absence means. */
export function encodeBinding(binding: NamespaceBinding): string {
  const fields = [
    str(1, binding.bookkeeperServers),
    str(2, binding.ledgersPath),
    bool(3, binding.sanityCheckTxid),
    bool(4, binding.encodeRegionId),
    str(5, binding.bookkeeperServersForReaders),
    str(6, binding.servers),
    str(7, binding.serversForReaders),
    ...(binding.aclRoot === null ? [] : [str(8, binding.aclRoot)]),
    ...(binding.firstSegment === 1n ? [] : [`"9":{"i64":${binding.firstSegment}}`]),
    ...(binding.federated ? [bool(10, true)] : []),
  ]
  return `${HEAD}{${fields.join(',')}}`
}

function str(id: number, value: string): string {
  return `"${id}":{"str":${JSON.stringify(value)}}`
}

function bool(id: number, value: boolean): string {
  return `"${id}":{"tf":${value ? 1 : 0}}`
}

/** Reads a binding; `authority`: the servers that were asked, the default of field 6. Throws `corrupt` or `version_unsupported`. */
export function decodeBinding(text: string, authority: string): NamespaceBinding {
  if (text.length > TEXT_BYTES_MAX) throw notReadable('it is too long', text)
  const [version = '', kind = '', ...rest] = text.split('\n')
  if (version !== '1' && /^\d+$/.test(version)) {
    throw new StratalogError(
      'version_unsupported',
      `the binding has version ${version}, and version 1 is known: a later release may read it`,
      {
        expected: 1,
        found: version,
      },
    )
  }
  if (version !== '1') throw notReadable('it does not begin with its version', text)
  if (kind !== 'BKDL')
    throw notReadable(`it binds to ${JSON.stringify(kind.slice(0, 40))}, not to BookKeeper`, text)
  const fields = fieldsOf(rest.join('\n'), text)
  const bookkeeperServers = fields.text(1)
  const ledgersPath = fields.text(2)
  if (bookkeeperServers === null || ledgersPath === null)
    throw notReadable('it names no BookKeeper cluster (fields 1 and 2)', text)
  const servers = fields.text(6) ?? authority
  const firstSegment = fields.number(9) ?? 1n
  return {
    bookkeeperServers,
    ledgersPath,
    sanityCheckTxid: fields.flag(3) ?? true,
    encodeRegionId: fields.flag(4) ?? false,
    bookkeeperServersForReaders: fields.text(5) ?? bookkeeperServers,
    servers,
    serversForReaders: fields.text(7) ?? servers,
    aclRoot: fields.text(8),
    firstSegment,
    federated: fields.flag(10) ?? false,
  }
}

interface Fields {
  text(id: number): string | null
  flag(id: number): boolean | null
  number(id: number): bigint | null
}

function fieldsOf(json: string, whole: string): Fields {
  let parsed: unknown
  try {
    // Numbers keep every digit: a segment's number has 64 bits.
    parsed = JSON.parse(json.replace(/("i64":\s*)(-?\d+)/g, '$1"$2"'))
  } catch (cause) {
    throw notReadable('its JSON is damaged', whole, cause)
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed))
    throw notReadable('its JSON is no object', whole)
  const of = new Map(Object.entries(parsed))
  const field = (id: number, type: string): unknown => {
    const value: unknown = of.get(`${id}`)
    if (value === undefined) return null
    if (typeof value !== 'object' || value === null || Object.keys(value).join() !== type)
      throw notReadable(`field ${id} is not of type ${type}`, whole)
    return (value as Record<string, unknown>)[type]
  }
  return {
    text(id) {
      const value = field(id, 'str')
      if (value === null || typeof value === 'string') return value
      throw notReadable(`field ${id} is no text`, whole)
    },
    flag(id) {
      const value = field(id, 'tf')
      if (value === null) return null
      if (value === 0 || value === 1) return value === 1
      throw notReadable(`field ${id} is neither 0 nor 1`, whole)
    },
    number(id) {
      const value = field(id, 'i64')
      if (value === null) return null
      const number = typeof value === 'string' && /^-?\d{1,19}$/.test(value) ? BigInt(value) : -1n
      if (number < 1n || number > INT64_MAX) throw notReadable(`field ${id} is no number of a segment`, whole)
      return number
    },
  }
}

function notReadable(why: string, text: string, cause?: unknown): StratalogError {
  return new StratalogError(
    'corrupt',
    `the binding of the namespace is not readable: ${why}; bind it again with DistributedLog's "dlog admin bind", or name another namespace`,
    { found: text.slice(0, 400), ...(cause === undefined ? {} : { cause }) },
  )
}

/** A namespace's binding with the node it stands in: that of the path or of the nearest node above that has data. */
export interface FoundBinding {
  readonly path: string
  readonly binding: NamespaceBinding
}

/** Reads the binding of the namespace at `path`; null: neither it nor a node above it is bound. */
export async function readBinding(
  zk: ZooKeeper,
  path: string,
  authority: string,
): Promise<FoundBinding | null> {
  const namespace = checkNamespacePath(path)
  for (const at of [namespace, ...parentsOf(namespace).reverse()]) {
    const node = await zk.get(at)
    if (node === null || node.data.length === 0) continue
    return { path: at, binding: boundAt(at, new TextDecoder().decode(node.data), authority) }
  }
  return null
}

function boundAt(path: string, text: string, authority: string): NamespaceBinding {
  try {
    return decodeBinding(text, authority)
  } catch (error) {
    if (!isStratalogError(error)) throw error
    // Of several namespaces, and the nodes above them, one is wrong.
    throw new StratalogError(error.code, `${path} in ZooKeeper: ${error.message}`, {
      cause: error,
      expected: error.expected,
      found: error.found,
    })
  }
}

/**
 * Binds the namespace at `path`, making its node where there is none. One that is bound alike stays as it is;
 * `conflict` where it is bound to something else: its streams would point to ledgers of another cluster.
 */
export async function bindNamespace(zk: ZooKeeper, path: string, binding: NamespaceBinding): Promise<void> {
  const namespace = checkNamespacePath(path)
  for (const parent of parentsOf(namespace)) await createAbsent(zk, parent)
  await createAbsent(zk, namespace)
  const node = await zk.get(namespace)
  const text = node === null ? '' : new TextDecoder().decode(node.data)
  const wanted = encodeBinding(binding)
  if (text === wanted) return
  if (text !== '') {
    const found = decodeBinding(text, binding.servers)
    if (found.ledgersPath === binding.ledgersPath && found.bookkeeperServers === binding.bookkeeperServers)
      return
    throw new StratalogError(
      'conflict',
      `the namespace ${namespace} is bound to ${found.bookkeeperServers}${found.ledgersPath} already: choose another path`,
      { expected: wanted, found: text },
    )
  }
  await zk.set(namespace, new TextEncoder().encode(wanted), node?.stat.version ?? 0)
}

/** Creates a node without data unless it is there. */
export async function createAbsent(zk: ZooKeeper, path: string): Promise<void> {
  if ((await zk.exists(path)) !== null) return
  try {
    await zk.create(path, new Uint8Array())
  } catch (error) {
    // Another made it in the meantime.
    if (!isStratalogError(error, 'conflict')) throw error
  }
}
