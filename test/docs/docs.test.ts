import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { describe, test } from 'node:test'
import { exitCodeOf } from '../../src/cli/exit-codes.js'
import { present } from '../../src/model/assert.js'
import { ERROR_CODES, StratalogError } from '../../src/model/errors.js'

const read = (file: string) => readFileSync(join(process.cwd(), file), 'utf8')
const DOCUMENTS = [
  'README.md',
  'ARCHITECTURE.md',
  'CONTRIBUTING.md',
  'CHANGELOG.md',
  ...readdirSync(join(process.cwd(), 'docs'), { recursive: true })
    .map((name) => join('docs', String(name)))
    .filter((name) => name.endsWith('.md')),
]

describe('README', () => {
  test('begins with the two lines a newcomer needs', () => {
    const code = /```sh\n([\s\S]*?)```/.exec(read('README.md'))?.[1]
    assert.equal(code, 'npm install && npm run demo\nnpm install && npm test\n')
  })

  test('its quick start is the one of examples/, which the tests run', () => {
    const region = /\/\/ #region readme\n([\s\S]*?)\/\/ #endregion readme/.exec(
      read('examples/quick-start.ts'),
    )
    const code = /```ts\n([\s\S]*?)```/.exec(read('README.md'))
    assert.equal(code?.[1], present(region?.[1], 'region of the example'))
  })
})

describe('docs/errors.md', () => {
  const rows = [...read('docs/errors.md').matchAll(/^\| `([a-z_]+)` \| (\d) \| (.+) \| (.+) \|$/gm)]

  test('has every code once, in the order of the source, and no other', () => {
    assert.deepEqual(
      rows.map(([, code]) => code),
      [...ERROR_CODES],
    )
  })

  test('names the exit code that the command line uses', () => {
    for (const code of ERROR_CODES) {
      const row = present(
        rows.find(([, name]) => name === code),
        `row of ${code}`,
      )
      assert.equal(Number(row[2]), exitCodeOf(new StratalogError(code, 'text')), code)
    }
  })
})

describe('docs/reliability.md', () => {
  test('names for each invariant tests that cite it by its number', () => {
    const rows = [...read('docs/reliability.md').matchAll(/^\| (\d+) \| (.+?) \| (.+?) \|/gm)]
    assert.deepEqual(
      rows.map(([, number]) => Number(number)),
      [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    )
    for (const [, number, , tests] of rows) {
      const files = [...`${tests}`.matchAll(/`(test\/[^`]+)`/g)].map(([, file]) => `${file}`)
      assert.ok(files.length > 0, `invariant ${number} has tests`)
      for (const file of files) assert.ok(cites(read(file), `${number}`), `${file} cites invariant ${number}`)
    }
  })

  /** Whether a text says "invariant 3", "invariants 1 and 3" or "Invariants 1, 2, 3". */
  function cites(text: string, number: string): boolean {
    const lists = text.matchAll(/invariants? ((?:\d+(?:, | and |, and )?)+)/gi)
    return [...lists].some(([, list]) => `${list}`.split(/\D+/).includes(number))
  }
})

describe('every document', () => {
  for (const file of DOCUMENTS) {
    test(`${file} names only files that are there`, () => {
      const text = read(file)
      const links = [...text.matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)/g)].map(([, to]) =>
        join(dirname(file), `${to}`),
      )
      const paths = [
        ...text.matchAll(
          /`((?:src|tiering|archive|test|docs|config|examples|bench|scripts)\/[\w./-]+\.\w+)`/g,
        ),
      ]
      for (const path of [...links, ...paths.map(([, path]) => `${path}`)]) {
        assert.ok(existsSync(join(process.cwd(), path)), `${file} names ${path}`)
      }
    })
  }

  test('functions that ARCHITECTURE.md names are in the file it names beside them', () => {
    const named = [
      ...read('ARCHITECTURE.md').matchAll(/`([\w.#]+)` \| `((?:src|tiering|archive)\/[\w./-]+\.ts)`/g),
    ]
    assert.ok(named.length > 20, 'the tables of paths are there')
    for (const [, name, file] of named) {
      const last = present(`${name}`.split('.').at(-1), 'name')
      assert.match(
        read(`${file}`),
        new RegExp(`(function\\*? |class |^  (async |private async |\\*|async \\*)?)${last}\\b`, 'm'),
        `${file} has ${name}`,
      )
    }
  })
})
