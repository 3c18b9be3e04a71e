import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { afterEach, describe, test } from 'node:test'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { ZooKeeperSettings } from '../../src/zookeeper/client.js'
import { outcomeUnknown, ZK, zkCode } from '../../src/zookeeper/errors.js'
import { JuteWriter } from '../../src/zookeeper/jute.js'
import { TYPE } from '../../src/zookeeper/messages.js'
import { openZooKeeper, parseServer } from '../../src/zookeeper/open.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { text } from './contract.js'
import { openAt, PORTS, ScriptedServer, until } from './helpers.js'

type Answer = (socket: Socket, xid: number, type: number) => void

describe('a server of ZooKeeper that answers garbage', () => {
  let server: Server | undefined
  afterEach(() => {
    server?.close()
  })

  /** A server that welcomes every session and then does as it is told. */
  const serve = async (answer: Answer, welcome?: Buffer): Promise<string> => {
    server = createServer((socket) => {
      socket.on('error', () => undefined)
      let greeted = false
      socket.on('data', (bytes: Buffer) => {
        if (!greeted) {
          greeted = true
          const hello = new JuteWriter().int(0).int(3_000).long(77n).buffer(new Uint8Array(16)).bool(false)
          socket.write(welcome ?? hello.packet())
        } else if (bytes.length >= 12) answer(socket, bytes.readInt32BE(4), bytes.readInt32BE(8))
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return `127.0.0.1:${(server.address() as AddressInfo).port}`
  }
  const ended = (pattern: RegExp) => (error: unknown) =>
    outcomeUnknown(error) && isStratalogError(error) && pattern.test(String(error.cause))
  const times = { sessionTimeoutMs: 3_000, connectTimeoutMs: 400 }

  const cases: readonly [string, RegExp, Answer][] = [
    ['a huge length', /2147483647 bytes/, (socket) => socket.write(Buffer.from('7fffffff', 'hex'))],
    ['a negative length', /-2 bytes/, (socket) => socket.write(Buffer.from('fffffffe', 'hex'))],
    [
      'the answer of another call',
      /answers call 999/,
      (socket) => socket.write(new JuteWriter().int(999).long(1n).int(0).packet()),
    ],
    [
      'an answer that is too short',
      /too early/,
      (socket, xid) => socket.write(new JuteWriter().int(xid).long(1n).int(0).int(1).packet()),
    ],
    [
      'a string longer than the answer',
      /too early/,
      (socket, xid) =>
        socket.write(
          new JuteWriter()
            .int(xid)
            .long(1n)
            .int(0)
            .int(2 ** 30)
            .packet(),
        ),
    ],
    ['an answer without a header', /too early/, (socket) => socket.write(new JuteWriter().int(5).packet())],
  ]
  for (const [name, pattern, answer] of cases) {
    test(`${name} ends the connection and is named`, async () => {
      const zk = await openAt([await serve(answer)], times)
      await assert.rejects(zk.create('/a', text('')), ended(pattern))
      await zk.close()
    })
  }

  test('a multi whose results are not those of its operations ends the connection', async () => {
    const answer: Answer = (socket, xid) => {
      const head = new JuteWriter().int(xid).long(1n).int(0)
      socket.write(head.int(14).bool(false).int(0).packet())
    }
    const zk = await openAt([await serve(answer)], times)
    const ops = [{ op: 'check', path: '/a', version: 0 }] as const
    await assert.rejects(zk.multi(ops), ended(/result of type 14/))
    await zk.close()
  })

  test('a server that answers pings and no call costs the connection, in time', async () => {
    const pong: Answer = (socket, xid, type) => {
      if (type === 11) socket.write(new JuteWriter().int(xid).long(1n).int(0).packet())
    }
    const zk = await openAt([await serve(pong)], { ...times, sessionTimeoutMs: 3_000 })
    const startMs = performance.now()
    await assert.rejects(zk.create('/a', text('')), ended(/did not answer/))
    assert.ok(performance.now() - startMs < 10_000)
    await zk.close()
  })

  test('a session that the server says is over is lost at once', async () => {
    let greetings = 0
    server = createServer((socket) => {
      socket.on('error', () => undefined)
      socket.once('data', () => {
        greetings += 1
        // The second one comes to go on with the session, and hears that there is none.
        const timeoutMs = greetings === 2 ? 0 : 30_000
        const hello = new JuteWriter()
          .int(0)
          .int(timeoutMs)
          .long(BigInt(greetings === 2 ? 0 : 70 + greetings))
        socket.write(hello.buffer(new Uint8Array(16)).bool(false).packet())
        if (greetings === 1) setTimeout(() => socket.destroy(), 20)
      })
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const address = `127.0.0.1:${(server.address() as AddressInfo).port}`
    const zk = await openAt([address], { sessionTimeoutMs: 30_000, connectTimeoutMs: 400 })
    const { lost } = zk
    for (let i = 0; i < 200 && !lost.aborted; i++) await new Promise((resolve) => setTimeout(resolve, 5))
    assert.match(String(lost.reason), /expired/)
    await zk.close()
  })

  test('a server that says nothing, or speaks something else, is given up in time', async () => {
    const silent = createServer(() => undefined)
    silent.listen(0, '127.0.0.1')
    await once(silent, 'listening')
    const address = `127.0.0.1:${(silent.address() as AddressInfo).port}`
    const web = await serve(() => undefined, Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'))
    for (const server of [address, web]) {
      const startMs = performance.now()
      await assert.rejects(
        openAt([server], times),
        (error) => isStratalogError(error, 'metadata_unavailable') && error.message.includes(server),
      )
      assert.ok(performance.now() - startMs < 10_000)
    }
    silent.close()
  })

  test('a server that ends every connection, as a port for TLS does, is named so', async () => {
    for (const end of ['end', 'resetAndDestroy'] as const) {
      const closing = createServer((socket) => {
        socket.on('error', () => undefined)
        socket.once('data', () => socket[end]())
      })
      closing.listen(0, '127.0.0.1')
      await once(closing, 'listening')
      const address = `127.0.0.1:${(closing.address() as AddressInfo).port}`
      await assert.rejects(
        openAt([address], times),
        (error) => isStratalogError(error, 'metadata_unavailable') && /port for TLS/.test(error.message),
      )
      closing.close()
    }
  })

  test('servers are named by host and port', () => {
    assert.deepEqual(parseServer('zk1'), { host: 'zk1', port: 2181 })
    assert.deepEqual(parseServer('[::1]:22'), { host: '::1', port: 22 })
    for (const wrong of ['', 'a:b', 'a:70000', 'zk://a', 'a:1:2', 'a/b:1']) {
      assert.throws(
        () => parseServer(wrong),
        (error) => isStratalogError(error, 'config_invalid'),
      )
    }
  })
})

describe('a server of ZooKeeper that answers late, wrongly or never', () => {
  const started: ScriptedServer[] = []
  afterEach(() => {
    for (const server of started.splice(0)) server.stop()
  })
  const SESSION_MS = 3_000
  const start = async (count = 1): Promise<[ScriptedServer, ...ScriptedServer[]]> => {
    for (let i = 0; i < count; i++) started.push(await ScriptedServer.start(SESSION_MS))
    return [...started] as [ScriptedServer, ...ScriptedServer[]]
  }
  /** Time stands still unless the test moves it; the first server is asked first, and the others in their order. */
  const openBy = async (servers: readonly ScriptedServer[], over: Partial<ZooKeeperSettings> = {}) => {
    const clock = new ManualClock()
    const random = { ...PORTS.random, fraction: () => 0 }
    const times = { sessionTimeoutMs: SESSION_MS, connectTimeoutMs: 10_000, chroot: '' }
    const settings = { servers: servers.map(({ address }) => address), ...times, ...over }
    return { clock, zk: await openZooKeeper(settings, { ...PORTS, clock, random }) }
  }

  test('invariant 3: after a reconnect the deadline counts from the hello that was answered', async () => {
    const [server] = await start()
    const auth = { scheme: 'digest', user: 'ann', password: 'secret' } as const
    const { clock, zk } = await openBy([server], { auth })
    const { lost } = zk
    await until(() => server.types.length === 1)
    // The hello is answered late, and what is sent after it (the login) never.
    let answered = false
    server.onHello = (greet) => {
      if (answered) return
      answered = true
      void clock.advance(400).then(greet)
    }
    server.cutAll()
    await until(() => server.types.length === 2)
    await clock.advance(SESSION_MS * (2 / 3) - 401)
    assert.equal(lost.aborted, false)
    // The server may have counted from the hello: who waits longer keeps its locks beside another.
    await clock.advance(1)
    assert.equal(lost.aborted, true)
    await zk.close()
  })

  /** Lets time pass until it holds, in steps that leave the sockets time too. */
  const passUntil = async (clock: ManualClock, holds: () => boolean): Promise<void> => {
    for (let i = 0; !holds(); i++) {
      assert.ok(i < 2_000, `it never came: ${String(holds)}`)
      await clock.advance(5)
      await new Promise((resolve) => setTimeout(resolve, 2))
    }
  }

  test('invariant 3: the answer that the session has expired loses it at once, and is no contact', async () => {
    const [server] = await start()
    const { zk } = await openBy([server])
    const { lost } = zk
    server.onCall = ({ answer }) => answer(ZK.SESSION_EXPIRED)
    let lostWhenTold = false
    const told = zk.create('/a', text('')).catch((error: unknown) => {
      lostWhenTold = lost.aborted
      throw error
    })
    await assert.rejects(told, (error) => zkCode(error) === ZK.SESSION_EXPIRED && !outcomeUnknown(error))
    assert.equal(lostWhenTold, true)
    await zk.close()
  })

  test('a read whose answer makes no sense fails as corrupt, and is not sent again', async () => {
    const [server] = await start()
    const { clock, zk } = await openBy([server])
    server.onCall = ({ type, answer }) => {
      if (type === TYPE.get) answer(0, new JuteWriter().int(1))
      else answer(0, new JuteWriter())
    }
    let failure: unknown = null
    zk.get('/a').catch((error: unknown) => {
      failure = error
    })
    await passUntil(clock, () => failure !== null)
    assert.ok(isStratalogError(failure, 'corrupt'))
    assert.match(failure.message, /read \/a: the answer of ZooKeeper makes no sense .*: ask again/)
    assert.equal(server.types.filter((type) => type === TYPE.get).length, 1)
    await zk.close()
  })

  test('a read that ends every connection is given up, with longer and longer pauses between them', async () => {
    const [server] = await start()
    const { clock, zk } = await openBy([server])
    const atMs: number[] = []
    server.onHello = (greet) => {
      atMs.push(clock.monotonicMs())
      greet()
    }
    server.onCall = ({ socket }) => socket.destroy()
    let failure: unknown = null
    zk.get('/a').catch((error: unknown) => {
      failure = error
    })
    await passUntil(clock, () => failure !== null)
    assert.ok(isStratalogError(failure, 'metadata_unavailable') && !outcomeUnknown(failure))
    assert.match(failure.message, /4 connections ended before it was answered/)
    assert.equal(server.types.filter((type) => type === TYPE.get).length, 4)
    // A greeting alone is no reason to hurry: half of 20 ms and of 40 ms, by the random numbers of this test.
    const [first = 0, second = 0, third = 0] = atMs
    assert.ok(second - first >= 10 && third - second >= 20, `${atMs}`)
    await zk.close()
  })

  test('a second server that stands still leaves the third one time to save the session', async () => {
    const servers = await start(3)
    const { clock, zk } = await openBy(servers)
    const { lost, sessionId } = zk
    present(servers[1], 'the second').onHello = () => undefined
    const third = present(servers[2], 'the third')
    await passUntil(clock, () => third.hellos === 1 || lost.aborted)
    third.onCall = ({ answer }) => answer(ZK.NO_NODE)
    assert.equal(await zk.get('/a'), null)
    assert.equal(lost.aborted, false)
    assert.equal(zk.sessionId, sessionId)
    assert.equal(present(servers[1], 'the second').hellos, 1)
    await zk.close()
  })

  test('who closes does not wait for a server that is asked for the next session', async () => {
    const [server] = await start()
    const { clock, zk } = await openBy([server])
    const { lost } = zk
    // Time stands still from here on: what waited for it to pass would wait for ever.
    server.onHello = () => undefined
    server.cutAll()
    await clock.advance(SESSION_MS)
    assert.equal(lost.aborted, true)
    const before = server.hellos
    const asking = assert.rejects(zk.get('/a'), (error) => isStratalogError(error, 'closed'))
    await until(() => server.hellos > before)
    await zk.close()
    await asking
  })

  test('invariant 11: a watch that was let go is kept nowhere, the others are set again', async () => {
    const [server] = await start()
    const { zk } = await openBy([server])
    const sets: Buffer[] = []
    server.onCall = ({ type, packet, answer }) => {
      if (type === TYPE.setWatches) sets.push(packet)
      else answer(ZK.NO_NODE)
    }
    const again = async (): Promise<void> => {
      const before = server.hellos
      server.cutAll()
      await until(() => server.hellos > before)
      assert.equal(await zk.exists('/a'), null)
    }
    const [gone, stays] = [(): void => undefined, (): void => undefined]
    await zk.exists('/kept', stays)
    for (const path of ['/kept', '/left']) await zk.exists(path, gone)
    for (const path of ['/kept', '/left', '/never']) zk.forget(path, gone)
    await again()
    assert.equal(sets.length, 1)
    assert.ok(sets[0]?.includes('/kept') && !sets[0].includes('/left'))
    zk.forget('/kept', stays)
    await again()
    assert.equal(sets.length, 1)
    await zk.close()
  })
})
