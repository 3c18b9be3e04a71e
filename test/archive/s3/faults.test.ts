import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { after, beforeEach, describe, test } from 'node:test'
import { type ErrorCode, isStratalogError, type StratalogError } from '../../../src/model/errors.js'
import type { ReplayableBody } from '../../../src/ports/archive-store.js'
import { FakeS3, refuse } from './fake-s3.js'

let fake: FakeS3
const started: FakeS3[] = []
beforeEach(async () => {
  fake = await new FakeS3().start()
  started.push(fake)
  fake.seed()
})
after(() => Promise.all(started.map((one) => one.stop())))

const MIB = 1024 * 1024
const large = createHash('shake256', { outputLength: 11 * MIB })
  .update('large')
  .digest()
const parts = { putMaxBytes: MIB, partBytes: 5 * MIB }

function body(data: Uint8Array | string): ReplayableBody {
  const all = Buffer.from(data)
  return {
    sizeBytes: all.length,
    async *open() {
      for (let at = 0; at < all.length; at += 300_000) yield all.subarray(at, at + 300_000)
    },
  }
}

async function failure(work: Promise<unknown>): Promise<StratalogError> {
  const error = await work.then(
    () => assert.fail('it succeeded'),
    (one: unknown) => one,
  )
  assert.ok(isStratalogError(error), String(error))
  return error
}

async function fails(work: Promise<unknown>, code: ErrorCode): Promise<StratalogError> {
  const error = await failure(work)
  assert.equal(error.code, code, error.message)
  return error
}

describe('a success that is lost on its way back', () => {
  test('is our own when the next attempt finds the key taken (invariant 6)', async () => {
    const store = await fake.open()
    let lost = 0
    fake.intercept = ({ method, key }, response, answer) => {
      if (method !== 'PUT' || key !== 'p/a' || lost > 0) return undefined
      lost += 1
      // Stored, and then the line breaks.
      const { objects } = fake
      answer()
      assert.ok(objects.has('p/a'))
      response.socket?.destroy()
      return 'done'
    }
    await store.putIfAbsent('a', body('mine'))
    assert.equal(Buffer.from(await store.readRange('a', 0, 10)).toString(), 'mine')
  })

  test('of another is not taken for ours, though the bytes are equal', async () => {
    const store = await fake.open()
    fake.put('p/a', 'same', { 'x-amz-meta-stratalog-put': 'another' })
    await fails(store.putIfAbsent('a', body('same')), 'object_exists')
  })

  test('and that can not be asked about is unknown, and may be tried again', async () => {
    const store = await fake.open()
    fake.intercept = (_, response) => {
      response.socket?.destroy()
      return 'done'
    }
    const error = await fails(store.putIfAbsent('a', body('x')), 'archive_unavailable')
    assert.ok(error.retryable)
  })

  test('of an upload in parts is found by looking', async () => {
    const store = await fake.open(parts)
    let lost = 0
    fake.intercept = ({ method, query }, response, answer) => {
      if (method !== 'POST' || !query.has('uploadId') || lost > 0) return undefined
      lost += 1
      answer()
      response.socket?.destroy()
      return 'done'
    }
    await store.putIfAbsent('big', body(large))
    assert.ok(large.equals(await store.readRange('big', 0, large.length)))
    assert.equal(lost, 1)
  })
})

