import { corrupt } from '../format/bytes.js'
import { StratalogError } from '../model/errors.js'
import type { ZkChildren, ZkNode, ZkOp, ZkStat } from './client.js'
import { ZK, zkError } from './errors.js'
import { type JuteReader, JuteWriter } from './jute.js'

/*
 * Packets of ZooKeeper's protocol.
 *
 *   request: ┌────────┬───────┬────────┬──────┐   answer: ┌────────┬───────┬────────┬───────┬────────┐
 *            │ length │ xid   │ type   │ body │           │ length │ xid   │ zxid   │ error │ result │
 *            │ int32  │ int32 │ int32  │      │           │ int32  │ int32 │ int64  │ int32 │        │
 *            └────────┴───────┴────────┴──────┘           └────────┴───────┴────────┴───────┴────────┘
 *
 * The first request of a connection, and its answer, have no xid and no type.
 */

/** Types of requests. */
export const TYPE = {
  create: 1,
  delete: 2,
  exists: 3,
  get: 4,
  set: 5,
  sync: 9,
  ping: 11,
  children: 12,
  check: 13,
  multi: 14,
  auth: 100,
  setWatches: 101,
  close: -11,
} as const

/** Numbers of packets that are no answers to calls. */
export const XID = { event: -1, ping: -2, auth: -4, setWatches: -8 } as const

/**
 * The most a packet may have: what a server takes that was not told otherwise (`jute.maxbuffer`). It ends the
 * connection at more, and with it everything that is under way.
 */
const PACKET_BYTES_MAX = 0xfffff
const XID_AT = 4

/** What is asked of ZooKeeper and how its answer is read. */
export interface Request<T> {
  /** For messages: what is tried, with the path. */
  readonly what: string
  /** The packet, but for its xid. */
  readonly packet: Buffer
  /** A read may be sent again. */
  readonly reads: boolean
  readonly read: (reader: JuteReader) => T
  /** The answer when there is no such node; without it that is an error. */
  readonly absent?: T
}

/** Who may touch a node. */
export interface Acl {
  readonly permissions: number
  readonly scheme: string
  readonly id: string
}

const ALL = 31
/** Anybody may do anything. */
export const OPEN_ACL: Acl = { permissions: ALL, scheme: 'world', id: 'anyone' }
/** Who made it may do anything. */
export const CREATOR_ACL: Acl = { permissions: ALL, scheme: 'auth', id: '' }

/** Gives a packet its number. */
export function numbered(packet: Buffer, xid: number): Buffer {
  packet.writeInt32BE(xid, XID_AT)
  return packet
}

/** The beginning of a packet. */
export function begin(type: number, xid = 0): JuteWriter {
  return new JuteWriter().int(xid).int(type)
}

export function getRequest(path: string, watch: boolean): Request<ZkNode | null> {
  const packet = begin(TYPE.get).string(path).bool(watch).packet()
  const read = (reader: JuteReader) => ({ data: reader.buffer(), stat: readStat(reader) })
  return { what: `read ${path}`, packet, reads: true, read, absent: null }
}

export function existsRequest(path: string, watch: boolean): Request<ZkStat | null> {
  const packet = begin(TYPE.exists).string(path).bool(watch).packet()
  return { what: `look for ${path}`, packet, reads: true, read: readStat, absent: null }
}

export function childrenRequest(path: string, watch: boolean): Request<ZkChildren | null> {
  const packet = begin(TYPE.children).string(path).bool(watch).packet()
  const read = (reader: JuteReader) => ({ names: reader.strings(), stat: readStat(reader) })
  return { what: `list ${path}`, packet, reads: true, read, absent: null }
}

export function syncRequest(path: string): Request<null> {
  const packet = begin(TYPE.sync).string(path).packet()
  return { what: `sync ${path}`, packet, reads: true, read: () => null }
}

/** One change by itself. */
export function changeRequest(op: ZkOp, acl: Acl): Request<ZkStat | string | null> {
  const writer = begin(TYPE[op.op])
  writeOp(writer, op, acl)
  const read = (reader: JuteReader) => readResult(reader, op.op)
  return bounded({ what: `${op.op} ${op.path}`, packet: writer.packet(), reads: false, read })
}

export function multiRequest(
  ops: readonly ZkOp[],
  acl: Acl,
  shown: (path: string) => string,
): Request<(ZkStat | string | null)[]> {
  const writer = begin(TYPE.multi)
  for (const op of ops) {
    writer.int(TYPE[op.op]).bool(false).int(-1)
    writeOp(writer, op, acl)
  }
  writer.int(-1).bool(true).int(-1)
  const what = `multi of ${ops.length} operations, ${ops.map((op) => `${op.op} ${shown(op.path)}`).join(', ')}`
  const read = (reader: JuteReader) => readMulti(reader, ops, shown)
  return bounded({ what: what.slice(0, 500), packet: writer.packet(), reads: false, read })
}

