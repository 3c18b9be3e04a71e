import { userInfo } from 'node:os'
import process from 'node:process'
import { StratalogError } from '../../src/model/errors.js'
import type { Disk } from '../../src/ports/disk.js'
import type { HdfsPlace } from './settings.js'

const FILE_BYTES_MAX = 1024 * 1024
/** Tokens that are not told: those of the last renewals. */
const SECRETS_KEPT = 4
/** Tokens are base64 as URLs have it. */
const TOKEN = /^[A-Za-z0-9_=+/-]+$/

/** Who we are to a cluster: a name it trusts, or a delegation token, which is a secret. */
export class Credentials {
  readonly #place: HdfsPlace
  readonly #disk: Disk
  readonly #user: string
  #token: string | null = null
  /** Our tokens in whatever form a text may have them, the one before too: an answer may be to a request of then. */
  #secrets: readonly RegExp[] = []

  private constructor(place: HdfsPlace, disk: Disk) {
    this.#place = place
    this.#disk = disk
    // Hadoop's own rule for its clients.
    this.#user = place.settings.user ?? process.env.HADOOP_USER_NAME ?? userInfo().username
  }

  /** Reads the token, where there is one. */
  static async open(place: HdfsPlace, disk: Disk): Promise<Credentials> {
    const credentials = new Credentials(place, disk)
    await credentials.refresh()
    return credentials
  }

  /** What a request says of us. WebHDFS wants it in the query: whatever holds it is not for people. */
  query(): Record<string, string> {
    return this.#token === null ? { 'user.name': this.#user } : { delegation: this.#token }
  }

  /** For people. */
  get described(): string {
    return this.#token === null ? `user ${this.#user}` : 'a delegation token'
  }

  /** Reads the token's file again; true if it holds another one now. */
  async refresh(): Promise<boolean> {
    const path = this.#place.settings.tokenFile
    if (path === undefined) return false
    const bytes = await readWhole(this.#disk, path)
    // A file of JSON as GETDELEGATIONTOKEN answers, or the token alone.
    const found = tokenIn(bytes.toString('utf8').trim())
    if (found === null) {
      throw new StratalogError(
        'config_invalid',
        `archive ${this.#place.location}: ${path} holds no delegation token: write the urlString that GETDELEGATIONTOKEN answers`,
      )
    }
    if (this.#token === found) return false
    this.#token = found
    this.#secrets = [secretForms(found), ...this.#secrets].slice(0, SECRETS_KEPT)
    return true
  }

  /** A text from elsewhere without our token, or anybody's. */
  redact(text: string): string {
    const without = this.#secrets.reduce((shown, secret) => shown.replace(secret, '***'), text)
    return without.replace(/(delegation|token|signature)=[^&\s"']+/gi, '$1=***')
  }
}

/** A token as it is, or with any of its characters as a URL may write them. */
function secretForms(token: string): RegExp {
  const forms = [...token].map((one) => {
    const hex = one.charCodeAt(0).toString(16)
    const either = [...hex].map((digit) => `[${digit}${digit.toUpperCase()}]`).join('')
    return `(?:${/[A-Za-z0-9_]/.test(one) ? one : `\\${one}`}|%${either})`
  })
  return new RegExp(forms.join(''), 'g')
}

function tokenIn(text: string): string | null {
  if (text.startsWith('{')) {
    try {
      const told = JSON.parse(text) as { Token?: { urlString?: unknown } }
      const token = told.Token?.urlString
      return typeof token === 'string' && TOKEN.test(token) ? token : null
    } catch {
      return null
    }
  }
  return TOKEN.test(text) ? text : null
}

/** A file of somebody's settings, at most a megabyte. */
export async function readWhole(disk: Disk, path: string): Promise<Buffer> {
  const file = await disk.open(path, 'read')
  try {
    const sizeBytes = await file.sizeBytes()
    if (sizeBytes > FILE_BYTES_MAX) {
      throw new StratalogError('config_invalid', `${path} has ${sizeBytes} bytes: is it the right file?`)
    }
    const bytes = Buffer.alloc(sizeBytes)
    const read = await file.read(bytes, 0)
    return bytes.subarray(0, read)
  } finally {
    await file.close()
  }
}
