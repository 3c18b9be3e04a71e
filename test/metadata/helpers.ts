import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { SqliteMetadata, SqliteMetadataOptions } from '../../src/metadata/sqlite/open.js'
import { openSqliteMetadata } from '../../src/metadata/sqlite/open.js'
import type { Logger } from '../../src/ports/logger.js'
import { realClock } from '../../src/system/clock.js'

/** Takes every message and keeps those of errors. */
export function quietLogger(errors: object[] = []): Logger {
  const logger: Logger = {
    debug: () => undefined,
    info: () => undefined,
    warn: () => undefined,
    error: (fields) => {
      errors.push(fields)
    },
    child: () => logger,
  }
  return logger
}

/** A fresh directory and the function that removes it. */
export function temporaryDirectory(): { directory: string; remove: () => void } {
  const directory = mkdtempSync(join(tmpdir(), 'stratalog-index-'))
  return { directory, remove: () => rmSync(directory, { recursive: true, force: true }) }
}

/** Opens the metadata with the real clock and a quiet logger. */
export function openFor(file: string, options: Partial<SqliteMetadataOptions> = {}): SqliteMetadata {
  return openSqliteMetadata(file, { clock: realClock(), logger: quietLogger(), ...options })
}

/** An engine in a fresh directory for a contract suite; `pick` chooses the port that is tested. */
export function opener<Port>(
  pick: (metadata: SqliteMetadata) => Port,
): () => Promise<{ subject: Port; reopen: () => Promise<Port>; cleanup: () => Promise<void> }> {
  return async () => {
    const { directory, remove } = temporaryDirectory()
    const file = join(directory, 'index.db')
    let metadata = openFor(file)
    return {
      subject: pick(metadata),
      async reopen() {
        await metadata.close()
        metadata = openFor(file)
        return pick(metadata)
      },
      async cleanup() {
        await metadata.close()
        remove()
      },
    }
  }
}
