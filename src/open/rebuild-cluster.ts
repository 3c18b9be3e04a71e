import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import process from 'node:process'
import type { Log } from '../log.js'
import { lockDirectory } from '../metadata/sqlite/lock.js'
import { present } from '../model/assert.js'
import type { SegmentRow } from '../model/segment.js'
import { openLog } from '../open.js'
import type { OpenOptions, SystemPorts } from '../options.js'
import { emptyReport, noteLoss, type RebuildReport } from '../rebuild/report.js'
import { CACHE_FILE } from './cluster-place.js'
import type { RebuildWishes, RebuiltIndex } from './rebuild-index.js'

/** A database is up to three files. */
const PARTS = ['', '-wal', '-shm'] as const
const PAGE = 1_000

/**
 * Makes the rows of a namespace again. There the index is ZooKeeper's tree, its frontiers and the archive's names, and
 * the file is a cache of what they say: it is put away, everything is read anew, and nothing else is changed. Where that
 * fails, as with an archive that does not answer, the cache that was there is put back.
 */
export async function rebuildNamespaceCache(
  root: string,
  options: OpenOptions,
  system: SystemPorts,
  wishes: RebuildWishes,
): Promise<RebuiltIndex> {
  const file = join(root, CACHE_FILE)
  const aside = `${file}.aside`
  const alone = (work: () => Promise<void>) => locked(root, system, work)
  await alone(() => move(system, file, aside))
  try {
    await using log = await openLog(root, { ...options, tiering: 'off', control: 'off' })
    const report = await reportOf(log, wishes)
    for (const part of PARTS) await rm(`${aside}${part}`, { force: true })
    return { ...report, file, keptAs: null, cluster: true }
  } catch (error) {
    await alone(() => move(system, aside, file))
    throw error
  }
}

async function locked(root: string, { clock }: SystemPorts, work: () => Promise<void>): Promise<void> {
  const openedAt = new Date(clock.nowMs()).toISOString()
  const lock = lockDirectory(root, { pid: process.pid, openedAt })
  try {
    await work()
  } finally {
    lock.release()
  }
}

/** What is in the way goes: of a cache half of one is worth nothing. */
async function move({ disk }: SystemPorts, from: string, to: string): Promise<void> {
  if ((await disk.stat(from)) === null) return
  for (const part of PARTS) {
    await rm(`${to}${part}`, { force: true })
    if ((await disk.stat(`${from}${part}`)) !== null) await disk.rename(`${from}${part}`, `${to}${part}`)
  }
}

async function reportOf(log: Log, { signal, onProgress }: RebuildWishes): Promise<RebuildReport> {
  const { index } = log.parts.segments
  const report = emptyReport()
  for (let after = ''; ; ) {
    const streams = await index.listStreams(after, PAGE)
    for (const { name, incarnation } of streams) {
      report.streams += 1
      for (let from = 0n; ; ) {
        signal?.throwIfAborted()
        const rows = await index.listSegments(incarnation, from, PAGE)
        for (const row of rows) count(report, name, row)
        onProgress?.({ stream: name, segments: report.segments })
        if (rows.length < PAGE) break
        from = present(rows.at(-1), 'a segment').segment + 1n
      }
    }
    if (streams.length < PAGE) return report
    after = present(streams.at(-1), 'a stream').name
  }
}

function count(report: RebuildReport, stream: string, row: SegmentRow): void {
  const { state, segment, ledgerId, gapReason } = row
  if (state === 'trimmed') return
  report.segments += 1
  if (ledgerId !== null) report.ledgers += 1
  if (state === 'open' || state === 'recovering') report.recovering += 1
  if (state === 'cold') report.cold += 1
  else if (state === 'archived') report.both += 1
  if (state !== 'cold' && state !== 'gap') report.hot += 1
  if (state === 'gap' && gapReason === 'purged')
    noteLoss(report, `stream ${stream}, segment ${segment}: neither the tree nor the archive has it`)
}
