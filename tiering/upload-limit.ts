import { attachKeys, keysOf } from '../archive/keys.js'
import type { ArchiveStore, ReplayableBody } from '../src/ports/archive-store.js'
import type { TieringContext } from './context.js'
import { tierOrders } from './orders.js'

/** What is smaller is no data: markers and holds never wait behind copies. */
const FREE_BYTES = 64 * 1024

/** An archive whose uploads keep to the limit an operator set (`tier limit`), asked anew for each piece. */
export function withUploadLimit(
  open: () => Promise<ArchiveStore>,
  context: Pick<TieringContext, 'index' | 'ledger'>,
): () => Promise<ArchiveStore> {
  const limited = new WeakMap<ArchiveStore, ArchiveStore>()
  const { clock } = context.ledger
  /** Monotonic time at which all that was taken so far has been worked off. */
  let paidMs = 0
  // Unlike `Pace` this keeps the process alive: whoever awaits a run by hand waits for its uploads too.
  const take = async (sizeBytes: number, signal?: AbortSignal) => {
    const { upload } = await tierOrders(context)
    if (upload === null) return
    const nowMs = clock.monotonicMs()
    const waitMs = paidMs - nowMs
    paidMs = Math.max(nowMs, paidMs) + (sizeBytes * 1_000) / upload.bytesPerSecond
    if (waitMs > 0) await clock.sleep(waitMs, signal)
  }
  return async () => {
    const archive = await open()
    const known = limited.get(archive)
    if (known !== undefined) return known
    const wrapped: ArchiveStore = {
      location: archive.location,
      capabilities: archive.capabilities,
      putIfAbsent: (key, body, options) => {
        const paced =
          body.sizeBytes < FREE_BYTES ? body : pacedBody(body, (bytes) => take(bytes, options?.signal))
        return archive.putIfAbsent(key, paced, options)
      },
      head: (key, signal) => archive.head(key, signal),
      readRange: (key, offset, lengthBytes, signal) => archive.readRange(key, offset, lengthBytes, signal),
      listFrom: (prefix, after, limit, signal) => archive.listFrom(prefix, after, limit, signal),
      delete: (key, signal) => archive.delete(key, signal),
      removeLeftovers: async () => (await archive.removeLeftovers?.()) ?? 0,
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
