import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { Ajv } from 'ajv'
import fc from 'fast-check'
import { parseEnvironment } from '../../src/config/env.js'
import { parseConfig } from '../../src/config/file.js'
import { resolveConfig } from '../../src/config/resolve.js'
import { EXPECTS, schemaText } from '../../src/config/schema.js'
import { isStratalogError } from '../../src/model/errors.js'

const FILE = 'stratalog.yaml'
const config = (name: string) => readFileSync(join(process.cwd(), 'config', name), 'utf8')

/** The problems that reading `text` tells. */
function problemsOf(text: string): string[] {
  try {
    parseConfig(text, FILE)
  } catch (error) {
    assert.ok(isStratalogError(error, 'config_invalid'), String(error))
    const { problems } = error.details
    assert.ok(Array.isArray(problems) && problems.length > 0)
    for (const problem of problems) assert.ok(error.message.includes(problem), `the message lacks ${problem}`)
    return problems.map(String)
  }
  return []
}

function refuses(text: string, ...expected: RegExp[]): void {
  const problems = problemsOf(text)
  for (const pattern of expected) {
    assert.ok(
      problems.some((problem) => pattern.test(problem)),
      `${pattern} is not among\n${problems.join('\n')}`,
    )
  }
  assert.equal(problems.length, expected.length, problems.join('\n'))
}

