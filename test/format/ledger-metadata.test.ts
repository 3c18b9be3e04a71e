import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { decodeLedgerMetadata, encodeLedgerMetadata } from '../../src/format/ledger-metadata.js'
import { AssertionFailed } from '../../src/model/assert.js'
import type { DigestType, LedgerMetadata, LedgerState } from '../../src/model/ledger.js'
import { hex, readsOrNames, refuses, survivesDamage, toHex, vector, vectors } from './vectors.js'

const golden = (name: string) => vector(vectors.ledger_metadata, name)
const at = (...ports: number[]) => ports.map((port) => `127.0.0.1:${port}`)

/** The inputs of the vectors. */
function expected(version: 1 | 2 | 3, state: LedgerState): LedgerMetadata {
  const closed = state === 'CLOSED'
  return {
    formatVersion: version,
    ensembleSize: 3,
    writeQuorum: 3,
    ackQuorum: version === 1 ? 3 : 2,
    state,
    lengthBytes: closed ? 20000n : 0n,
    lastEntryId: closed ? 199n : -1n,
    ensembles: [
      { firstEntryId: 0n, members: at(3181, 3182, 3183) },
      { firstEntryId: 100n, members: at(3181, 3184, 3183) },
    ],
    digestType: version === 1 ? 'CRC32' : 'CRC32C',
    password: version === 1 ? null : Buffer.from('secret'),
    ctimeMs: version === 1 ? null : 1700000000000n,
    customMetadata: new Map(version === 1 ? [] : [['app', Buffer.from('stratalog')]]),
    cToken: version === 3 ? 42n : 0n,
  }
}

/** Plain values, so that a Buffer equals a Uint8Array. */
function plain(metadata: LedgerMetadata): unknown {
  return {
    ...metadata,
    password: metadata.password && toHex(metadata.password),
    customMetadata: [...metadata.customMetadata].map(([key, value]) => [key, toHex(value)]),
  }
}

const bytes = fc.uint8Array({ maxLength: 12 })
const member = fc.string({ minLength: 1, maxLength: 8, unit: fc.constantFrom(...'abc-:._09é"\\\'') })
const anyMetadata: fc.Arbitrary<LedgerMetadata> = fc
  .tuple(
    fc.integer({ min: 1, max: 4 }),
    fc.nat(3),
    fc.nat(3),
    fc.uniqueArray(fc.bigInt(1n, 2n ** 40n), { maxLength: 3 }),
  )
  .chain(([ackQuorum, more, evenMore, starts]) => {
    const ensembleSize = ackQuorum + more + evenMore
    const members = fc.array(member, { minLength: ensembleSize, maxLength: ensembleSize })
    const sorted = [0n, ...starts.sort((a, b) => (a < b ? -1 : 1))]
    return fc.record({
      formatVersion: fc.constantFrom<2 | 3>(2, 3),
      ensembleSize: fc.constant(ensembleSize),
      writeQuorum: fc.constant(ackQuorum + more),
      ackQuorum: fc.constant(ackQuorum),
      state: fc.constantFrom<LedgerState>('OPEN', 'IN_RECOVERY', 'CLOSED'),
      lengthBytes: fc.bigInt(0n, 2n ** 62n),
      lastEntryId: fc.bigInt(-1n, 2n ** 62n),
      ensembles: fc.tuple(
        ...sorted.map((firstEntryId) => members.map((names) => ({ firstEntryId, members: names }))),
      ),
      digestType: fc.constantFrom<DigestType>('CRC32', 'HMAC', 'CRC32C', 'DUMMY'),
      password: fc.option(bytes),
      ctimeMs: fc.option(fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n)),
      customMetadata: fc
        .uniqueArray(fc.tuple(fc.string({ unit: 'grapheme', maxLength: 6 }), bytes), {
          selector: ([key]) => key,
        })
        .map((entries) => new Map(entries)),
      cToken: fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n),
    })
  })