function writeOp(writer: JuteWriter, op: ZkOp, acl: Acl): void {
  writer.string(op.path)
  if (op.op === 'create') {
    writer.buffer(op.data)
    writer.int(1).int(acl.permissions).string(acl.scheme).string(acl.id)
    writer.int((op.ephemeral === true ? 1 : 0) + (op.sequential === true ? 2 : 0))
  } else {
    if (op.op === 'set') writer.buffer(op.data)
    // Version 0 is a version as any other: it is sent, and checked.
    writer.int(op.version)
  }
}

function bounded<T>(request: Request<T>): Request<T> {
  const bytes = request.packet.length - 4
  if (bytes <= PACKET_BYTES_MAX) return request
  throw new StratalogError(
    'invalid_argument',
    `${request.what}: it has ${bytes} bytes, and ZooKeeper takes ${PACKET_BYTES_MAX} at most (jute.maxbuffer)`,
    { expected: PACKET_BYTES_MAX, found: bytes },
  )
}

function readResult(reader: JuteReader, op: ZkOp['op']): ZkStat | string | null {
  if (op === 'create') return reader.string()
  return op === 'set' ? readStat(reader) : null
}

/** A multi that failed has no error in its header: results of type −1 have it. */
function readMulti(
  reader: JuteReader,
  ops: readonly ZkOp[],
  shown: (path: string) => string,
): (ZkStat | string | null)[] {
  const results: (ZkStat | string | null)[] = []
  let failed: { readonly code: number; readonly index: number } | null = null
  for (let index = 0; ; index++) {
    const [type, done] = [reader.int(), reader.bool()]
    reader.int()
    if (done) break
    const op = ops[index]
    if (op === undefined) throw corrupt('an answer of ZooKeeper has more results than operations')
    if (type === -1) {
      const code = reader.int()
      // Those before the one that failed say 0, those after it RUNTIMEINCONSISTENCY.
      if (code !== 0 && code !== ZK.RUNTIME_INCONSISTENCY) failed ??= { code, index }
      results.push(null)
    } else if (type === TYPE[op.op]) {
      results.push(readResult(reader, op.op))
    } else {
      throw corrupt(`an answer of ZooKeeper has a result of type ${type} for ${op.op}`)
    }
  }
  if (results.length !== ops.length) throw corrupt('an answer of ZooKeeper has fewer results than operations')
  if (failed !== null) {
    const op = ops[failed.index]
    const what = `${op?.op} ${shown(op?.path ?? '')} (operation ${failed.index + 1} of ${ops.length})`
    throw zkError(failed.code, what, { index: failed.index })
  }
  return results
}

/** 68 bytes. */
function readStat(reader: JuteReader): ZkStat {
  const [czxid, mzxid, ctime, mtime] = [reader.long(), reader.long(), reader.long(), reader.long()]
  const [version, cversion] = [reader.int(), reader.int()]
  reader.int() // The version of its ACL.
  const ephemeralOwner = reader.long()
  const [dataLength, numChildren] = [reader.int(), reader.int()]
  reader.long() // The last change of its children.
  const [ctimeMs, mtimeMs] = [Number(ctime), Number(mtime)]
  return { version, cversion, czxid, mzxid, ctimeMs, mtimeMs, ephemeralOwner, numChildren, dataLength }
}

/** What begins a connection: a new session, or one that is taken up again. */
export interface Hello {
  readonly lastZxid: bigint
  readonly timeoutMs: number
  /** 0 for a new one. */
  readonly sessionId: bigint
  readonly password: Uint8Array
}

export function helloPacket(hello: Hello): Buffer {
  const writer = new JuteWriter().int(0).long(hello.lastZxid).int(hello.timeoutMs)
  return writer.long(hello.sessionId).buffer(hello.password).bool(false).packet()
}

/** What the server agrees to; a time of 0: the session has expired. */
export interface Welcome {
  readonly timeoutMs: number
  readonly sessionId: bigint
  readonly password: Uint8Array
}

export function readWelcome(reader: JuteReader): Welcome {
  const version = reader.int()
  if (version !== 0) throw corrupt(`it is no ZooKeeper that answers, or one of protocol ${version}`)
  const welcome = { timeoutMs: reader.int(), sessionId: reader.long(), password: reader.buffer() }
  if (welcome.password.length > 1024) throw corrupt('the session of ZooKeeper has no password that can be')
  return welcome
}

export function authPacket(user: string, password: string): Buffer {
  return begin(TYPE.auth, XID.auth).int(0).string('digest').string(`${user}:${password}`).packet()
}

/** What a watch saw. */
export interface WatchEvent {
  /** 1 created, 2 deleted, 3 data, 4 children; others are about the session. */
  readonly type: number
  readonly path: string
}

export function readEvent(reader: JuteReader): WatchEvent {
  const type = reader.int()
  reader.int()
  return { type, path: reader.string() }
}
