import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { isStratalogError } from '../../../src/model/errors.js'
import type { BookieTls } from '../../../src/store/bookie/settings.js'
import type { BookieStore } from '../../../src/store/bookie/store.js'
import { bookieAt, packagedText } from '../../helpers/bookie.js'
import { FakeBookie } from '../../helpers/fake-bookie.js'
import { type Bookies, startBookies } from '../../servers/bookkeeper.js'
import { skipWithout } from '../../servers/cache.js'

const DAYS = '2'

/** A certificate authority for one test, by openssl. */
class Authority {
  readonly directory = mkdtempSync(join(tmpdir(), 'stratalog-tls-'))

  constructor() {
    this.#run('req', '-x509', ...NEW_KEY, '-days', DAYS, '-subj', '/CN=authority', ...this.#pair('ca'))
  }

  /** Makes NAME.pem and NAME.key; returns their paths. */
  issue(name: string): { readonly cert: string; readonly key: string } {
    const [, key = '', , cert = ''] = this.#pair(name)
    const request = join(this.directory, `${name}.csr`)
    const names = join(this.directory, `${name}.ext`)
    writeFileSync(names, 'subjectAltName=IP:127.0.0.1')
    this.#run('req', ...NEW_KEY, '-subj', `/CN=${name}`, '-keyout', key, '-out', request)
    const by = ['-CA', this.path('ca.pem'), '-CAkey', this.path('ca.key'), '-CAcreateserial']
    this.#run('x509', '-req', '-in', request, ...by, '-days', DAYS, '-extfile', names, '-out', cert)
    return { cert, key }
  }

  path(name: string): string {
    return join(this.directory, name)
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true })
  }

  #pair(name: string): string[] {
    return ['-keyout', this.path(`${name}.key`), '-out', this.path(`${name}.pem`)]
  }

  #run(...args: string[]): void {
    execFileSync('openssl', args, { stdio: 'pipe' })
  }
}

const NEW_KEY = ['-newkey', 'rsa:2048', '-nodes']

describe('a bookie over TLS', { timeout: 120_000, skip: await skipWithout('bookkeeper') }, () => {
  const stores: BookieStore[] = []
  let authority: Authority
  let other: Authority
  let bookies: Bookies
  let ours: BookieTls
  before(async () => {
    authority = new Authority()
    other = new Authority()
    const server = authority.issue('bookie')
    const client = authority.issue('client')
    ours = {
      ca: readFileSync(authority.path('ca.pem'), 'utf8'),
      cert: readFileSync(client.cert, 'utf8'),
      key: readFileSync(client.key, 'utf8'),
    }
    bookies = await startBookies({
      count: 1,
      config: {
        gcWaitTime: 3_600_000,
        tlsProvider: 'JDK',
        tlsProviderFactoryClass: 'org.apache.bookkeeper.tls.TLSContextFactory',
        tlsClientAuthentication: true,
        tlsKeyStoreType: 'PEM',
        tlsKeyStore: server.key,
        tlsCertificatePath: server.cert,
        tlsTrustStoreType: 'PEM',
        tlsTrustStore: authority.path('ca.pem'),
      },
    })
  })
  after(async () => {
    await Promise.all(stores.map((store) => store.close()))
    await bookies?.stop()
    authority?.remove()
    other?.remove()
  })
  const open = (tls: BookieTls): BookieStore => {
    const store = bookieAt(bookies.bookies[0]?.port ?? 0, { tls, reconnectMs: 1 })
    stores.push(store)
    return store
  }
  const fails = (work: Promise<unknown>, codes: readonly string[]): Promise<void> =>
    assert.rejects(work, (error) => {
      assert.ok(isStratalogError(error), String(error))
      assert.ok(codes.includes(error.code), `${error.code}: ${error.message}`)
      return true
    })

  test('entries go both ways with certificates on both sides', async () => {
    const store = open(ours)
    const entries = Array.from({ length: 50 }, (_, id) =>
      packagedText(5n, BigInt(id), BigInt(id) - 1n, Buffer.alloc(30_000, id)),
    )
    await Promise.all(entries.map((entry, id) => store.addEntry(5n, BigInt(id), entry)))
    const found = await store.readEntries(5n, 0n, 49n, 1 << 24)
    assert.deepEqual(
      found.map((bytes) => Buffer.from(bytes)),
      entries.map(({ bytes }) => Buffer.from(bytes)),
    )
  })

  test('a bookie that our authority did not sign is refused', async () => {
    const ca = readFileSync(other.path('ca.pem'), 'utf8')
    await fails(open({ ...ours, ca }).readEntry(5n, 0n), ['access_denied'])
  })

  test('without a certificate nothing is read where the bookie demands one', async () => {
    const { ca = '' } = ours
    await fails(open({ ca }).readEntry(5n, 0n), ['access_denied', 'store_unavailable'])
  })

  test('a bookie without TLS says so, one that answers garbage is named', async () => {
    const refuses = await FakeBookie.start((request) => request.answer(404))
    const babbles = await FakeBookie.start(({ socket }) => socket.write(Buffer.alloc(64, 0xff)))
    try {
      const at = (bookie: FakeBookie): BookieStore => {
        const store = bookieAt(bookie.port, { tls: ours })
        stores.push(store)
        return store
      }
      await fails(at(refuses).readEntry(5n, 0n), ['unsupported'])
      await fails(at(babbles).readEntry(5n, 0n), ['store_unavailable'])
    } finally {
      await refuses.stop()
      await babbles.stop()
    }
  })
})
