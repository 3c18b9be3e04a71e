import { StratalogError } from '../../model/errors.js'
import { checkStreamName } from '../../model/stream-name.js'

/** DistributedLog's `unpartitionedStreamName`: the angle brackets are part of the name. */
const DEFAULT = '<default>'
/** Where everything lies that is ours and not DistributedLog's. */
const FRONTIERS = '/stratalog/v1'

/** Nodes of one stream (FORMATS.md §5.2), and ours. */
export interface StreamPaths {
  readonly name: string
  /** The stream's own node; others may lie below it. */
  readonly stream: string
  readonly log: string
  readonly ledgers: string
  readonly maxTxid: string
  readonly version: string
  readonly lock: string
  readonly readLock: string
  readonly allocation: string
  /** What we add, outside of DistributedLog's tree. */
  readonly frontier: string
}

/** The paths of a stream of the namespace at `namespace`. */
export function streamPaths(namespace: string, name: string): StreamPaths {
  const stream = `${namespace}/${name}`
  const log = `${stream}/${DEFAULT}`
  return {
    name,
    stream,
    log,
    ledgers: `${log}/ledgers`,
    maxTxid: `${log}/maxtxid`,
    version: `${log}/version`,
    lock: `${log}/lock`,
    readLock: `${log}/readLock`,
    allocation: `${log}/allocation`,
    frontier: `${frontiersPath(namespace)}/${encodeURIComponent(name)}`,
  }
}

/** Where the frontiers of a namespace lie, one node a stream. */
export function frontiersPath(namespace: string): string {
  return `${FRONTIERS}/${encodeURIComponent(namespace)}`
}

/** Names of streams don't begin with a dot, so these are nobody's. */
const FACTS = '.facts'
const DELETED = '.deleted-'

/** Where named facts of the whole namespace lie. */
export function factsPath(namespace: string): string {
  return `${frontiersPath(namespace)}/${FACTS}`
}

/** Where a named fact lies. */
export function factPath(namespace: string, fact: string): string {
  return `${factsPath(namespace)}/${encodeURIComponent(fact)}`
}

/** Where the frontier of a deleted stream lies until nothing of it is left. */
export function deletedPath(namespace: string, incarnation: string): string {
  return `${frontiersPath(namespace)}/${DELETED}${incarnation}`
}

/** What a child of {@link frontiersPath} stands for; null: no stream. */
export function parseFrontierName(
  child: string,
): { readonly name: string } | { readonly deleted: string } | null {
  if (child.startsWith(DELETED)) return { deleted: child.slice(DELETED.length) }
  if (child.startsWith('.')) return null
  try {
    return { name: decodeURIComponent(child) }
  } catch {
    // Not one of ours: left alone, as everything that can't be read.
    return null
  }
}

/** Every node above `path`, the highest first. */
export function parentsOf(path: string): string[] {
  const parts = path.split('/').slice(1, -1)
  return parts.map((_, at) => `/${parts.slice(0, at + 1).join('/')}`)
}

/** Whether a child of the namespace, or of a stream's node, may lead to a stream: DistributedLog reserves the others. */
export function mayBeStream(child: string): boolean {
  return !child.startsWith('.') && !child.startsWith('<')
}

/** Whether a node with these children is a stream's. */
export function isStream(children: readonly string[]): boolean {
  return children.includes(DEFAULT)
}

/** A namespace's path without a slash at its end. Throws `config_invalid`. */
export function checkNamespacePath(path: string): string {
  const clean = path.replace(/\/+$/, '')
  const parts = clean.split('/')
  const bad =
    clean === '' || parts.shift() !== '' || parts.some((part) => part === '' || /^\.{1,2}$/.test(part))
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
  if (!bad && !/[\u0000-\u001f\u007f-\u009f\ud800-\uf8ff\ufff0-\uffff]/.test(clean)) return clean
  throw new StratalogError(
    'config_invalid',
    `${JSON.stringify(path)} is not the path of a namespace: write it as /distributedlog/namespace`,
    { found: path },
  )
}

/** The rules of both: ours are the narrower ones but for this. Throws `stream_name_invalid`. */
export function checkDistributedLogName(name: string): string {
  checkStreamName(name)
  if (name.split('/').includes(DEFAULT) || /[\ue000-\uf8ff\ufff0-\uffff]/.test(name))
    throw new StratalogError(
      'stream_name_invalid',
      `${JSON.stringify(name)} can't name a stream: ZooKeeper refuses characters of private use in paths`,
      { found: name },
    )
  return name
}
