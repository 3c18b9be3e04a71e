import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import process from 'node:process'
import { pathToFileURL } from 'node:url'
import { gzipSync } from 'node:zlib'
import { encodeSegmentKey } from '../../src/format/archive-names.js'
import { encodeSummary, SUMMARY_SEGMENTS, type SummarizedSegment } from '../../src/format/summary-object.js'

/*
 * Makes test/golden/summary-object-v1.bin.gz. It was run once when version 1 was released; its bytes are for ever. Run
 * it again only for a new version, into a new file: node summary-golden.js <file>
 */

/** What the golden summary of version 1 names: segments 2001 to 3000. */
export function goldenSummary(): SummarizedSegment[] {
  return Array.from({ length: SUMMARY_SEGMENTS }, (_, i) => {
    const parsed = {
      incarnation: '0123456789abcdef0123456789abcdef',
      segment: BigInt(2_001 + i),
      lastEntryId: BigInt(90 + i),
      lastSlot: BigInt(i % 7),
      recordCount: 1_000n,
      startSequenceId: BigInt(2_000 + i) * 1_000n,
      firstTxid: BigInt(1_700_000_000_000 + i * 60_000),
      lastTxid: BigInt(1_700_000_059_999 + i * 60_000),
      completionMs: 1_700_000_060_000 + i * 60_000,
      indexBytes: 152,
      contentDigest: createHash('sha256').update(`segment ${i}`).digest('hex'),
      attempt: i.toString().padStart(13, '0'),
    }
    return { key: encodeSegmentKey(parsed), sizeBytes: 1_000_000 + i, parsed }
  })
}

const [, script, target] = process.argv
if (script !== undefined && target !== undefined && import.meta.url === pathToFileURL(script).href)
  writeFileSync(target, gzipSync(encodeSummary(goldenSummary()), { level: 9 }))
