import type { ArchiveFinding } from '../../src/ports/archive-store.js'
import type { Abilities } from './abilities.js'
import type { S3Session } from './session.js'

interface Texts {
  readonly name: string
  readonly ok: string
  readonly without: string
}

const TEXTS: Readonly<Record<keyof Abilities, Texts>> = {
  conditionalPut: {
    name: 'conditional-put',
    ok: 'a key is taken by one writer only (If-None-Match on PUT)',
    without:
      'does not refuse a taken key on PUT: it is looked for before each upload, and the random attempt in every name keeps writers apart',
  },
  conditionalComplete: {
    name: 'conditional-complete',
    ok: 'the same for uploads in parts (If-None-Match on CompleteMultipartUpload)',
    without:
      'does not refuse a taken key when an upload in parts ends: a small object claims the key first, where PUT refuses',
  },
  crc32c: {
    name: 'checksum',
    ok: 'checks the CRC-32C of every upload',
    without: 'does not check the CRC-32C of uploads: every object is read back before its hot copy may go',
  },
  crc32cOfWhole: {
    name: 'checksum-of-parts',
    ok: 'checks the CRC-32C over all parts of an object',
    without:
      'does not check a CRC-32C over all parts: each part is checked by itself, and the object is read back',
  },
  md5: {
    name: 'content-md5',
    ok: 'checks the Content-MD5 of uploads',
    without: 'does not check the Content-MD5 of uploads',
  },
  startAfter: {
    name: 'start-after',
    ok: 'a listing begins behind a name',
    without:
      'does not begin a listing behind a name: finding one segment of many takes a request for 1,000 names',
  },
}

/** A machine that is more off than this is told so: names of objects and txids carry its time. */
const SKEW_MS_MAX = 60_000

/** What was found out, as sentences. */
export function findingsOf(session: S3Session, abilities: Abilities | null): ArchiveFinding[] {
  const found: ArchiveFinding[] = [transport(session)]
  if (abilities === null) {
    const text = 'what this store does was never tried: open the archive for writing once'
    return [...found, { name: 'probes', state: 'without', text }, ...clock(session)]
  }
  for (const [ability, { name, ok, without }] of Object.entries(TEXTS)) {
    const has = abilities[ability as keyof Abilities]
    // Where CRC-32C is checked nobody asks for MD5.
    if (ability === 'md5' && abilities.crc32c) continue
    found.push({ name, state: has ? 'ok' : 'without', text: has ? ok : without })
  }
  const guarded = abilities.crc32c || abilities.md5
  if (!guarded) {
    const text =
      'uploads are signed with the SHA-256 of their bytes, which every store must check; all is read back'
    found.push({ name: 'upload-integrity', state: 'without', text })
  }
  return [...found, ...clock(session)]
}

function transport({ place }: S3Session): ArchiveFinding {
  const { endpoint } = place
  if (endpoint === null || endpoint.protocol === 'https:')
    return { name: 'transport', state: 'ok', text: 'requests go over TLS' }
  const loopback = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(endpoint.hostname)
  const text = loopback
    ? 'requests go over plain HTTP on this machine'
    : `requests go to ${endpoint.host} over plain HTTP: whoever is in between can read them; use https`
  return { name: 'transport', state: loopback ? 'ok' : 'bad', text }
}

/** The SDK keeps the difference to the store's clock that it met, where that was large. */
function clock({ client }: S3Session): ArchiveFinding[] {
  const offsetMs = client.config.systemClockOffset
  if (Math.abs(offsetMs) < SKEW_MS_MAX) return []
  const way = offsetMs > 0 ? 'behind' : 'ahead of'
  const text = `this machine's clock is ${Math.round(Math.abs(offsetMs) / 1000)} s ${way} the store's; requests are signed with the store's time, records carry this machine's: set it right (NTP)`
  return [{ name: 'clock', state: 'bad', text }]
}
