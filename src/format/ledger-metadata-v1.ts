import { assert, present } from '../model/assert.js'
import type { Ensemble, LedgerMetadata } from '../model/ledger.js'
import { corrupt } from './bytes.js'

/*
 * Ledger metadata of version 1, after the line with the version (LedgerMetadataSerDe.java), fields apart by
 * TAB:
 *
 *   write quorum LF
 *   ensemble size LF
 *   length LF
 *   first entry TAB bookie TAB bookie … LF      for each ensemble
 *   last entry TAB "CLOSED"                     closed; −102 in recovery; no such line while open. No LF
 *
 * It knows no ack quorum, digest, password, creation time or custom metadata.
 */

const IN_RECOVERY = -102n
const CLOSED = 'CLOSED'

/** The lines of metadata that was read in version 1. */
export function encodeV1(metadata: LedgerMetadata): string {
  const { writeQuorum, ensembleSize, state, lastEntryId, lengthBytes } = metadata
  assert(metadata.ackQuorum === writeQuorum, 'version 1 of ledger metadata knows one quorum')
  assert(
    metadata.password === null && metadata.ctimeMs === null && metadata.customMetadata.size === 0,
    'version 1 of ledger metadata knows no password, creation time or custom metadata',
  )
  let out = `${writeQuorum}\n${ensembleSize}\n${state === 'CLOSED' ? lengthBytes : 0n}\n`
  for (const { firstEntryId, members } of metadata.ensembles) {
    assert(!members.some((member) => /[\t\n\r]/.test(member)), 'the name of a store has a tab or a line end')
    out += `${firstEntryId}\t${members.join('\t')}\n`
  }
  if (state === 'CLOSED') out += `${lastEntryId}\t${CLOSED}`
  if (state === 'IN_RECOVERY') out += `${IN_RECOVERY}\t${CLOSED}`
  return out
}

/** Reads the lines; the caller checks the rules of all versions. Throws `corrupt`. */
export function decodeV1(body: string): LedgerMetadata {
  const lines = body.split('\n')
  const [writeQuorum, ensembleSize, length] = lines.slice(0, 3).map((line) => decimal(line))
  // After the last line feed stands the end of a closed ledger, or nothing.
  const end = lines.length > 3 ? lines.at(-1) : undefined
  if (writeQuorum === undefined || ensembleSize === undefined || length === undefined || end === undefined) {
    throw corrupt('ledger metadata of version 1 has fewer than three lines')
  }
  const last = end === '' ? null : lastEntryOf(end)
  const closed = last !== null && last !== IN_RECOVERY
  return {
    formatVersion: 1,
    ensembleSize: Number(ensembleSize),
    writeQuorum: Number(writeQuorum),
    ackQuorum: Number(writeQuorum),
    state: last === null ? 'OPEN' : closed ? 'CLOSED' : 'IN_RECOVERY',
    lengthBytes: closed ? length : 0n,
    lastEntryId: closed ? last : -1n,
    ensembles: lines.slice(3, -1).map(ensembleOf),
    digestType: 'CRC32',
    password: null,
    ctimeMs: null,
    customMetadata: new Map(),
    cToken: 0n,
  }
}

function ensembleOf(line: string): Ensemble {
  const [first, ...members] = line.split('\t')
  return { firstEntryId: decimal(present(first, 'first field')), members }
}

function lastEntryOf(line: string): bigint {
  const [last, tag, ...more] = line.split('\t')
  if (last === undefined || tag !== CLOSED || more.length > 0) {
    throw corrupt('ledger metadata of version 1 ends within a line', { found: line.slice(0, 100) })
  }
  return decimal(last)
}

function decimal(field: string): bigint {
  const value = /^-?\d{1,19}$/.test(field) ? BigInt(field) : null
  if (value === null || BigInt.asIntN(64, value) !== value) {
    throw corrupt('ledger metadata of version 1 has a field that is no number', {
      found: field.slice(0, 100),
    })
  }
  return value
}
