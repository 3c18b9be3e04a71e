import { writeFileSync } from 'node:fs'
import process from 'node:process'
import { pathToFileURL } from 'node:url'
import { type ObjectSealing, planSegmentObject, segmentObjectBody } from '../../archive/segment-writer.js'
import { dataKeyContext, ObjectCipher, sealSecret } from '../../src/format/envelope.js'
import { bytesOf, INCARNATION, sampleSegment, sourceOf } from './archive.js'

/*
 * Makes test/golden/segment-object-v1.bin and, encrypted, segment-object-v2.bin. It was run once when each version was
 * released; their bytes are for ever. Run it again only for a new version, into a new file:
 * node segment-object-golden.js <file> [encrypted]
 */

/** The segment that the golden object of version 1 holds. */
export function goldenSegment(): ReturnType<typeof sampleSegment> {
  return sampleSegment({ entries: 30, recordsPerEntry: 2, payloadBytes: 25_000, controlEvery: 6 })
}

/** Keys of the golden object of version 2. The key that wraps its data key, and that of its digest. */
export const GOLDEN_KEYS: { readonly wrapping: Uint8Array; readonly digest: Uint8Array } = {
  wrapping: new Uint8Array(32).fill(0xa1),
  digest: new Uint8Array(32).fill(0xd2),
}

/** What the golden object of version 2 is encrypted with. */
export function goldenSealing(): ObjectSealing {
  const place = { incarnation: INCARNATION, segment: 7n, attempt: '0g1h2i3j4k5l6', keyId: 'd1g3s' }
  const streamKeyId = 'k3v01'
  const dataKey = new Uint8Array(32).map((_, i) => i)
  const nonce = new Uint8Array(12).fill(0x0c)
  return {
    place,
    streamKeyId,
    wrappedKey: sealSecret(GOLDEN_KEYS.wrapping, nonce, dataKey, dataKeyContext(place, streamKeyId)),
    cipher: new ObjectCipher(dataKey, place),
    digestKey: GOLDEN_KEYS.digest,
  }
}

const [, script, target, kind] = process.argv
if (script !== undefined && target !== undefined && import.meta.url === pathToFileURL(script).href) {
  const { meta, payloads } = goldenSegment()
  const sealing = kind === 'encrypted' ? goldenSealing() : null
  const planned = await planSegmentObject(meta, sourceOf(payloads), undefined, undefined, sealing)
  writeFileSync(target, await bytesOf(segmentObjectBody(planned, sourceOf(payloads))))
}