describe('the configuration file', () => {
  test('every file under config/ is read', () => {
    const names = [
      'stratalog.yaml',
      ...readdirSync(join(process.cwd(), 'config/examples')).map((name) => `examples/${name}`),
    ]
    assert.ok(names.length >= 4)
    for (const name of names) resolveConfig({ file: parseConfig(config(name), name) }).policyFor('a/b')
  })

  test('the example that init writes says what is built in', () => {
    const resolved = resolveConfig({ file: parseConfig(config('stratalog.yaml'), FILE) })
    const builtIn = resolveConfig({})
    assert.deepEqual(resolved.policyFor('any').policy, builtIn.policyFor('any').policy)
    assert.equal(resolved.archive.value, './archive')
    assert.equal(resolved.stores.value?.length, 3)
  })

  test('the published schema is that of the code, and takes and refuses the same', () => {
    assert.equal(config('stratalog.schema.json'), schemaText(), 'run scripts/write-schema.mjs')
    const ajv = new Ajv({ allErrors: true })
    ajv.addKeyword(EXPECTS)
    const validate = ajv.compile(JSON.parse(config('stratalog.schema.json')) as object)
    assert.ok(validate({ version: 1, defaults: { hot: { for: '24h', max: '50 GiB' }, keep: 'forever' } }))
    assert.ok(!validate({ version: 1, defaults: { rol: {} } }))
    assert.ok(!validate({ version: 2 }))
  })

  test('every key of the schema is described', () => {
    const visit = (node: unknown, path: string): void => {
      if (typeof node !== 'object' || node === null) return
      const { properties, anyOf, items } = node as Record<string, unknown>
      for (const [key, inner] of Object.entries(
        (properties ?? {}) as Record<string, { description?: string }>,
      )) {
        if (!/holds/.test(path))
          assert.ok((inner.description ?? '').length > 5, `${path}.${key} has no description`)
        visit(inner, `${path}.${key}`)
      }
      for (const inner of [...((anyOf ?? []) as unknown[]), items]) visit(inner, path)
    }
    visit(JSON.parse(schemaText()), '')
  })

  test('an unknown key is refused with its line and what was meant', () => {
    const text = ['version: 1', 'policies:', '  - match: a/*', '    rol: { size: 1 MiB }', ''].join('\n')
    refuses(text, /^stratalog\.yaml:4: unknown key "rol": did you mean "roll"\?$/)
    refuses('version: 1\nrol: {}\n', /^stratalog\.yaml:2: unknown key "rol": did you mean "defaults.roll"\?$/)
    refuses('version: 1\ndefaults: { size: 1 MiB }\n', /:2: unknown key "size": did you mean "roll.size"\?$/)
    refuses('version: 1\ndefaults: { archive_down: hold }\n', /did you mean "archive-down"\?$/)
    refuses('version: 1\ndefaults: { keep: { fro: 1d } }\n', /unknown key "fro": did you mean "for"\?$/)
    refuses('version: 1\nxyzzyplugh: 1\n', /unknown key "xyzzyplugh": known are version, archive/)
    refuses('version: 1\n__proto__: { x: 1 }\n<<: {}\n', /unknown key "__proto__"/, /unknown key "<<"/)
  })

  test('all problems are told at once, in the order of their lines', () => {
    const text = [
      'version: 1',
      'stores: [a, a]',
      'policies:',
      '  - keep: forever',
      '  - match: "a/[b]"',
      '    roll: { size: 64 MX, age: -1 }',
      '  - match: b',
      '    copy: { window: { cron: "0 25 * * *" } }',
      '  - match: c',
      '    copy: { window: { cron: "0 1 * * *", zone: Mars/Base } }',
    ].join('\n')
    refuses(
      text,
      /:2: stores: /,
      /:4: policies\[0\] needs the key "match"/,
      /:5: policies\[1\]\.match: .*"\[" has no meaning here/,
      /:6: policies\[1\]\.roll\.size: "64 MX" is not a size/,
      /:6: policies\[1\]\.roll\.age: -1 is not a duration/,
      /:8: policies\[2\]\.copy\.window: .*"25"/,
      /:10: policies\[3\]\.copy\.window: "Mars\/Base" is not a time zone/,
    )
    const lines = problemsOf(text).map((problem) => Number(problem.split(':')[1]))
    assert.deepEqual(
      lines,
      [...lines].sort((a, b) => a - b),
    )
  })

  test('other versions are refused, saying which are read, and nothing else', () => {
    refuses('version: 2\nnonsense: 1\n', /^stratalog\.yaml:1: version 2 is not read here, only version 1/)
    refuses('version: "1"\n', /version "1" is not read here/)
    refuses('archive: x\n', /needs its version: write "version: 1"/)
    refuses('', /the file is empty/)
    refuses('- version: 1\n', /must be keys with values/)
  })

  test('the traps of YAML', () => {
    refuses('version: 1\nversion: 1\n', /:2: the key "version" is given twice/)
    refuses('version: 1\ndefaults:\n\troll: {}\n', /:3: indent with spaces/)
    refuses('version: 1\narchive: 12:34:7\n', /:2: archive: quote "12:34:7"/)
    assert.deepEqual(problemsOf('version: 1\narchive: "12:34:7"\n'), [])
    refuses('version: 1\n1: x\n', /:2: the key 1 is not text/)
    refuses('version: 1\n? [a]\n: b\n', /:2: the key .* is not text/)
    refuses('version: 1\n---\nversion: 1\n', /must be one document/)
    refuses('%YAML 1.1\n---\nversion: 1\n', /must be YAML 1\.2/)
    refuses('version: 1\narchive: !!foo x\n', /Unresolved tag/)
    refuses('version: 1\narchive: "x\n', /not valid YAML/)
    refuses(
      'version: 1\nquorum: { copies: 0x3 }\n',
      /:2: quorum\.copies: write 0x3 as a plain decimal number/,
    )
    refuses('version: 1\nquorum: { copies: 1e1 }\n', /write 1e1 as a plain decimal number/)
    refuses('version: 1\ndefaults: { hot: { max: .inf } }\n', /write \.inf/, /Infinity|null/)
    refuses('version: 1\ndefaults:\n', /:2: defaults: null is not a group of keys/)
    refuses('version: 1\narchive: no\n', /"no" is taken for a directory: write none/)
    refuses('version: 1\narchive:\n', /archive: null is not an archive/)
  })

  test('aliases work, but not without end', () => {
    const text = 'version: 1\ndefaults: { roll: &r { size: 1 MiB } }\npolicies:\n  - match: a\n    roll: *r\n'
    assert.deepEqual(problemsOf(text), [])
    refuses('version: 1\nstores: [*x]\n', /:2: \*x has no anchor &x before it/)
    refuses('version: 1\nstores: &x [*x]\n', /:2: \*x stands within itself/)
    const bomb = 'abcdef'.split('').map(
      (key, i) =>
        `${key}: &${key} [${Array(10)
          .fill(i === 0 ? 'x' : `*${'abcdef'[i - 1]}`)
          .join(', ')}]`,
    )
    refuses(`version: 1\n${bomb.join('\n')}\n`, /aliases/)
    const many = `version: 1\nstores: [&x a, ${Array(40_000).fill('*x').join(', ')}]\n`
    assert.ok(problemsOf(many).length > 0)
  })

  test('what would exhaust the parser is refused before it is parsed', () => {
    for (const deep of [
      '['.repeat(200_000),
      '{a: '.repeat(50_000),
      `version: ${'- '.repeat(50_000)}1`,
      `${' '.repeat(9_000)}a: 1`,
    ]) {
      assert.equal(problemsOf(deep).length, 1)
    }
    refuses(`# ${'x'.repeat(600_000)}\nversion: 1\n`, /is it the right file/)
    // Brackets in comments and in quotes are no nesting.
    assert.deepEqual(problemsOf(`version: 1\n# ${'['.repeat(100)}\narchive: "${'['.repeat(100)}"\n`), [])
  })

  test('addresses of archives', () => {
    for (const good of ['./a', '/mnt/a b', 's3://bucket/prefix', 'hdfs://nn:9870/logs', 'none', 'C:\\logs']) {
      assert.deepEqual(problemsOf(`version: 1\narchive: '${good}'\n`), [], good)
    }
    refuses('version: 1\narchive: gs://x\n', /"gs:\/\/x" is not an archive/)
    refuses('version: 1\narchive: s3:/bucket\n', /is taken for a directory: write s3:\/\/…/)
    const secret = problemsOf('version: 1\narchive: s3://key:hunter2@bucket/x\n')
    assert.equal(secret.length, 1)
    assert.match(String(secret), /credentials do not belong/)
    assert.ok(!String(secret).includes('hunter2'))
    assert.ok(!String(problemsOf('version: 1\narchive: gs://key:hunter2@bucket\n')).includes('hunter2'))
  })

  test('values that would never do what was meant', () => {
    refuses('version: 1\ndefaults: { keep: { for: 0s } }\n', /keep\.for: "0s" is too small/)
    refuses('version: 1\ndefaults: { keep: { max: 0 } }\n', /keep\.max: 0 is too small/)
    refuses('version: 1\ndefaults: { roll: { size: 100 B } }\n', /roll\.size: "100 B" is too small/)
    refuses('version: 1\ndefaults: { roll: { size: 9999999 TiB } }\n', /it is too large/)
    assert.deepEqual(problemsOf('version: 1\ndefaults: { hot: { for: 0s }, evict: { lag: 0s } }\n'), [])
  })

  test('a number without its unit: ninety of what is not guessed, for it would be milliseconds', () => {
    refuses('version: 1\ndefaults: { keep: { for: 90 } }\n', /keep\.for: 90 is not a duration: .*as 90s/)
    refuses('version: 1\ndefaults: { keep: { for: "90" } }\n', /keep\.for: "90" is not a duration/)
    refuses('version: 1\ndefaults: { keep: { max: 20 } }\n', /keep\.max: 20 is not a size: .*as 64 MiB/)
    refuses('version: 1\ns3: { total-timeout: 60 }\n', /total-timeout: 60 is not a duration/)
    assert.throws(() => parseEnvironment({ STRATALOG_KEEP__FOR: '90' }, ':'), /"90" is not a duration/)
    assert.deepEqual(problemsOf('version: 1\ndefaults: { hot: { for: 0 }, evict: { lag: "0" } }\n'), [])
  })

  test('CRLF and a byte order mark change nothing', () => {
    const text = '\ufeffversion: 1\r\ndefaults:\r\n  hot: { for: 2h }\r\n'
    const { origins, policy } = resolveConfig({ file: parseConfig(text, FILE) }).policyFor('a')
    assert.equal(policy.hot.forMs, 7_200_000)
    assert.equal(origins['hot.for'], 'stratalog.yaml:3  defaults')
  })

  test('any text is read or refused with a config_invalid', () => {
    const lines = fc.constantFrom(
      ...[
        'version: 1',
        'defaults:',
        '  roll: { size: 1 MiB }',
        '  - match: a',
        'policies:',
        '    keep: forever',
        '\t',
        '&a',
        '*a',
      ],
      ...[
        '  hot: {',
        '}',
        ']',
        '? x',
        ': y',
        '---',
        '"',
        "'",
        '#',
        'stores: [a, b]',
        '  keep: { for: 1d',
        '|',
        '>',
        '!!map',
      ],
    )
    fc.assert(
      fc.property(fc.array(fc.oneof(lines, fc.string({ maxLength: 8 })), { maxLength: 10 }), (parts) => {
        problemsOf(parts.join('\n'))
      }),
      { numRuns: 300 },
    )
  })
})
