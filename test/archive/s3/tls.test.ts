import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { createServer, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { s3Archive } from '../../../archive/s3/engine.js'
import type { S3Settings } from '../../../archive/s3/settings.js'
import { present } from '../../../src/model/assert.js'
import { isStratalogError } from '../../../src/model/errors.js'
import type { ArchiveStore } from '../../../src/ports/archive-store.js'
import { bodyOf } from '../../helpers/archive.js'
import { skipWithout } from '../../servers/cache.js'
import { ACCESS_KEY, SECRET_KEY } from '../../servers/s3.js'
import { startVersitygw, type Versitygw } from '../../servers/versitygw.js'
import { networkContext } from '../engines/network-context.js'

const MIB = 2 ** 20

/** An authority of somebody's own, and two certificates of it: one for 127.0.0.1, one for another host. */
function makeCertificates(directory: string): void {
  const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: directory, stdio: 'pipe' })
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  openssl('req', '-x509', ...key, '-days', '2', '-subj', '/CN=own', '-keyout', 'ca.key', '-out', 'ca.pem')
  for (const [name, san] of [
    ['right', 'IP:127.0.0.1'],
    ['wrong', 'DNS:elsewhere.example'],
  ] as const) {
    openssl('req', ...key, '-subj', `/CN=${name}`, '-keyout', `${name}.key`, '-out', `${name}.csr`)
    writeFileSync(join(directory, `${name}.ext`), `subjectAltName=${san}\n`)
    const signed = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-extfile', `${name}.ext`]
    openssl('x509', '-req', '-in', `${name}.csr`, ...signed, '-days', '2', '-out', `${name}.pem`)
  }
}

/** Speaks TLS before a server that does not; headers stay as they are, for they are signed. */
async function tlsBefore(target: string, directory: string, name: string): Promise<Server> {
  const [key, cert] = ['key', 'pem'].map((kind) => readFileSync(join(directory, `${name}.${kind}`)))
  const server = createServer({ key, cert }, (incoming, response) => {
    const { method, url, headers } = incoming
    const onward = request(new URL(url ?? '/', target), { method, headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 0, answer.rawHeaders)
      answer.pipe(response)
    })
    onward.on('error', () => response.destroy())
    incoming.pipe(onward)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return server
}

describe('S3 over TLS with an authority of its own', { skip: await skipWithout('versitygw') }, () => {
  let gateway: Versitygw | undefined
  let directory = ''
  const servers = new Map<string, Server>()
  before(async () => {
    directory = mkdtempSync(join(tmpdir(), 'stratalog-tls-'))
    makeCertificates(directory)
    gateway = await startVersitygw()
    await gateway.makeBucket('bucket')
    for (const name of ['right', 'wrong'])
      servers.set(name, await tlsBefore(gateway.endpoint, directory, name))
  })
  after(async () => {
    for (const server of servers.values()) {
      server.closeAllConnections()
      server.close()
    }
    await gateway?.close()
    rmSync(directory, { recursive: true, force: true })
  })

  const open = (name: string, settings: S3Settings): Promise<ArchiveStore> => {
    const { port } = present(servers.get(name), 'a server').address() as AddressInfo
    const endpoint = `https://127.0.0.1:${port}`
    const sized = { putMaxBytes: 2 * MIB, partBytes: 5 * MIB, region: 'us-east-1' }
    const credentials = async () => ({ accessKeyId: ACCESS_KEY, secretAccessKey: SECRET_KEY })
    return s3Archive('s3://bucket/x', { ...sized, ...settings, endpoint }, credentials).open(networkContext())
  }
  const untrusted = (advice: RegExp) => (error: unknown) =>
    isStratalogError(error, 'archive_unavailable') && !error.retryable && advice.test(error.message)

  test('named as caFile it is trusted: objects whole and in parts, listings, ranges', async () => {
    const store = await open('right', { caFile: join(directory, 'ca.pem') })
    const data = createHash('shake256', { outputLength: 7 * MIB })
      .update('tls')
      .digest()
    await store.putIfAbsent('small', bodyOf('small'))
    await store.putIfAbsent('large', bodyOf(data))
    assert.deepEqual(
      (await store.listFrom('', '', 10)).map(({ key }) => key),
      ['large', 'small'],
    )
    assert.ok(data.equals(await store.readRange('large', 0, data.length)))
    const transport = (await store.findings?.())?.find(({ name }) => name === 'transport')
    assert.equal(transport?.state, 'ok')
    await store.close()
  })

  test('without it nothing is sent there, and the message says what to name', async () => {
    await assert.rejects(open('right', {}), untrusted(/name it as caFile/))
  })

  test('a certificate of another host is refused, whoever signed it', async () => {
    await assert.rejects(open('wrong', { caFile: join(directory, 'ca.pem') }), untrusted(/of another host/))
  })
})
