import { cpSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Log } from '../../src/log.js'
import { openLog } from '../../src/open.js'
import type { OpenOptions } from '../../src/options.js'
import { silentLogger } from '../../src/system/logger.js'

/** A log in a directory of its own, opened and closed again and again. */
export class Lives {
  readonly root: string = mkdtempSync(join(tmpdir(), 'stratalog-rebuild-'))
  options: OpenOptions = {}

  get directory(): string {
    return join(this.root, 'log')
  }

  get index(): string {
    return join(this.directory, 'index.db')
  }

  open(options: OpenOptions = {}): Promise<Log> {
    return openLog(this.directory, {
      tiering: 'off',
      control: 'off',
      config: 'none',
      storeFileBytes: 4 * 1024 * 1024,
      system: { logger: silentLogger() },
      ...this.options,
      ...options,
    })
  }

  /** Runs `work` on the open log and closes it. */
  async life<T>(work: (log: Log) => Promise<T>, options: OpenOptions = {}): Promise<T> {
    await using log = await this.open(options)
    return await work(log)
  }

  dropIndex(): void {
    for (const name of this.indexFiles()) rmSync(join(this.directory, name))
  }

  indexFiles(): string[] {
    return readdirSync(this.directory).filter((name) => /^index\.db(-wal|-shm)?$/.test(name))
  }

  /** A copy of everything as it is: what a backup of the directory, or a kill, leaves. */
  copyAs(name: string): string {
    const to = join(this.root, name)
    cpSync(this.directory, to, { recursive: true })
    return to
  }

  /** Puts a copy of index.db in place of the one there. */
  putBack(copy: string): void {
    this.dropIndex()
    for (const name of readdirSync(copy))
      if (/^index\.db(-wal|-shm)?$/.test(name)) cpSync(join(copy, name), join(this.directory, name))
  }

  end(): void {
    rmSync(this.root, { recursive: true, force: true })
  }
}

/** Every record of every stream, as text: position, txid, sequence id, payload. */
export async function everything(log: Log): Promise<string[]> {
  const seen: string[] = []
  for await (const { name } of log.streams.list()) {
    for await (const { dlsn, txid, sequenceId, payload } of log.stream(name).read())
      seen.push(`${name} ${dlsn} ${txid} ${sequenceId} ${Buffer.from(payload).toString()}`)
  }
  return seen
}

/** Streams with what was decided about them. */
export async function decisions(log: Log): Promise<unknown[]> {
  const { index } = log.parts.segments
  const found: unknown[] = []
  for await (const row of log.streams.list()) {
    const { incarnation, name, txidMode, createdMs, parent, trimmedBelow, finishedMs } = row
    const policy = await index.policyOverride(incarnation)
    const below = trimmedBelow?.toString() ?? null
    found.push({ incarnation, name, txidMode, createdMs, parent, below, policy, finishedMs })
  }
  return found
}

/** Ids of all ledgers that rows refer to, and the highest epoch of each stream. */
export async function idsAndEpochs(log: Log): Promise<{ ledgers: bigint[]; epochs: bigint[] }> {
  const ledgers: bigint[] = []
  const epochs: bigint[] = []
  for await (const stream of log.streams.list()) {
    epochs.push(stream.epoch)
    for await (const { ledgerId } of log.segments(stream.name)) if (ledgerId !== null) ledgers.push(ledgerId)
  }
  return { ledgers, epochs }
}
