import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Log } from '../../src/log.js'
import { openLog } from '../../src/open.js'
import { silentLogger } from '../../src/system/logger.js'

/** A log some of whose streams have an archive to themselves: `private/*` in `./private`, the others in `./archive`. */
export class OwnArchiveLog {
  readonly root: string = mkdtempSync(join(tmpdir(), 'stratalog-own-'))

  constructor() {
    mkdirSync(this.directory)
    this.configure('policies: [{ match: private/*, archive: ../private }]')
  }

  get directory(): string {
    return join(this.root, 'log')
  }

  /** What stratalog.yaml says about archives of their own; everything is copied and freed at once. */
  configure(policies: string, archive = 'archive: ../archive'): void {
    const defaults = 'defaults: { hot: { for: 0s }, evict: { lag: 0s }, roll: { idle: 1h } }'
    writeFileSync(
      join(this.directory, 'stratalog.yaml'),
      ['version: 1', archive, defaults, policies, ''].join('\n'),
    )
  }

  open(): Promise<Log> {
    return openLog(this.directory, {
      tiering: 'off',
      control: 'off',
      storeFileBytes: 4 * 2 ** 20,
      system: { logger: silentLogger() },
    })
  }

  /** Appends to a stream, seals it, and lets everything that is due happen. */
  async fill(log: Log, name: string, ...values: string[]): Promise<void> {
    for (const value of values) await log.stream(name).append(value)
    await log.stream(name).seal()
    await log.tier.run()
  }

  /** Keys in an archive, or of one kind of them. */
  keys(archive: 'archive' | 'private' | 'other', part: RegExp = /\/s[0-9a-v]{13}-/): string[] {
    const directory = join(this.root, archive)
    try {
      return readdirSync(directory, { recursive: true, encoding: 'utf8' }).filter((name) => part.test(name))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
      throw error
    }
  }

  /** Takes an archive away, as a mount that is gone; what is returned brings it back. */
  unmount(archive: 'archive' | 'private'): () => void {
    const away = join(this.root, `${archive}-away`)
    renameSync(join(this.root, archive), away)
    return () => {
      rmSync(join(this.root, archive), { recursive: true, force: true })
      renameSync(away, join(this.root, archive))
    }
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

/** Everything that a stream holds. */
export async function valuesOf(log: Log, name: string): Promise<string[]> {
  const values: string[] = []
  for await (const { value } of log.stream(name).read()) values.push(`${value}`)
  return values
}

/** The states of a stream's segments. */
export async function statesOf(log: Log, name: string): Promise<string[]> {
  const states: string[] = []
  for await (const { state } of log.segments(name)) states.push(state)
  return states
}
