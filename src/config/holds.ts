import { Dlsn } from '../model/dlsn.js'
import { StratalogError } from '../model/errors.js'
import type { PolicyHold, PolicyHoldEdge } from '../model/policy.js'
import { TXID_MAX } from '../model/record.js'
import { formatTime, parseInteger, parseTime } from '../model/units.js'
import { type Checked, quoted } from './problems.js'

/** Holds one policy may state: each is compared with every segment that could be trimmed. */
const HOLDS_MAX = 1_000

const refuse = (message: string, found: unknown) => new StratalogError('invalid_argument', message, { found })

/**
 * Reads the holds of one place, whose shape was checked. Throws `invalid_argument` for an edge that is no position, a
 * range that ends before it begins, and an id given twice: which of the two was meant nobody can know.
 */
export function readHolds(raw: readonly Checked[]): PolicyHold[] {
  if (raw.length > HOLDS_MAX) throw refuse(`${raw.length} holds, ${HOLDS_MAX} are the limit`, raw.length)
  const holds = raw.map(readHold)
  const ids = holds.map(({ id }) => id)
  const twice = ids.find((id, index) => ids.indexOf(id) !== index)
  if (twice !== undefined)
    throw refuse(`the hold ${quoted(twice)} is given twice: give each an id of its own`, twice)
  return holds
}

function readHold(raw: Checked): PolicyHold {
  const id = String(raw.id)
  const hold = {
    id,
    from: edgeOf(id, 'from', raw.from),
    until: edgeOf(id, 'until', raw.until),
    reason: typeof raw.reason === 'string' ? raw.reason : null,
  }
  // Read as it stands it would bind nothing, and what it was meant for would be trimmed.
  if (isEmpty(hold.from, hold.until))
    throw refuse(`the hold ${quoted(id)} ends before it begins: exchange from and until`, id)
  return hold
}

function isEmpty(from: PolicyHoldEdge | null, until: PolicyHoldEdge | null): boolean {
  if (from === null || until === null) return false
  if ('timeMs' in from) return 'timeMs' in until && until.timeMs <= from.timeMs
  if ('txid' in from) return 'txid' in until && until.txid <= from.txid
  return 'dlsn' in until && until.dlsn.compare(from.dlsn) <= 0
}

/** A text is a DLSN, an ISO date or time, or `txid:5`; never an age, which would move on with the clock. */
function edgeOf(id: string, end: string, raw: unknown): PolicyHoldEdge | null {
  if (raw === undefined || raw === null) return null
  const what = `the hold ${quoted(id)}: ${end}`
  if (typeof raw === 'object') {
    const { time, txid } = raw as { time?: unknown; txid?: unknown }
    return txid === undefined ? { timeMs: timeOf(what, String(time)) } : { txid: txidOf(what, String(txid)) }
  }
  const text = String(raw)
  if (/^\d+:\d+:\d+$/.test(text)) return { dlsn: Dlsn.parse(text) }
  if (text.startsWith('txid:')) return { txid: txidOf(what, text.slice('txid:'.length)) }
  return { timeMs: timeOf(what, text) }
}

function txidOf(what: string, text: string): bigint {
  return parseInteger(text, `a txid (${what})`, 0n, TXID_MAX)
}

function timeOf(what: string, text: string): number {
  const ms = /^\d{4}-/.test(text) ? parseTime(text, 0) : null
  if (ms !== null) return ms
  const hint = 'write a DLSN in quotes ("12:340:7"), { time: 2026-01-01T00:00:00Z } or { txid: 5 }'
  throw refuse(`${what} ${quoted(text)} is not a position: ${hint}`, text)
}

/** An edge as stratalog.yaml would say it. */
export function holdEdgeText(edge: PolicyHoldEdge): string {
  if ('dlsn' in edge) return edge.dlsn.toString()
  return 'txid' in edge ? `txid:${edge.txid}` : formatTime(edge.timeMs)
}
