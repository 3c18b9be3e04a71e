import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type IncomingHttpHeaders, request, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { after, afterEach, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { present } from '../../src/model/assert.js'
import { FaultProxy, HTML_PAGE, LOST_ANSWER, type ProxyFault, SLOW_DOWN } from '../helpers/fault-proxy.js'

const SIZE = 200_000
const DATA = Buffer.from(Array.from({ length: SIZE }, (_, i) => i % 251))

interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
}

/** A server that says what it was asked and keeps what it was given. */
class Echo {
  readonly got: { method: string; path: string; headers: readonly string[]; body: Buffer }[] = []
  aborted = 0
  readonly #server: Server

  constructor() {
    this.#server = createServer(async (request, response) => {
      const chunks: Buffer[] = []
      try {
        for await (const chunk of request) chunks.push(chunk as Buffer)
      } catch {
        this.aborted += 1
        return
      }
      const { method = '', url = '', rawHeaders } = request
      this.got.push({ method, path: url, headers: rawHeaders, body: Buffer.concat(chunks) })
      const to = /^\/redirect\?to=(.+)/.exec(url)?.[1]
      if (to !== undefined) response.writeHead(307, { location: `${to}/data?a=%2Fb%20c` }).end()
      else if (method === 'GET') response.writeHead(200, { 'content-length': SIZE }).end(DATA)
      else response.writeHead(201).end()
    })
  }

  async listen(): Promise<string> {
    this.#server.listen(0, '127.0.0.1')
    await once(this.#server, 'listening')
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  close(): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }
}

async function ask(
  url: string,
  options: { method?: string; body?: Buffer; headers?: Record<string, string>; timeoutMs?: number } = {},
): Promise<Answer> {
  const { method = 'GET', body, headers = {}, timeoutMs = 5000 } = options
  const signal = AbortSignal.timeout(timeoutMs)
  const sent = request(url, { method, headers, agent: false, signal })
  const answered = once(sent, 'response')
  if (headers.expect !== undefined) {
    sent.flushHeaders()
    await Promise.race([once(sent, 'continue'), answered])
  }
  sent.end(body)
  const [response] = await answered
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk)
  return { status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks) }
}