describe('ledger metadata', () => {
  for (const version of [1, 2, 3] as const) {
    for (const state of ['OPEN', 'IN_RECOVERY', 'CLOSED'] as const) {
      test(`golden version ${version} ${state}, both ways`, () => {
        const encoded = hex(golden(`v${version}_${state}`))
        assert.deepEqual(plain(decodeLedgerMetadata(encoded)), plain(expected(version, state)))
        assert.equal(toHex(encodeLedgerMetadata(expected(version, state))), toHex(encoded))
        assert.equal(toHex(encodeLedgerMetadata(decodeLedgerMetadata(encoded))), toHex(encoded))
        if (version < 3) assert.equal(encoded.toString(), golden(`v${version}_${state}_text`))
      })
    }
  }

  test('nodes of a live tree, both ways', () => {
    for (const node of vectors.live.ledger_metadata) {
      const metadata = decodeLedgerMetadata(hex(node))
      assert.equal(toHex(encodeLedgerMetadata(metadata)), node)
      assert.deepEqual([metadata.digestType, metadata.password?.length, metadata.ctimeMs], ['CRC32', 0, null])
    }
    assert.equal(vectors.live.ledger_metadata.length, 2)
  })

  test('round trip of versions 2 and 3', () => {
    fc.assert(
      fc.property(anyMetadata, (metadata) => {
        const closed = metadata.state === 'CLOSED'
        const back = {
          ...metadata,
          lengthBytes: closed ? metadata.lengthBytes : 0n,
          lastEntryId: closed ? metadata.lastEntryId : -1n,
          cToken: metadata.formatVersion === 3 ? metadata.cToken : 0n,
        }
        assert.deepEqual(plain(decodeLedgerMetadata(encodeLedgerMetadata(metadata))), plain(back))
      }),
      { numRuns: 300 },
    )
  })

  test('a digest type without a password is not lost, and an absent ack quorum is the write quorum', () => {
    const metadata: LedgerMetadata = { ...expected(3, 'OPEN'), password: null }
    assert.equal(decodeLedgerMetadata(encodeLedgerMetadata(metadata)).digestType, 'CRC32C')
    const text = golden('v2_OPEN_text').replace('ackQuorumSize: 2\n', '')
    assert.equal(decodeLedgerMetadata(Buffer.from(text)).ackQuorum, 3)
  })

  test('version 3 is refused at every cut; damage is named', () => {
    survivesDamage(hex(golden('v3_CLOSED')), decodeLedgerMetadata)
    refuses('corrupt', () => decodeLedgerMetadata(Buffer.concat([hex(golden('v3_OPEN')), new Uint8Array(1)])))
  })

  test('versions 1 and 2 are refused at every cut within a line; damage is named', () => {
    for (const name of ['v1_CLOSED_text', 'v1_OPEN_text', 'v2_CLOSED_text']) {
      const text = golden(name)
      for (let length = 0; length < text.length; length++) {
        const cut = Buffer.from(text.slice(0, length))
        if (text[length - 1] === '\n') readsOrNames(() => decodeLedgerMetadata(cut))
        else refuses('corrupt', () => decodeLedgerMetadata(cut), `${name} cut at ${length}`)
      }
      for (let index = 0; index < text.length; index++) {
        for (const other of ['\0', '\n', '\t', '"', '{', '}', '9', '-', '\\', '#']) {
          const damaged = Buffer.from(text.slice(0, index) + other + text.slice(index + 1))
          readsOrNames(() => decodeLedgerMetadata(damaged))
        }
      }
    }
  })

  test('what breaks a rule is refused', () => {
    const text = golden('v2_CLOSED_text')
    const broken: readonly (readonly [string, string])[] = [
      ['quorumSize: 3', 'quorumSize: 4'],
      ['ensembleSize: 3', 'ensembleSize: 2'],
      ['ackQuorumSize: 2', 'ackQuorumSize: 0'],
      ['ackQuorumSize: 2', 'ackQuorumSize: 4'],
      ['firstEntryId: 100', 'firstEntryId: 0'],
      ['firstEntryId: 0', 'firstEntryId: 1'],
      ['  firstEntryId: 0\n', ''],
      ['lastEntryId: 199', 'lastEntryId: -2'],
      ['lastEntryId: 199\n', ''],
      ['length: 20000', 'length: -1'],
      ['length: 20000', 'length: 99999999999999999999'],
      ['length: 20000', 'length: 9999999999999999999'],
      ['length: 20000', 'length: "x"'],
      ['quorumSize: 3', 'quorumSize: 2147483648'],
      ['state: CLOSED\n', ''],
      ['quorumSize: 3\n', ''],
      ['password: "secret"', 'password: secret'],
      ['password: "secret"', 'password: "sec\\qret"'],
      ['password: "secret"', 'password: "sec\\777ret"'],
      ['key: "app"', 'key: "\\377"'],
      ['segment {', 'segment'],
      ['ctime', 'constructor'],
    ]
    for (const [from, to] of broken) {
      assert.ok(text.includes(from), from)
      refuses('corrupt', () => decodeLedgerMetadata(Buffer.from(text.replace(from, to))), `${from} → ${to}`)
    }
    const later: readonly (readonly [string, string])[] = [
      ['state: CLOSED', 'state: SEALED'],
      ['state: CLOSED', 'state: constructor'],
      ['digestType: CRC32C', 'digestType: SHA256'],
      ['FormatVersion\t2', 'FormatVersion\t4'],
      ['FormatVersion\t2', 'FormatVersion\t0'],
    ]
    for (const [from, to] of later) {
      refuses('version_unsupported', () => decodeLedgerMetadata(Buffer.from(text.replace(from, to))), to)
    }
    for (const metadata of [
      { ...expected(3, 'OPEN'), ackQuorum: 4 },
      { ...expected(3, 'OPEN'), ensembles: [] },
      { ...expected(1, 'OPEN'), password: Buffer.from('x') },
      { ...expected(1, 'OPEN'), ackQuorum: 2 },
    ]) {
      assert.throws(() => encodeLedgerMetadata(metadata), AssertionFailed)
    }
  })

  test('text as a person might write it is read', () => {
    const text = golden('v2_OPEN_text')
      .replace('segment {', '# a comment\nsegment: <')
      .replace('}\nsegment', '>;\nsegment')
      .replace('"secret"', `'se' "\\143\\x72et"`)
      .replace('quorumSize: 3', 'quorumSize : 3,')
    assert.deepEqual(plain(decodeLedgerMetadata(Buffer.from(text))), plain(expected(2, 'OPEN')))
  })

  test('garbage is named, and a large one is not slow', () => {
    const header = (version: number) => Buffer.from(`BookieMetadataFormatVersion\t${version}\n`)
    const versions = fc.constantFrom(1, 2, 3)
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), versions, (garbage, version) => {
        readsOrNames(() => decodeLedgerMetadata(garbage))
        readsOrNames(() => decodeLedgerMetadata(Buffer.concat([header(version), garbage])))
      }),
      { numRuns: 500 },
    )
    for (const unit of [
      '# ',
      ' ',
      '"\\',
      '"\\"',
      '{',
      'segment{',
      '\\1',
      '9',
      'password:"',
      '\t',
      '0\n',
      '#\n',
    ]) {
      for (const version of [1, 2, 3]) {
        const large = Buffer.from(`${unit.repeat(200_000 / unit.length)}\n`)
        readsOrNames(() => decodeLedgerMetadata(Buffer.concat([header(version), large])))
      }
    }
    const long = golden('v2_OPEN_text').replace('secret', '\\001'.repeat(250_000))
    assert.equal(decodeLedgerMetadata(Buffer.from(long)).password?.length, 250_000)
    refuses('corrupt', () => decodeLedgerMetadata(new Uint8Array(16 * 2 ** 20 + 1)))
  })
})
