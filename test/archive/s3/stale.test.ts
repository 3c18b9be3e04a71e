import assert from 'node:assert/strict'
import { after, beforeEach, describe, test } from 'node:test'
import { isStratalogError } from '../../../src/model/errors.js'
import { bodyOf } from '../../helpers/archive.js'
import { networkContext } from '../engines/network-context.js'
import { FakeS3, refuse } from './fake-s3.js'

const DAY_MS = 86_400_000
const NOTES = 'p/.stratalog-archive'

let fake: FakeS3
const started: FakeS3[] = []
beforeEach(async () => {
  fake = await new FakeS3().start()
  started.push(fake)
})
after(() => Promise.all(started.map((one) => one.stop())))

const unavailable = (error: unknown) => isStratalogError(error, 'archive_unavailable') && error.retryable

describe('what a store was found to do', () => {
  const noted = () => JSON.parse(fake.objects.get(NOTES)?.bytes.toString() ?? '')

  test('is believed for a week, by an archive that stays open too', async () => {
    const context = networkContext()
    let nowMs = Date.now()
    const store = await fake.open({}, { ...context, clock: { ...context.clock, nowMs: () => nowMs } })
    assert.equal(noted().abilities.conditionalComplete, true)
    // Another version of the store.
    fake.conditionalComplete = false
    nowMs += 6 * DAY_MS
    await store.putIfAbsent('a', bodyOf('a'))
    assert.equal(noted().abilities.conditionalComplete, true)
    nowMs += 2 * DAY_MS
    await store.putIfAbsent('b', bodyOf('b'))
    assert.equal(noted().abilities.conditionalComplete, false)
    assert.equal(noted().checkedMs, nowMs)
    const { length } = fake.asked
    await store.putIfAbsent('c', bodyOf('c'))
    assert.equal(fake.asked.length, length + 1, 'and is not found out again')
  })

  test('counts at once when somebody tries the store anew', async () => {
    // This one takes any checksum, whatever the notes say.
    const store = await fake.seed().open()
    assert.deepEqual(store.capabilities.checksums, ['crc32c'])
    await store.findings?.()
    assert.deepEqual(store.capabilities.checksums, [])
  })
})

describe('what can not be believed', () => {
  test('a small object of the engine that goes on and on is read no further', async () => {
    const store = await fake.seed().open()
    let sentBytes = 0
    fake.intercept = ({ key }, response) => {
      if (key !== 'p/stratalog-archive.json') return undefined
      response.writeHead(200, { etag: '"e"' })
      const send = (): void => {
        if (response.destroyed || sentBytes > 64 * 2 ** 20) return
        sentBytes += 65_536
        response.write(Buffer.alloc(65_536, ' '), send)
      }
      send()
      return 'done'
    }
    await assert.rejects(store.head('absent'), (error) => isStratalogError(error, 'corrupt'))
    assert.ok(sentBytes < 16 * 2 ** 20, `${sentBytes} bytes were taken`)
    await store.close()
  })

  test('an upload that is gone when it is to be ended may be tried again', async () => {
    const store = await fake.seed().open({ putMaxBytes: 2 ** 20, partBytes: 5 * 2 ** 20 })
    let refusals = 0
    fake.intercept = ({ method, query }, response) => {
      if (method !== 'POST' || !query.has('uploadId') || refusals > 0) return undefined
      refusals += 1
      refuse(response, 404, 'NoSuchUpload')
      return 'done'
    }
    const large = Buffer.alloc(6 * 2 ** 20, 'x')
    await assert.rejects(store.putIfAbsent('big', bodyOf(large)), unavailable)
    assert.equal(await store.head('big'), null)
    await store.putIfAbsent('big', bodyOf(large))
    assert.equal((await store.head('big'))?.sizeBytes, large.length)
  })

  test('listings of leftovers whose pages begin again end, and are none', async () => {
    const store = await fake.seed().open()
    const xml = (text: string) => `<?xml version="1.0"?>${text}`
    let uploads = true
    let pages = 0
    fake.intercept = ({ key, query }, response) => {
      if (key !== '' || query.has('uploads') !== uploads) return undefined
      pages += 1
      const turn = pages % 2 === 0 ? 'b' : 'a'
      const marks = `<NextKeyMarker>p/${turn}</NextKeyMarker><NextUploadIdMarker>${turn}</NextUploadIdMarker>`
      const prefix = query.get('prefix') ?? ''
      response
        .writeHead(200, { 'content-type': 'application/xml' })
        .end(
          xml(
            uploads
              ? `<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>${marks}</ListMultipartUploadsResult>`
              : `<ListBucketResult><Name>bucket</Name><IsTruncated>true</IsTruncated>` +
                  `<NextContinuationToken>${turn}</NextContinuationToken>` +
                  `<Contents><Key>${prefix}${turn}</Key><Size>1</Size></Contents></ListBucketResult>`,
          ),
        )
      return 'done'
    }
    for (const which of [true, false]) {
      uploads = which
      pages = 0
      await assert.rejects(store.removeLeftovers?.() ?? Promise.resolve(), unavailable)
      assert.ok(pages < 20, `${pages} pages`)
    }
  })
})
