import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Message, Schema } from '../../src/format/protobuf.js'
import { decodeDelimited, decodeMessage, encodeDelimited, encodeMessage } from '../../src/format/protobuf.js'
import { decodeText, encodeText } from '../../src/format/protobuf-text.js'
import { hex, refuses, survivesDamage, toHex } from './vectors.js'

const INNER: Schema = [{ no: 1, name: 'word', kind: 'string' }]
const SCHEMA: Schema = [
  { no: 1, name: 'small', kind: 'int32' },
  { no: 2, name: 'large', kind: 'int64' },
  { no: 3, name: 'color', kind: { values: { RED: 1, BLUE: 2 } } },
  { no: 4, name: 'raw', kind: 'bytes' },
  { no: 20, name: 'inner', kind: { fields: INNER } },
]
const MESSAGE: Message = [
  ['small', -1n],
  ['large', 2n ** 63n - 1n],
  ['color', 'BLUE'],
  ['raw', hex('00ff22')],
  ['inner', [['word', 'é']]],
  ['inner', []],
]
const ENCODED = '08ffffffffffffffffff0110ffffffffffffffff7f1802220300ff22a201040a02c3a9a20100'

describe('protobuf', () => {
  test('binary, both ways', () => {
    assert.equal(toHex(encodeMessage(SCHEMA, MESSAGE)), ENCODED)
    assert.deepEqual(
      encodeMessage(SCHEMA, decodeMessage(SCHEMA, hex(ENCODED))),
      encodeMessage(SCHEMA, MESSAGE),
    )
    survivesDamage(encodeDelimited(SCHEMA, MESSAGE), (bytes) => decodeDelimited(SCHEMA, bytes))
  })

  test('text, both ways', () => {
    const text = `small: -1\nlarge: ${2n ** 63n - 1n}\ncolor: BLUE\nraw: "\\000\\377\\""\ninner {\n  word: "\\303\\251"\n}\ninner {\n}\n`
    assert.equal(encodeText(SCHEMA, MESSAGE), text)
    assert.equal(encodeText(SCHEMA, decodeText(SCHEMA, text)), text)
  })

  test('unknown fields are skipped in binary, refused in text', () => {
    const unknown = 'f80107fa010161fd0100000000f90100000000000000000801'
    assert.deepEqual(decodeMessage(SCHEMA, hex(unknown)), [['small', 1n]])
    refuses('corrupt', () => decodeText(SCHEMA, 'other: 1'))
  })

  test('what is no message is refused', () => {
    // wrong wire types, no field number, an endless varint, a length beyond the end, no UTF-8
    for (const bad of [
      '0a00',
      '2005',
      '00',
      '08ffffffffffffffffffffff',
      '22ffffffff0f',
      'a201030a01ff',
      '0b',
      '0c',
    ]) {
      refuses('corrupt', () => decodeMessage(SCHEMA, hex(bad)), bad)
    }
    refuses('version_unsupported', () => decodeMessage(SCHEMA, hex('1803')))
    refuses('corrupt', () => decodeMessage(SCHEMA, Buffer.alloc(1_000, 0xfb)), 'groups without end')
    for (const bad of [
      'inner {',
      'inner }',
      'inner: 1',
      'small {',
      'raw: 1',
      'small: 1 2',
      '"',
      'small',
      '}',
      '\u0001',
    ]) {
      refuses('corrupt', () => decodeText(SCHEMA, bad), bad)
    }
  })
})
