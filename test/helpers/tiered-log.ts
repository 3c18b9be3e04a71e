import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { directoryArchive } from '../../archive/directory/store.js'
import type { Log } from '../../src/log.js'
import type { SegmentRow } from '../../src/model/segment.js'
import { openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import { silentLogger } from '../../src/system/logger.js'
import { type ArchiveFaults, faultyArchive } from './faulty-archive.js'

/** A log with an archive in a temporary directory, opened as often as a test likes; its archive fails as told. */
export class TieredLog {
  readonly root: string = mkdtempSync(join(tmpdir(), 'stratalog-tiered-'))
  readonly faults: ArchiveFaults = {}

  get directory(): string {
    return join(this.root, 'log')
  }

  get archive(): string {
    return join(this.root, 'archive')
  }

  open(options: OpenOptions = {}): Promise<Log> {
    return openLog(this.directory, {
      archive: faultyArchive(directoryArchive(this.archive), this.faults),
      tiering: 'off',
      control: 'off',
      config: 'none',
      storeFileBytes: 4 * 2 ** 20,
      defaults: { hot: { for: 0 }, evict: { lag: 0 } },
      system: { logger: silentLogger() },
      ...options,
    })
  }

  /** Keys of segment objects. */
  objects(): string[] {
    return readdirSync(this.archive, { recursive: true, encoding: 'utf8' })
      .filter((name) => /\/s[0-9a-v]{13}-/.test(name))
      .sort()
  }

  /** How many control objects of a kind there are. */
  controls(kind: string): number {
    return readdirSync(this.archive, { recursive: true, encoding: 'utf8' }).filter((name) =>
      name.includes(`-${kind}-`),
    ).length
  }

  /** Loses the index, as a lost disk would. */
  dropIndex(): void {
    for (const name of readdirSync(this.directory))
      if (/^index\.db(-wal|-shm)?$/.test(name)) rmSync(join(this.directory, name))
  }

  end(): void {
    rmSync(this.root, { recursive: true, force: true })
  }
}

/** Segments with `perSegment` records each, sealed; txids count from 1,000 in tens. */
export async function fillSegments(log: Log, name: string, segments: number, perSegment = 10): Promise<void> {
  const stream = log.stream(name)
  for (let segment = 0; segment < segments; segment += 1) {
    const numbers = Array.from({ length: perSegment }, (_, i) => segment * perSegment + i)
    const txids = numbers.map((at) => BigInt(1_000 + 10 * at))
    await stream.appendAll(
      numbers.map((at) => `${name} ${at}`),
      { txid: () => txids.shift() ?? 0n },
    )
    await stream.seal()
  }
}

/** The rows of a stream. */
export async function rowsOf(log: Log, name: string): Promise<SegmentRow[]> {
  const found: SegmentRow[] = []
  for await (const row of log.segments(name)) found.push(row)
  return found
}

/** What a reader from the beginning gets, and from which tier. */
export async function readAll(
  log: Log,
  name: string,
): Promise<{ texts: string[]; hot: number; cold: number }> {
  const read = log.stream(name).read()
  const texts: string[] = []
  for await (const { payload } of read) texts.push(Buffer.from(payload).toString())
  return { texts, ...read.counts }
}