describe('uploads in parts', () => {
  test('an end that is answered with 200 and an error is no end', async () => {
    const store = await fake.open(parts)
    let errors = 0
    fake.intercept = ({ method, query }, response) => {
      if (method !== 'POST' || !query.has('uploadId') || errors > 0) return undefined
      errors += 1
      refuse(response, 200, 'InternalError')
      return 'done'
    }
    await store.putIfAbsent('big', body(large))
    assert.equal(errors, 1)
    assert.equal(fake.objects.get('p/big')?.bytes.length, large.length)
  })

  test('one that fails leaves no object and no parts', async () => {
    const store = await fake.open(parts)
    fake.intercept = ({ query }, response) => {
      if (query.get('partNumber') !== '2') return undefined
      refuse(response, 403, 'AccessDenied')
      return 'done'
    }
    await fails(store.putIfAbsent('big', body(large)), 'access_denied')
    assert.equal(fake.uploads.size, 0)
    assert.equal(fake.objects.has('p/big'), false)
  })

  test('a part that fails while the next one is gathered is not left out (invariant 6)', async () => {
    const store = await fake.open(parts)
    let refused = (): void => {}
    const isRefused = new Promise<void>((resolve) => {
      refused = resolve
    })
    fake.intercept = ({ query }, response) => {
      if (query.get('partNumber') !== '1') return undefined
      response.once('close', refused)
      refuse(response, 403, 'AccessDenied')
      return 'done'
    }
    const slow: ReplayableBody = {
      sizeBytes: large.length,
      async *open() {
        yield large.subarray(0, 5 * MIB)
        await isRefused
        // The engine hears of it a little later than the server has said it.
        await new Promise((resolve) => setTimeout(resolve, 100))
        yield large.subarray(5 * MIB)
      },
    }
    await fails(store.putIfAbsent('big', slow), 'access_denied')
    assert.equal(fake.uploads.size, 0)
    assert.equal(fake.objects.has('p/big'), false)
  })

  test('a claim that a crash left is no object, and keeps others from ending an upload there', async () => {
    fake.seed(['conditionalComplete'])
    fake.conditionalComplete = false
    const store = await fake.open(parts)
    const claim = createHash('sha256').update('big').digest('hex')
    fake.put(`p/.stratalog-claims/${claim}`, '{"key":"big","put":"dead"}')
    assert.equal(await store.head('big'), null)
    assert.deepEqual(await store.listFrom('', '', 100), [])
    const error = await fails(store.putIfAbsent('big', body(large)), 'archive_unavailable')
    assert.match(error.message, /new attempt/)
    assert.equal(fake.uploads.size, 0, 'its parts are gone')
    // Under the next attempt's name nothing is in the way, and no claim stays.
    await store.putIfAbsent('big-2', body(large))
    const claims = [...fake.objects.keys()].filter((key) => key.includes('claims'))
    assert.deepEqual(claims, [`p/.stratalog-claims/${claim}`])
  })

  test('leftovers are ended: of this archive, and a day old', async () => {
    const store = await fake.open(parts)
    const old = new Date(Date.now() - 25 * 3_600_000).toISOString()
    const upload = (id: string, key: string, initiated: string) =>
      fake.uploads.set(id, { key, parts: new Map(), meta: { initiated } })
    upload('old', 'p/a', old)
    upload('new', 'p/b', new Date().toISOString())
    upload('probe', 'p/.stratalog-probe/x/parts', old)
    upload('another', 'p/Not A Key', old)
    assert.equal(await store.removeLeftovers?.(), 2)
    assert.deepEqual([...fake.uploads.keys()], ['new', 'another'])
  })
})

