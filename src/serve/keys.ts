import type { Log } from '../log.js'
import type { ReencryptedDto, RotatedDto, StreamEncryptionDto } from '../model/control-keys.js'

/** What `key list` shows. */
export async function* listKeys(
  log: Log,
  { stream }: { readonly stream?: string },
): AsyncGenerator<StreamEncryptionDto, void, undefined> {
  yield* log.keys.list(stream)
}

/** Wraps keys anew, stream by stream. */
export async function* rotateKeys(
  log: Log,
  { stream }: { readonly stream?: string },
): AsyncGenerator<RotatedDto, void, undefined> {
  yield* log.keys.rotate(stream)
}

/** Writes a stream's objects anew, telling of each segment. Whoever stops listening stops it. */
export async function* reencrypt(
  log: Log,
  { stream, newKey }: { readonly stream: string; readonly newKey: boolean },
  signal?: AbortSignal,
): AsyncGenerator<ReencryptedDto, void, undefined> {
  const options = { newKey, ...(signal === undefined ? {} : { signal }) }
  for await (const { segment, written, sizeBytes } of log.keys.reencrypt(stream, options))
    yield { segment: segment.toString(), written, sizeBytes }
}