describe('the fault proxy', () => {
  const echo = new Echo()
  const other = new Echo()
  let started: FaultProxy | undefined
  let otherUrl = ''
  const proxy = (): FaultProxy => present(started, 'proxy')
  const broken = (fault: ProxyFault, method = 'GET') => proxy().inject({ method }, fault)
  const get = (timeoutMs = 5000) => ask(`${proxy().url}/a`, { timeoutMs })
  const aborted = async (count: number): Promise<void> => {
    for (let tries = 0; echo.aborted < count && tries < 100; tries++) await sleep(20)
    assert.equal(echo.aborted, count, 'uploads that the server saw end early')
  }
  const put = (timeoutMs = 5000) => ask(`${proxy().url}/a`, { method: 'PUT', body: DATA, timeoutMs })
  before(async () => {
    started = await FaultProxy.start(await echo.listen())
    otherUrl = await other.listen()
  })
  after(async () => {
    await started?.close()
    echo.close()
    other.close()
  })
  afterEach(() => {
    proxy().clear()
    proxy().requests.length = 0
    echo.got.length = 0
    echo.aborted = 0
  })

  test('passes on what is not to fail, as it was', async () => {
    const path = '/bucket/a%2Fb%20c?x-id=Put&list-type=2'
    const headers = { 'X-Signed': 'As It Is', expect: '100-continue', 'content-length': `${SIZE}` }
    const created = await ask(`${proxy().url}${path}`, { method: 'PUT', body: DATA, headers })
    assert.equal(created.status, 201)
    const [got] = echo.got
    assert.equal(got?.path, path)
    assert.ok(got?.body.equals(DATA))
    const at = got?.headers.indexOf('X-Signed') ?? -1
    assert.equal(got?.headers[at + 1], 'As It Is')
    const host = got?.headers.findIndex((name) => name.toLowerCase() === 'host') ?? -1
    assert.equal(`http://${got?.headers[host + 1]}`, proxy().url, 'the host that the client signed')
    assert.ok((await get()).body.equals(DATA))
    assert.deepEqual(
      proxy().requests.map(({ method, status, fault }) => [method, status, fault]),
      [
        ['PUT', 201, null],
        ['GET', 200, null],
      ],
    )
  })

  test('a fault is for the requests that match, as often as asked', async () => {
    const { hits } = proxy().inject({ method: 'PUT' }, SLOW_DOWN)
    assert.equal(hits, 0)
    const storm = proxy().inject({ method: 'GET', path: /^\/a/, nth: 2, times: 2 }, SLOW_DOWN)
    const statuses: number[] = []
    for (let i = 0; i < 5; i++) statuses.push((await get()).status)
    assert.deepEqual(statuses, [200, 503, 503, 200, 200])
    assert.equal(storm.hits, 2)
    const always = proxy().inject({ times: Number.POSITIVE_INFINITY }, HTML_PAGE)
    assert.match((await get()).body.toString(), /html/)
    assert.equal((await put()).status, 503, 'the fault asked for earlier comes first')
    assert.match((await put()).body.toString(), /html/)
    always.remove()
    assert.equal((await get()).status, 200)
    assert.equal(echo.got.length, 4, 'what is answered by the proxy does not reach the server')
  })

  test('an upload is cut, stalls, or is reset before it begins', async () => {
    broken({ kind: 'reset', at: 'request' }, 'PUT')
    await assert.rejects(put(), { code: 'ECONNRESET' })
    broken({ kind: 'reset', at: 'request', afterBytes: 70_000 }, 'PUT')
    await assert.rejects(put(), /ECONNRESET|EPIPE/)
    await aborted(1)
    broken({ kind: 'stall', at: 'request', afterBytes: 70_000 }, 'PUT')
    await assert.rejects(put(300), { name: 'AbortError' })
    await sleep(100)
    assert.equal(echo.aborted, 1, 'a stalled connection stays, as far as the server can see')
    assert.equal(echo.got.length, 0)
  })

  test('an answer is lost, stalls, or is cut', async () => {
    const lost = broken(LOST_ANSWER, 'PUT')
    await assert.rejects(put(), { code: 'ECONNRESET' })
    assert.equal(echo.got.length, 1, 'the server did what it was asked for')
    assert.equal(lost.hits, 1)
    broken({ kind: 'stall', at: 'response' })
    await assert.rejects(get(300), { name: 'AbortError' })
    broken({ kind: 'stall', at: 'response', afterBytes: 1000 })
    await assert.rejects(get(300), /abort/i)
    broken({ kind: 'cut', afterBytes: 1000 })
    await assert.rejects(get(), /aborted|hang up/)
    broken({ kind: 'reset', at: 'response', afterBytes: 1000 })
    await assert.rejects(get(), /aborted|ECONNRESET/)
  })

  test('bytes are changed and added, on both ways', async () => {
    broken({ kind: 'flip', at: 'response', atByte: 100_000 })
    const { body } = await get()
    assert.equal(body.length, SIZE)
    assert.deepEqual(
      [...body.keys()].filter((i) => body[i] !== DATA[i]),
      [100_000],
    )
    broken({ kind: 'flip', at: 'request', atByte: 0 }, 'PUT')
    assert.equal((await put()).status, 201)
    assert.equal(echo.got.at(-1)?.body[0], 1)
    for (const byBytes of [-1, 1, 5000, -SIZE]) {
      broken({ kind: 'resize', byBytes })
      const changed = await get()
      assert.equal(changed.body.length, SIZE + byBytes)
      assert.equal(changed.headers['content-length'], `${SIZE + byBytes}`)
    }
  })

  test('redirects lead through it', async () => {
    const to = `${proxy().url}/redirect?to=${otherUrl}`
    const { headers } = await ask(to)
    const location = `${headers.location}`
    assert.match(location, /^http:\/\/127\.0\.0\.1:\d+\/data\?a=%2Fb%20c$/)
    assert.ok(!location.startsWith(otherUrl))
    assert.equal((await ask(to)).headers.location, location, 'one listener for one address')
    proxy().inject({ redirected: true }, SLOW_DOWN)
    assert.equal((await get()).status, 200)
    assert.equal((await ask(location)).status, 503)
    assert.equal((await ask(location)).status, 200)
    assert.equal(other.got.length, 1)
    const plain = await FaultProxy.start(otherUrl, { redirects: false })
    assert.equal(
      (await ask(`${plain.url}/redirect?to=http://a:1`)).headers.location,
      'http://a:1/data?a=%2Fb%20c',
    )
    await plain.close()
  })

  test('a server that is gone looks gone', async () => {
    const nothing = await FaultProxy.start('http://127.0.0.1:1')
    await assert.rejects(ask(`${nothing.url}/a`), { code: 'ECONNRESET' })
    await nothing.close()
  })
})