describe('answers that are none', () => {
  const page = '<html><body>Please log in</body></html>'
  for (const type of ['text/html; charset=utf-8', 'text/plain']) {
    test(`a page (${type}) is neither success nor absence`, async () => {
      const store = await fake.open()
      fake.intercept = (_, response) => {
        response.writeHead(200, { 'content-type': type, 'content-length': page.length }).end(page)
        return 'done'
      }
      await fails(store.putIfAbsent('a', body('x')), 'archive_unavailable')
      await fails(store.head('a'), 'archive_unavailable')
      await fails(store.readRange('a', 0, 5), 'archive_unavailable')
      await fails(store.listFrom('', '', 5), 'archive_unavailable')
    })
  }

  test('a page that says "not found" is no absence either', async () => {
    const store = await fake.open()
    fake.intercept = (_, response) => {
      response.writeHead(404, { 'content-type': 'text/html' }).end()
      return 'done'
    }
    const error = await fails(store.head('a'), 'archive_unavailable')
    assert.match(error.message, /login page/)
    await fails(store.readRange('a', 0, 1), 'archive_unavailable')
  })

  test('a page with a status that means something of an object means nothing of one', async () => {
    const store = await fake.open()
    fake.put('p/a', 'x')
    for (const [status, type] of [
      [416, 'text/html'],
      [404, 'text/plain'],
    ] as const) {
      fake.intercept = (_, response) => {
        response.writeHead(status, { 'content-type': type }).end(page)
        return 'done'
      }
      if (status === 416) await fails(store.readRange('a', 5, 1), 'archive_unavailable')
      else await assert.rejects(store.delete('a'), isStratalogError)
      fake.intercept = () => undefined
    }
    assert.equal(await store.head('a').then((head) => head?.sizeBytes), 1)
  })

  test('a listing whose pages begin again is an error, and no listing for ever', async () => {
    const store = await fake.open()
    const rows = ['p/a', 'p/b'].map((key) => `<Contents><Key>${key}</Key><Size>1</Size></Contents>`).join('')
    let asked = 0
    fake.intercept = ({ query }, response) => {
      if (query.get('list-type') !== '2') return undefined
      asked += 1
      const next = `<NextContinuationToken>${asked}</NextContinuationToken>`
      const xml = `<ListBucketResult><Name>bucket</Name><IsTruncated>true</IsTruncated>${next}${rows}</ListBucketResult>`
      response.writeHead(200, { 'content-type': 'application/xml' }).end(xml)
      return 'done'
    }
    const error = await fails(store.listFrom('', '', 10), 'archive_unavailable')
    assert.match(error.message, /does not list as S3 does/)
    assert.equal(asked, 2)
  })

  test('ranges that are cut, shifted or whole objects are read again, and then an error', async () => {
    const store = await fake.open()
    fake.put('p/a', '0123456789')
    const wrong: Record<string, (response: import('node:http').ServerResponse) => void> = {
      whole: (response) => response.writeHead(200, { etag: '"e"', 'content-length': 10 }).end('0123456789'),
      shifted: (response) =>
        response.writeHead(206, { 'content-length': 3, 'content-range': 'bytes 3-5/10' }).end('345'),
      short: (response) =>
        response.writeHead(206, { 'content-length': 2, 'content-range': 'bytes 2-4/10' }).end('23'),
      cut: (response) => {
        response.writeHead(206, { 'content-length': 3, 'content-range': 'bytes 2-4/10' })
        response.write('23', () => response.socket?.destroy())
      },
    }
    for (const [name, answer] of Object.entries(wrong)) {
      let times = 1
      fake.intercept = ({ method, headers }, response) => {
        if (method !== 'GET' || headers.range === undefined || times === 0) return undefined
        times -= 1
        answer(response)
        return 'done'
      }
      assert.equal(Buffer.from(await store.readRange('a', 2, 3)).toString(), '234', name)
      times = 100
      const error = await fails(store.readRange('a', 2, 3), 'archive_unavailable')
      assert.ok(error.retryable, name)
    }
  })

  test('a store that does not answer is given up in time, and its connection closed', async () => {
    const store = await fake.open({ idleTimeoutMs: 100 })
    fake.intercept = () => 'done'
    const began = performance.now()
    const error = await fails(store.head('a'), 'archive_unavailable')
    assert.ok(error.retryable)
    assert.ok(performance.now() - began < 20_000)
  })

  test('one that answers a byte now and then is given up as well', async () => {
    const store = await fake.open({ totalTimeoutMs: 300 })
    const timers: NodeJS.Timeout[] = []
    fake.put('p/a', 'x'.repeat(1000))
    fake.intercept = ({ method, headers }, response) => {
      if (method !== 'GET' || headers.range === undefined) return undefined
      response.writeHead(206, { 'content-length': 1000, 'content-range': 'bytes 0-999/1000' })
      timers.push(setInterval(() => response.write('x'), 50))
      return 'done'
    }
    const error = await fails(store.readRange('a', 0, 1000), 'archive_unavailable')
    for (const timer of timers) clearInterval(timer)
    assert.match(error.message, /took more than 3\d\d ms/)
  })
})

describe('a store that has too much to do', () => {
  test('is asked less at once and answers in the end', async () => {
    const store = await fake.open()
    let storms = 12
    fake.intercept = ({ method, key }, response) => {
      if (method !== 'PUT' || !key.startsWith('p/s') || storms === 0) return undefined
      storms -= 1
      refuse(response, 503, 'SlowDown')
      return 'done'
    }
    await Promise.all(Array.from({ length: 10 }, (_, i) => store.putIfAbsent(`s${i}`, body(`${i}`))))
    assert.equal((await store.listFrom('s', '', 100)).length, 10)
  })
})

