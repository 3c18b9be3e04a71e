import { keysOf } from '../archive/keys.js'
import { refuseOtherOwner } from '../tiering/ownership.js'
import { type ReencryptedSegment, reencryptStream } from '../tiering/reencrypt.js'
import { attachedError } from './log-ownership.js'
import type { LogParts } from './log-parts.js'
import { StratalogError } from './model/errors.js'
import type { StreamRow } from './model/segment.js'

export type { ReencryptedSegment }

/** A key of a stream, and the keys of rings that it can be had with; never the key itself. */
export interface StreamKeyInfo {
  readonly id: string
  /** Oldest first. Any one of them is enough. */
  readonly wrappedBy: readonly { readonly ring: string; readonly key: string; readonly atMs: number }[]
}

/** How a stream is encrypted. */
export interface StreamEncryption {
  readonly stream: string
  /** What its policy says; null: new objects are stored in clear. */
  readonly policy: { readonly ring: string; readonly key: string } | null
  /** Oldest first; none as long as nothing of it was encrypted. */
  readonly keys: readonly StreamKeyInfo[]
}

/** The keys that archived objects are encrypted with. */
export interface Keys {
  /** Of the streams whose policy encrypts them, or of one. */
  list(stream?: string): AsyncIterable<StreamEncryption>
  /**
   * Wraps the keys of streams by the key that their policy names now: from then on that key of the ring is enough.
   * Objects are not touched. What was wrapped before stays readable with the older key until that leaves the ring.
   *
   * @example
   * ```ts
   * import { openLog } from 'stratalog'
   * await using log = await openLog('./data', { archive: './archive' })
   * for await (const { stream, wrapped } of log.keys.rotate()) console.log(`${stream}: ${wrapped}`)
   * ```
   */
  rotate(stream?: string): AsyncIterable<{ readonly stream: string; readonly wrapped: number }>
  /**
   * Writes a stream's archived objects anew under its newest key, those in clear too; with `newKey` a new one. Stopped
   * anywhere, run it again without `newKey` to go on. `refused` where the policy does not encrypt the stream.
   */
  reencrypt(
    stream: string,
    options?: { readonly newKey?: boolean; readonly signal?: AbortSignal },
  ): AsyncIterable<ReencryptedSegment>
}

/** The keys of an open log. `find` rejects with `stream_not_found`. */
export function logKeys(
  parts: LogParts,
  find: (name: string) => Promise<StreamRow>,
  all: () => AsyncIterable<StreamRow>,
): Keys {
  const encryptionOf = async (stream: StreamRow) => (await policyOf(parts, stream)).policy.encryption
  async function* meant(name: string | undefined): AsyncGenerator<StreamRow, void, undefined> {
    if (name !== undefined) {
      yield await find(name)
      return
    }
    for await (const stream of all()) if ((await encryptionOf(stream)) !== null) yield stream
  }
  const archiveOf = ({ incarnation }: StreamRow) => {
    if (parts.tiering.archive !== null) return parts.tiering.archive(incarnation)
    throw new StratalogError('archive_missing', 'this log has no archive, and so nothing that is encrypted')
  }
  return {
    list: async function* (name) {
      for await (const stream of meant(name)) {
        const described = await keysOf(await archiveOf(stream)).describe(stream.incarnation)
        yield {
          stream: stream.name,
          policy: await encryptionOf(stream),
          keys: described.map(({ id, wraps }) => ({
            id,
            wrappedBy: wraps.map(({ ring, ringKey, atMs }) => ({ ring, key: ringKey, atMs })),
          })),
        }
      }
    },
    rotate: async function* (name) {
      refuseAttached(parts)
      for await (const stream of meant(name)) {
        const store = await archiveOf(stream)
        await refuseOtherOwner(parts, store)
        const encryption = await encryptionOf(stream)
        if (encryption === null) {
          throw new StratalogError(
            'refused',
            `the policy of ${stream.name} names no key: set encryption: { ring: FILE, key: ID } in stratalog.yaml first`,
            { found: stream.name },
          )
        }
        yield { stream: stream.name, wrapped: await keysOf(store).rotate(stream.incarnation, encryption) }
      }
    },
    reencrypt: async function* (name, { newKey = false, signal = new AbortController().signal } = {}) {
      refuseAttached(parts)
      yield* reencryptStream(parts.tiering, await find(name), { newKey, signal })
    },
  }
}

/** The archive of another log is read here, and nothing else: its keys are its owner's to change. */
function refuseAttached({ attached, archiveLocation }: LogParts): void {
  if (attached !== null) throw attachedError(archiveLocation)
}

async function policyOf(
  parts: LogParts,
  stream: StreamRow,
): Promise<ReturnType<LogParts['policies']['resolve']>> {
  const override = await parts.segments.index.policyOverride(stream.incarnation)
  return parts.policies.resolve(stream.name, override)
}
