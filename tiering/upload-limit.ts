import { optionalCalls } from '../archive/forward.js'
import { attachKeys, keysOf } from '../archive/keys.js'
import type { Incarnation } from '../src/model/segment.js'
import type { ArchiveStore, ReplayableBody } from '../src/ports/archive-store.js'
import type { TieringContext } from './context.js'
import { tierOrders } from './orders.js'
import { Pace } from './pace.js'

/** What is smaller is no data: markers and holds never wait behind copies. */
const FREE_BYTES = 64 * 1024

/** An archive whose uploads keep to the limit an operator set (`tier limit`), asked anew for each piece. */
export function withUploadLimit(
  open: (incarnation: Incarnation) => Promise<ArchiveStore>,
  context: Pick<TieringContext, 'index' | 'ledger'>,
): (incarnation: Incarnation) => Promise<ArchiveStore> {
  const limited = new WeakMap<ArchiveStore, ArchiveStore>()
  let bytesPerSecond: number | null = null
  const pace = new Pace(context.ledger.clock, () => bytesPerSecond, true)
  const take = async (sizeBytes: number, signal?: AbortSignal) => {
    bytesPerSecond = (await tierOrders(context)).upload?.bytesPerSecond ?? null
    await pace.take(sizeBytes, signal)
  }
  return async (incarnation) => {
    const archive = await open(incarnation)
    const known = limited.get(archive)
    if (known !== undefined) return known
    const wrapped: ArchiveStore = {
      // It may move while it is used.
      get location() {
        return archive.location
      },
      get capabilities() {
        return archive.capabilities
      },
      putIfAbsent: (key, body, options) => {
        const paced =
          body.sizeBytes < FREE_BYTES ? body : pacedBody(body, (bytes) => take(bytes, options?.signal))
        return archive.putIfAbsent(key, paced, options)
      },
      head: (key, signal) => archive.head(key, signal),
      readRange: (key, offset, lengthBytes, signal) => archive.readRange(key, offset, lengthBytes, signal),
      listFrom: (prefix, after, limit, signal) => archive.listFrom(prefix, after, limit, signal),
      delete: (key, signal) => archive.delete(key, signal),
      ...optionalCalls(archive),
      close: () => archive.close(),
    }
    limited.set(archive, wrapped)
    attachKeys(wrapped, keysOf(archive))
    return wrapped
  }
}

function pacedBody(body: ReplayableBody, take: (sizeBytes: number) => Promise<void>): ReplayableBody {
  return {
    sizeBytes: body.sizeBytes,
    async *open() {
      for await (const chunk of body.open()) {
        await take(chunk.byteLength)
        yield chunk
      }
    },
  }
}
