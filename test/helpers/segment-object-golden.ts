import { writeFileSync } from 'node:fs'
import process from 'node:process'
import { pathToFileURL } from 'node:url'
import { planSegmentObject, segmentObjectBody } from '../../archive/segment-writer.js'
import { bytesOf, sampleSegment, sourceOf } from './archive.js'

/*
 * Makes test/golden/segment-object-v1.bin. It was run once when version 1 was released; its bytes are for
 * ever. Run it again only for a new version, into a new file: node segment-object-golden.js <file>
 */

/** The segment that the golden object of version 1 holds. */
export function goldenSegment(): ReturnType<typeof sampleSegment> {
  return sampleSegment({ entries: 30, recordsPerEntry: 2, payloadBytes: 25_000, controlEvery: 6 })
}

const [, script, target] = process.argv
if (script !== undefined && target !== undefined && import.meta.url === pathToFileURL(script).href) {
  const { meta, payloads } = goldenSegment()
  const planned = await planSegmentObject(meta, sourceOf(payloads))
  writeFileSync(target, await bytesOf(segmentObjectBody(planned, sourceOf(payloads))))
}
