/** What ZooKeeper knows of a node. */
export interface ZkStat {
  /** Version of its data: 0 when created, one more with every set. */
  readonly version: number
  /** Version of its list of children. */
  readonly cversion: number
  readonly czxid: bigint
  readonly mzxid: bigint
  readonly ctimeMs: number
  readonly mtimeMs: number
  /** The session it ends with; 0 for a node that stays. */
  readonly ephemeralOwner: bigint
  readonly numChildren: number
  readonly dataLength: number
}

/** One operation of {@link ZooKeeper.multi}. */
export type ZkOp =
  | {
      readonly op: 'create'
      readonly path: string
      readonly data: Uint8Array
      readonly ephemeral?: boolean
      readonly sequential?: boolean
    }
  | { readonly op: 'delete'; readonly path: string; readonly version: number }
  | { readonly op: 'set'; readonly path: string; readonly data: Uint8Array; readonly version: number }
  | { readonly op: 'check'; readonly path: string; readonly version: number }

/** A node's data. */
export interface ZkNode {
  readonly data: Uint8Array
  readonly stat: ZkStat
}

/** A node's children, in no order. */
export interface ZkChildren {
  readonly names: readonly string[]
  readonly stat: ZkStat
}

/** Version that fits any: only where an unversioned change is meant. */
export const ANY_VERSION = -1

/** How {@link ZooKeeper.create} makes a node. */
export interface CreateOptions {
  readonly ephemeral?: boolean
  readonly sequential?: boolean
  /**
   * Made in the session with this id or not at all: `metadata_unavailable`, never sent, once another came after it.
   * Whoever took `lost` before it creates needs it: else a node may hang on a session that nobody watches.
   */
  readonly session?: bigint
}

/**
 * ZooKeeper, as everything here sees it: a session that is there for as long as it can be, and the next one after
 * that. Calls are carried out in the order they were made. Each fails with:
 *
 * - `metadata_unavailable`: no answer. Where `outcomeUnknown` (errors.ts) holds, a change may have been made and has
 *   to be read again, never sent again blindly; else it was never sent.
 * - `conflict`: BADVERSION, NODEEXISTS, NOTEMPTY. `not_found`: NONODE, where null is not the answer.
 * - `access_denied`: NOAUTH, AUTHFAILED. `zkCode` (errors.ts) gives ZooKeeper's own number.
 *
 * A watch is called once: when what was read may have changed, or when the session it hangs on is lost. What was
 * changed while the connection was down calls it too. A read that answers null leaves no watch, except that of
 * `exists`, which waits for the node.
 */
export interface ZooKeeper {
  /** The session of this moment. */
  readonly sessionId: bigint
  /**
   * Aborted when the session of this moment has expired, was closed, or its own deadline passed: two thirds of the
   * session's time since a request was sent that got an answer. Whoever holds something by this session stops.
   * After that it is another signal, that of the next session: so take it **before** creating what hangs on the
   * session, and keep it.
   */
  readonly lost: AbortSignal
  /** What the server agreed to for the session of this moment, where that is known. */
  readonly sessionTimeoutMs?: number
  /** null: NONODE. */
  get(path: string, watch?: () => void): Promise<ZkNode | null>
  exists(path: string, watch?: () => void): Promise<ZkStat | null>
  children(path: string, watch?: () => void): Promise<ZkChildren | null>
  /** The path, with its number where `sequential` is asked. */
  create(path: string, data: Uint8Array, options?: CreateOptions): Promise<string>
  set(path: string, data: Uint8Array, version: number): Promise<ZkStat>
  delete(path: string, version: number): Promise<void>
  /**
   * All or nothing. Of each operation: the path of `create`, the stat of `set`, null else. Fails with the first
   * real error; its details have `index`, the place of the operation, and the message names it.
   */
  multi(ops: readonly ZkOp[]): Promise<readonly (ZkStat | string | null)[]>
  /** Lets go of a watch that was left on `path`, if it was not called yet: who waits no longer leaves none behind. */
  forget(path: string, watch: () => void): void
  /** What was committed before this, by anybody, is in what is read after it. */
  sync(path: string): Promise<void>
  /** Ends the session and its ephemeral nodes. Idempotent; calls after it fail with `closed`. */
  close(): Promise<void>
}

/**
 * One session of ZooKeeper: as {@link ZooKeeper}, but nothing comes after it, and `lost` is one signal. `session` of
 * `create` is looked at by who chooses among sessions, not here.
 */
export interface ZkSession extends ZooKeeper {
  /** What the server agreed to. */
  readonly sessionTimeoutMs: number
}

/** How to reach ZooKeeper. */
export interface ZooKeeperSettings {
  /** `host:port`, the port 2181 if absent. */
  readonly servers: readonly string[]
  /** Put before every path; '' or '/': none. It has to be there. */
  readonly chroot: string
  /** Asked of the server, which may agree to another. */
  readonly sessionTimeoutMs: number
  /** How long a call waits for a session before it fails. */
  readonly connectTimeoutMs: number
  /** From a file or the environment, never from a URL. */
  readonly auth?: { readonly scheme: 'digest'; readonly user: string; readonly password: string }
  /** Who may touch nodes made here: anybody, or who showed the same `auth`. @default 'open' */
  readonly acl?: 'open' | 'creator'
  /** Which client: the one of this project, or the native package `zookeeper` where it is installed. @default 'socket' */
  readonly client?: 'socket' | 'native'
}