describe('failures are named', () => {
  const cases: readonly [status: number, name: string, code: ErrorCode, says: RegExp, more?: string][] = [
    [403, 'InvalidAccessKeyId', 'access_denied', /AWS_ACCESS_KEY_ID/],
    [
      403,
      'SignatureDoesNotMatch',
      'access_denied',
      /AWS_SECRET_ACCESS_KEY/,
      '<StringToSign>tok-secret</StringToSign>',
    ],
    [400, 'ExpiredToken', 'access_denied', /have expired/],
    [403, 'AccessDenied', 'access_denied', /s3:PutObject/],
    [404, 'NoSuchBucket', 'archive_missing', /make the bucket bucket first/],
    [403, 'QuotaExceeded', 'archive_full', /quota/],
    [507, 'InsufficientStorage', 'archive_full', /make room/],
    [301, 'PermanentRedirect', 'config_invalid', /another region/],
    [
      400,
      'AuthorizationHeaderMalformed',
      'config_invalid',
      /region to eu-west-3/,
      '<Region>eu-west-3</Region>',
    ],
    [403, 'InvalidObjectState', 'thawing', /recall/],
    [400, 'InvalidStorageClass', 'config_invalid', /storage class/],
    [500, 'InternalError', 'archive_unavailable', /check the store/],
  ]
  for (const [status, name, code, says, more] of cases) {
    test(`${name} is ${code}, and says no secret`, async () => {
      const store = await fake.open()
      fake.intercept = (_, response) => {
        refuse(response, status, name, more)
        return 'done'
      }
      const error = await fails(store.readRange('a', 0, 1), code)
      assert.match(error.message, says)
      assert.match(error.message, /^archive s3:\/\/bucket\/p: reading 1 bytes at 0 of a failed/)
      const everything = JSON.stringify([error, error.cause, { ...(error.cause as object) }]) + error.stack
      assert.doesNotMatch(everything, /secret/)
    })
  }

  test('a refusal without words is asked for them', async () => {
    const store = await fake.open()
    fake.intercept = ({ method }, response) => {
      if (method === 'HEAD') response.writeHead(400).end()
      else refuse(response, 400, 'ExpiredToken')
      return 'done'
    }
    const error = await fails(store.head('a'), 'access_denied')
    assert.match(error.message, /have expired/)
  })

  test('a clock that differs is put right for the store, and told', async () => {
    const store = await fake.open()
    const serverMs = Date.now() + 3_600_000
    const server = new Date(serverMs).toISOString().replace(/\.\d+Z/, 'Z')
    fake.intercept = ({ headers }, response) => {
      const signed = String(headers['x-amz-date']).replace(/^(....)(..)(..T..)(..)/, '$1-$2-$3:$4:')
      response.setHeader('date', new Date(serverMs).toUTCString())
      if (Math.abs(Date.parse(signed) - serverMs) < 900_000) return undefined
      refuse(response, 403, 'RequestTimeTooSkewed', `<ServerTime>${server}</ServerTime>`)
      return 'done'
    }
    assert.equal(await store.head('nothing'), null)
    const findings = await store.findings?.()
    const clock = findings?.find(({ name }) => name === 'clock')
    assert.equal(clock?.state, 'bad')
    assert.match(clock?.text ?? '', /3[56]\d\d s behind/)
  })

  test('one that can not be put right says by how much', async () => {
    const store = await fake.open()
    fake.intercept = (_, response) => {
      const server = new Date(Date.now() - 7_200_000).toISOString()
      response.setHeader('date', 'nonsense')
      refuse(response, 403, 'RequestTimeTooSkewed', `<ServerTime>${server}</ServerTime>`)
      return 'done'
    }
    const error = await fails(store.listFrom('', '', 1), 'access_denied')
    assert.match(error.message, /clock is 7[12]\d\d s ahead of/)
  })
})

describe('thawing', () => {
  test('starts once, says how far it is, and reads fail at once until then', async () => {
    const store = await fake.open()
    fake.put('p/a', 'frozen', { 'x-amz-storage-class': 'DEEP_ARCHIVE' })
    fake.intercept = ({ method, headers }, response) => {
      if (method !== 'GET' || headers.range === undefined) return undefined
      refuse(response, 403, 'InvalidObjectState')
      return 'done'
    }
    const error = await fails(store.readRange('a', 0, 1), 'thawing')
    assert.ok(error.retryable)
    assert.equal(await store.thaw?.('a', 36 * 3_600_000), 'thawing')
    const request = fake.asked.find(({ query }) => query.has('restore'))
    assert.match(request?.body.toString() ?? '', /<Days>2<\/Days>.*<Tier>Standard<\/Tier>/)
    const before = fake.asked.length
    fake.put('p/a', 'frozen', {
      'x-amz-storage-class': 'DEEP_ARCHIVE',
      'x-amz-restore': 'ongoing-request="true"',
    })
    assert.equal(await store.thaw?.('a', 1), 'thawing')
    assert.equal(fake.asked.length, before + 1, 'asked, not started again')
    const restored = 'ongoing-request="false", expiry-date="Fri, 21 Dec 2029 00:00:00 GMT"'
    fake.put('p/a', 'frozen', { 'x-amz-storage-class': 'DEEP_ARCHIVE', 'x-amz-restore': restored })
    assert.equal(await store.thaw?.('a', 1), 'readable')
    fake.put('p/b', 'warm', { 'x-amz-storage-class': 'GLACIER_IR' })
    assert.equal(await store.thaw?.('b', 1), 'readable')
    await fails(store.thaw?.('none', 1) ?? Promise.resolve(), 'object_not_found')
  })
})
