import { join } from 'node:path'
import { StratalogError } from '../../model/errors.js'
import { openArchive, openLog } from '../../open.js'
import { planRestore, restoreArchive } from '../../restore.js'
import { quietSystem } from '../quiet.js'
import { plural } from '../render.js'
import { readAndCompare } from './compare.js'
import type { DemoRun } from './context.js'
import { DEMO_FILE_BYTES } from './directory.js'

/**
 * Restores the archive, and nothing but the archive, into a log of its own, and compares every record of it with the
 * source. A restore that a kill cut short goes on behind its last whole segment.
 */
export async function restoreAndCompare(run: DemoRun): Promise<void> {
  const directory = join(run.directory, 'restored')
  const archive = await openArchive(join(run.directory, 'archive'), await quietSystem())
  try {
    const plan = await planRestore(archive, { signal: run.signal })
    if (plan.records !== BigInt(run.source.records)) {
      throw new StratalogError(
        'corrupt',
        `the archive lists ${plan.records} records and ${run.source.records} were copied`,
        {
          expected: run.source.records,
          found: plan.records,
        },
      )
    }
    await using restored = await openLog(directory, {
      archive: 'none',
      config: 'none',
      tiering: 'off',
      control: 'off',
      system: await quietSystem(),
      storeFileBytes: DEMO_FILE_BYTES,
    })
    const report = await restoreArchive(restored, archive, plan, {
      signal: run.signal,
      onProgress: ({ stream, doneRecords }) =>
        run.out.progress('restore', run.source.records, Number(doneRecords), stream),
    })
    let records = 0
    for (const source of run.source.streams) {
      const found = await readAndCompare(restored, source, { signal: run.signal }, 0, source.events.length)
      records += found.records
    }
    const resumed = report.resumed > 0 ? ` (${report.resumed} of ${report.segments} segments were there)` : ''
    const text = `archive → ${directory}   ${plural(report.streams, 'stream')}, ${plural(records, 'record')}, digests equal${resumed}`
    await run.out.step('restore', text, {
      directory,
      streams: report.streams,
      segments: report.segments,
      resumed: report.resumed,
      records,
      digest: report.digest,
      archiveDigest: plan.digest,
      digestsEqual: report.digest === plan.digest,
    })
  } finally {
    await archive.close()
  }
}
