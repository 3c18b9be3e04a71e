import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import type { ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { inspect } from 'node:util'
import { hdfsArchive } from '../../../archive/hdfs/engine.js'
import type { HdfsSettings } from '../../../archive/hdfs/settings.js'
import { isStratalogError, type StratalogError } from '../../../src/model/errors.js'
import type { ArchiveStore } from '../../../src/ports/archive-store.js'
import { bodyOf } from '../../helpers/archive.js'
import { networkContext } from '../engines/network-context.js'
import { FakeHdfs, fail, json, someBytes, type Twist } from './fake-hdfs.js'

const QUICK = { namenodeTimeoutMs: 1000, readTimeoutMs: 300, writeTimeoutMs: 500, user: 'tester' }

async function refusal(work: Promise<unknown>): Promise<StratalogError> {
  const error = await work.then(
    () => assert.fail('it should have failed'),
    (found: unknown) => found,
  )
  assert.ok(isStratalogError(error), `a StratalogError, not ${error}`)
  return error
}

function openAt(
  host: string,
  settings: HdfsSettings = {},
  more: { existing?: boolean; readOnly?: boolean } = {},
) {
  const engine = hdfsArchive(`hdfs://${host}/archive`, { ...QUICK, ...settings })
  return engine.open({ ...networkContext(), ...more })
}

async function withFake(
  run: (fake: FakeHdfs, store: ArchiveStore) => Promise<void>,
  settings: HdfsSettings = {},
): Promise<void> {
  const fake = await FakeHdfs.start()
  const store = await openAt(fake.host, settings)
  try {
    await run(fake, store)
  } finally {
    await store.close()
    await fake.close()
  }
}

const objectsOf = (fake: FakeHdfs): string[] =>
  [...fake.files].flatMap(([name, { bytes }]) => (bytes === null ? [] : [name])).sort()

/** Twists what `chosen` says, so many times. */
function times(count: number, chosen: (op: string, data: boolean) => boolean, answer: Twist): Twist {
  let left = count
  return (seen, response) => {
    if (left === 0 || !chosen(seen.op, seen.data)) return false
    left -= 1
    return answer(seen, response)
  }
}

describe('uploads', () => {
  test('an object is under a temporary name until it is whole and compared (invariant 6)', () =>
    withFake(async (fake, store) => {
      fake.twist = ({ op }) => {
        if (op === 'GETFILECHECKSUM') assert.ok(!fake.files.has('/archive/a/b'))
        return false
      }
      await store.putIfAbsent('a/b', bodyOf(someBytes(2_500_000)))
      assert.deepEqual(objectsOf(fake), ['/archive/a/b', '/archive/stratalog-archive.json'])
      const ops = fake.ops()
      assert.ok(ops.lastIndexOf('GETFILECHECKSUM:data') < ops.lastIndexOf('RENAME'))
    }))

  test('one that is cut short on its way is not named: it is sent again', () =>
    withFake(async (fake, store) => {
      fake.twist = times(
        1,
        (op, data) => op === 'CREATE' && data,
        ({ path }, response) => {
          // As a DataNode closes a file whose upload was cut, with something in between that says that all is well.
          fake.files.set(path, { fileId: 99_999, bytes: Buffer.from('short') })
          response.writeHead(201, { 'content-length': 0 }).end()
          return true
        },
      )
      await store.putIfAbsent('a/b', bodyOf(someBytes(10_000)))
      assert.deepEqual(fake.files.get('/archive/a/b')?.bytes, someBytes(10_000))
      assert.deepEqual(objectsOf(fake), ['/archive/a/b', '/archive/stratalog-archive.json'])
    }))

  test('one whose bytes changed on the way is noticed and sent again', () =>
    withFake(async (fake, store) => {
      fake.twist = times(
        1,
        (op, data) => op === 'CREATE' && data,
        ({ path }, response) => {
          fake.files.set(path, { fileId: 99_999, bytes: Buffer.alloc(10_000, 1) })
          response.writeHead(201, { 'content-length': 0 }).end()
          return true
        },
      )
      await store.putIfAbsent('a/b', bodyOf(someBytes(10_000)))
      assert.deepEqual(fake.files.get('/archive/a/b')?.bytes, someBytes(10_000))
    }))

  test('where HDFS has another kind of checksum they are read back', () =>
    withFake(async (fake, store) => {
      fake.twist = ({ op, data }, response) => {
        if (op !== 'GETFILECHECKSUM' || !data) return false
        json(response, { FileChecksum: { algorithm: 'COMPOSITE-CRC32C', bytes: '01020304', length: 4 } })
        return true
      }
      await store.putIfAbsent('a/b', bodyOf(someBytes(10_000)))
      assert.ok(fake.ops().includes('OPEN:data'))
      const found = await store.findings?.()
      assert.equal(found?.find(({ name }) => name === 'checksums')?.state, 'without')
    }))

  test('a DataNode that says 200, 500 or nothing has not stored anything', () =>
    withFake(async (fake, store) => {
      for (const status of [200, 500, 0]) {
        const before = fake.seen.length
        fake.twist = times(
          1,
          (op, data) => op === 'CREATE' && data,
          (_, response) => {
            if (status === 0) response.destroy()
            else response.writeHead(status, { 'content-length': 0 }).end()
            return true
          },
        )
        await store.putIfAbsent(`a/${status}`, bodyOf('x'))
        const creates = fake.seen.slice(before).filter(({ op, data }) => op === 'CREATE' && data)
        assert.equal(new Set(creates.map(({ path }) => path)).size, 2, 'each try has a name of its own')
      }
      assert.equal(objectsOf(fake).filter((name) => name.includes('.tmp')).length, 0)
    }))

  test('a rename whose success is lost on its way back is a success, and only one', () =>
    withFake(async (fake, store) => {
      fake.twist = times(
        1,
        (op) => op === 'RENAME',
        ({ path, query }, response) => {
          const file = fake.files.get(path)
          if (file !== undefined) fake.files.set(query.get('destination') ?? '', file)
          fake.files.delete(path)
          response.destroy()
          return true
        },
      )
      await store.putIfAbsent('a/b', bodyOf('first'))
      assert.equal((await refusal(store.putIfAbsent('a/b', bodyOf('second')))).code, 'object_exists')
      assert.equal(Buffer.from(await store.readRange('a/b', 0, 10)).toString(), 'first')
    }))

  test('{"boolean":false} is believed only together with what is there', () =>
    withFake(async (fake, store) => {
      fake.twist = (seen, response) => {
        if (seen.op !== 'RENAME') return false
        // Another writer took the name in the moment before.
        fake.files.set('/archive/a/b', { fileId: 77_777, bytes: Buffer.from('other') })
        json(response, { boolean: false })
        return true
      }
      assert.equal((await refusal(store.putIfAbsent('a/b', bodyOf('mine')))).code, 'object_exists')
      fake.twist = ({ op }, response) => {
        if (op !== 'RENAME') return false
        json(response, { boolean: false })
        return true
      }
      assert.equal((await refusal(store.putIfAbsent('a/c', bodyOf('mine')))).code, 'archive_unavailable')
      assert.deepEqual(
        objectsOf(fake).filter((name) => name.includes('.tmp')),
        [],
      )
    }))
})

describe('reads', () => {
  test('an answer that is short, long, cut or a page is asked for again', () =>
    withFake(async (fake, store) => {
      const data = someBytes(10_000)
      await store.putIfAbsent('a/b', bodyOf(data))
      const octets = { 'content-type': 'application/octet-stream' }
      const answers: Twist[] = [
        (_, response) =>
          response.writeHead(200, { ...octets, 'content-length': 5 }).end('short') !== undefined,
        (_, response) => response.writeHead(200, octets).end(Buffer.alloc(20_000)) !== undefined,
        (_, response) => {
          response.writeHead(200, { ...octets, 'content-length': 10_000 }).write('cut')
          setTimeout(() => response.destroy(), 20)
          return true
        },
        (_, response) =>
          response.writeHead(200, { 'content-type': 'text/html' }).end('<html>login</html>') !== undefined,
        // Stands still.
        (_, response) => response.writeHead(200, { ...octets, 'content-length': 10_000 }).write('x') || true,
      ]
      for (const answer of answers) {
        fake.twist = times(1, (op, direct) => op === 'OPEN' && direct, answer)
        assert.ok(data.equals(await store.readRange('a/b', 0, 10_000)))
      }
    }))

  test('a DataNode that fails is left out of the next request, by its port for transfers', () =>
    withFake(async (fake, store) => {
      await store.putIfAbsent('a/b', bodyOf('x'))
      const port = Number(fake.host.split(':')[1])
      const holder = { ipAddr: '127.0.0.1', hostName: 'dn', infoPort: port, infoSecurePort: 0, xferPort: 9 }
      const once = times(
        1,
        (op, data) => op === 'OPEN' && data,
        (_, response) => {
          response.destroy()
          return true
        },
      )
      fake.twist = (seen, response) => {
        if (seen.op !== 'GET_BLOCK_LOCATIONS') return once(seen, response)
        json(response, { LocatedBlocks: { locatedBlocks: [{ locations: [holder] }] } })
        return true
      }
      await store.readRange('a/b', 0, 1)
      const opens = fake.seen.filter(({ op, data }) => op === 'OPEN' && !data)
      assert.equal(opens.at(-1)?.query.get('excludedatanodes'), '127.0.0.1:9')
    }))

  test('a gateway that nobody announced is found out', () =>
    withFake(async (fake, store) => {
      await store.putIfAbsent('a/b', bodyOf('0123456789'))
      fake.gateway = true
      assert.equal(Buffer.from(await store.readRange('a/b', 2, 3)).toString(), '234')
      await store.putIfAbsent('a/c', bodyOf('x'))
      assert.equal((await store.findings?.())?.find(({ name }) => name === 'gateway')?.state, 'without')
    }))
})

describe('bad input of a cluster', () => {
  test('a redirect to another network is refused, and nothing is sent there', () =>
    withFake(async (fake, store) => {
      for (const host of ['169.254.169.254', '10.1.2.3:9864', 'elsewhere.example.org:9864']) {
        fake.redirectHost = host
        const error = await refusal(store.putIfAbsent('a/b', bodyOf('x')))
        assert.equal(error.code, 'access_denied')
        assert.match(error.message, /allowedHosts/)
      }
    }))

  test('tries are not multiplied: what the NameNode failed at after all its tries is not begun anew', () =>
    withFake(async (fake, store) => {
      fake.twist = ({ op, path }, response) => {
        if (op !== 'GETFILESTATUS' || !path.includes('/.tmp/')) return false
        response.writeHead(502).end()
        return true
      }
      const before = fake.seen.length
      const error = await refusal(store.putIfAbsent('a/b', bodyOf('x')))
      assert.equal(error.code, 'archive_unavailable')
      const asked = fake.seen.slice(before)
      assert.equal(asked.filter(({ op, data }) => op === 'CREATE' && data).length, 1)
      assert.equal(
        asked.filter(({ op, path }) => op === 'GETFILESTATUS' && path.includes('/.tmp/')).length,
        6,
      )
      assert.deepEqual(objectsOf(fake), ['/archive/stratalog-archive.json'])
    }))

  test('a listing that does not go on from the name it is told ends, and is no listing', () =>
    withFake(async (fake, store) => {
      for (let i = 0; i < 101; i += 1) {
        fake.files.set(`/archive/k${String(i).padStart(3, '0')}`, {
          fileId: 7000 + i,
          bytes: Buffer.from('x'),
        })
      }
      fake.twist = ({ query }) => {
        query.delete('startAfter')
        return false
      }
      const error = await refusal(store.listFrom('', '', 1000))
      assert.equal(error.code, 'archive_unavailable')
      assert.match(error.message, /does not list names from one on/)
    }))

  test('exceptions have names, and say what to do', () =>
    withFake(async (fake, store) => {
      const cases = [
        [
          403,
          'SafeModeException',
          'Cannot create file/archive/.tmp/x. Name node is in safe mode.',
          'archive_unavailable',
          /safe mode/,
        ],
        [
          403,
          'NSQuotaExceededException',
          'The NameSpace quota (directories and files) of directory /archive is exceeded: quota=2 file count=3',
          'archive_full',
          /-setQuota/,
        ],
        [
          403,
          'DSQuotaExceededException',
          'The DiskSpace quota of /archive is exceeded: quota = 1048576 B = 1 MB',
          'archive_full',
          /-setSpaceQuota/,
        ],
        [
          403,
          'AccessControlException',
          'Permission denied: user=tester, access=WRITE, inode="/":root:supergroup:drwxr-xr-x',
          'access_denied',
          /read and write/,
        ],
        [
          403,
          'InvalidToken',
          'token (HDFS_DELEGATION_TOKEN token 1 for tester) can’t be found in cache',
          'access_denied',
          /token/,
        ],
        [
          400,
          'IllegalArgumentException',
          'Invalid value for webhdfs parameter "user.name"',
          'config_invalid',
          /settings/,
        ],
      ] as const
      for (const [status, exception, text, code, advice] of cases) {
        fake.twist = ({ op }, response) => {
          if (op !== 'CREATE') return false
          fail(response, status, exception, text)
          return true
        }
        const error = await refusal(store.putIfAbsent('a/b', bodyOf('x')))
        assert.equal(error.code, code, exception)
        assert.match(error.message, advice)
      }
      assert.equal(await store.head('a/b'), null)
    }))

  test('a page, an empty answer or an exception that is none end neither the process nor in "absent"', () =>
    withFake(async (fake, store) => {
      const answers: Twist[] = [
        (_, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<html>') !== undefined,
        (_, response) => response.writeHead(200, { 'content-type': 'application/json' }).end() !== undefined,
        (_, response) => response.writeHead(404).end('nothing here') !== undefined,
        (_, response) => {
          json(response, { RemoteException: null }, 403)
          return true
        },
      ]
      for (const answer of answers) {
        fake.twist = answer
        assert.equal((await refusal(store.head('a/b'))).code, 'archive_unavailable')
        assert.equal((await refusal(store.delete('a/b'))).code, 'archive_unavailable')
        fake.twist = (seen, response) =>
          ['DELETE', 'MKDIRS', 'RENAME'].includes(seen.op) ? answer(seen, response) : false
        assert.equal((await refusal(store.putIfAbsent('new/b', bodyOf('x')))).code, 'archive_unavailable')
      }
    }))

  test('without its marker the path is not the archive: nothing is "not found" there', () =>
    withFake(async (fake, store) => {
      fake.files.delete('/archive/stratalog-archive.json')
      const calls = [
        () => store.head('a'),
        () => store.readRange('a', 0, 1),
        () => store.listFrom('', '', 1),
        () => store.delete('a'),
      ]
      for (const call of calls) {
        assert.equal((await refusal(call())).code, 'archive_missing')
      }
      assert.equal((await refusal(openAt(fake.host, {}, { existing: true }))).code, 'archive_missing')
      assert.equal(
        (await refusal(openAt(fake.host, {}, { existing: true, readOnly: true }))).code,
        'archive_missing',
      )
      fake.files.set('/archive/others', { fileId: 5000, bytes: Buffer.from('x') })
      assert.equal((await refusal(openAt(fake.host))).code, 'refused')
    }))

  test('who only reads writes nothing', () =>
    withFake(async (fake, _store) => {
      const before = fake.seen.length
      const reader = await openAt(fake.host, {}, { existing: true, readOnly: true })
      await reader.listFrom('', '', 1)
      await reader.close()
      assert.ok(fake.seen.slice(before).every(({ method }) => method === 'GET'))
    }))
})

describe('two NameNodes', () => {
  test('the one on standby is passed over, and the active one remembered', () =>
    withFake(async (active, first) => {
      await first.putIfAbsent('a/b', bodyOf('x'))
      const standby = await FakeHdfs.start()
      standby.twist = (_, response) => {
        fail(
          response,
          403,
          'StandbyException',
          'Operation category READ is not supported in state standby. Visit https://s.apache.org/sbnn-error',
        )
        return true
      }
      const store = await openAt(standby.host, { namenodes: [active.host] })
      const asked = standby.seen.length
      assert.equal(asked, 1)
      assert.deepEqual(await store.head('a/b'), { key: 'a/b', sizeBytes: 1 })
      await store.putIfAbsent('a/c', bodyOf('y'))
      assert.equal(standby.seen.length, asked)
      // They change places, in the middle of everything.
      const { twist } = standby
      standby.twist = () => false
      for (const [name, file] of active.files) standby.files.set(name, file)
      active.twist = twist
      assert.deepEqual(await store.head('a/c'), { key: 'a/c', sizeBytes: 1 })
      await store.delete('a/c')
      standby.twist = twist
      assert.match((await refusal(store.head('a/c'))).message, /no NameNode is active/)
      await store.close()
      await standby.close()
    }))

  test('one that is down is passed over', () =>
    withFake(async (active) => {
      const store = await openAt('127.0.0.1:1', { namenodes: [active.host] })
      await store.putIfAbsent('a/b', bodyOf('x'))
      await store.close()
    }))
})

describe('who we are', () => {
  test('a delegation token takes the place of the name, is read again when refused, and is never told', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'stratalog-hdfs-'))
    const tokenFile = join(directory, 'token')
    await writeFile(tokenFile, 'FirstSecret\n')
    await withFake(
      async (fake, store) => {
        assert.ok(
          fake.seen.every(
            ({ query }) => query.get('delegation') === 'FirstSecret' && !query.has('user.name'),
          ),
        )
        fake.twist = ({ query }, response) => {
          const token = query.get('delegation')
          if (token === 'SecondSecret') return false
          fail(response, 403, 'InvalidToken', `token delegation=${token} is expired`)
          return true
        }
        const error = await refusal(store.head('a/b'))
        assert.equal(error.code, 'access_denied')
        assert.doesNotMatch(JSON.stringify([error.message, String(error.cause), error]), /FirstSecret/)
        await writeFile(tokenFile, JSON.stringify({ Token: { urlString: 'SecondSecret' } }))
        assert.equal(await store.head('a/b'), null)
        await store.putIfAbsent('a/b', bodyOf('x'))
      },
      { tokenFile },
    )
    await rm(directory, { recursive: true })
  })

  test('a token is told in no form: encoded, cut off, as the name of an exception, nor after it was renewed', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'stratalog-hdfs-'))
    const tokenFile = join(directory, 'token')
    const token = 'Kg=+/First-Secret_Of=='
    await writeFile(tokenFile, token)
    await withFake(
      async (fake, store) => {
        const forms = [
          token,
          encodeURIComponent(token),
          encodeURIComponent(token).replace(/%../g, (hex) => hex.toLowerCase()),
        ]
        const told = async (answer: (response: ServerResponse) => void): Promise<void> => {
          fake.twist = (_, response) => {
            answer(response)
            return true
          }
          const error = await refusal(store.head('a/b'))
          const shown = inspect([error, error.message, error.cause], { depth: 8 })
          assert.doesNotMatch(shown, /First|Secret/i, shown)
        }
        for (const form of forms) {
          await told((response) => fail(response, 400, 'IllegalArgumentException', `bad ${form} there`))
          await told((response) => fail(response, 400, `Odd ${form}`, 'x'))
          for (const before of [0, 280, 290])
            await told((response) => response.writeHead(400).end(`${'x'.repeat(before)} ${form}`))
        }
        await writeFile(tokenFile, 'Another')
        await told((response) => fail(response, 403, 'InvalidToken', `expired: ${token}`))
        await told((response) => fail(response, 400, 'IllegalArgumentException', `late: ${token}`))
      },
      { tokenFile },
    )
    await rm(directory, { recursive: true })
  })
})

describe('leftovers', () => {
  test('temporary files go when they are a day old by their names, and nothing else', () =>
    withFake(async (fake, store) => {
      const rest = 'v'.repeat(26)
      fake.files.set(`/archive/.tmp/0000000001-${rest}`, { fileId: 6000, bytes: Buffer.from('x') })
      fake.files.set('/archive/.tmp/somebodys', { fileId: 6001, bytes: Buffer.from('x') })
      assert.equal(await store.removeLeftovers?.(), 1)
      assert.ok(fake.files.has('/archive/.tmp/somebodys'))
    }))
})
