import { Buffer } from 'node:buffer'
import { packageEntry } from '../../src/format/ledger-digest.js'
import { PackagedEntry } from '../../src/format/packaged-entry.js'
import type { DigestType } from '../../src/model/ledger.js'
import { BOOKIE_DEFAULTS, type BookieSettings } from '../../src/store/bookie/settings.js'
import { type BookieStore, openBookie } from '../../src/store/bookie/store.js'
import { realClock } from '../../src/system/clock.js'
import { realRandom } from '../../src/system/random.js'
import { memoryLogger } from './archive.js'

/** A way to the bookie at a port of this machine. */
export function bookieAt(
  port: number,
  settings: Partial<BookieSettings> = {},
  log: string[] = [],
): BookieStore {
  const address = { id: `127.0.0.1:${port}`, host: '127.0.0.1', port }
  const ports = { clock: realClock(), logger: memoryLogger(log), random: realRandom() }
  return openBookie(address, { ...BOOKIE_DEFAULTS, ...settings }, ports)
}

/** An entry as the ledger writer packages it. */
export function packagedText(
  ledgerId: bigint,
  entryId: bigint,
  lac: bigint,
  payload: string | Uint8Array,
  digest: DigestType = 'CRC32',
): PackagedEntry {
  const body = Buffer.from(payload)
  return new PackagedEntry(packageEntry(body, digest, ledgerId, entryId, lac, BigInt(body.length)))
}
