import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { test } from 'node:test'
import { present } from '../../src/model/assert.js'
import { application, finished, start } from '../helpers/cli.js'

interface Step {
  readonly kind: 'file' | 'command' | 'application'
  /** The command, or the name of the file. */
  readonly what: string
  /** What the command prints, or what is in the file. */
  readonly lines: readonly string[]
}

/** What a page tells its reader to do, in order: files to write, commands with their answers. */
function stepsOf(page: string): Step[] {
  const steps: Step[] = []
  for (const [whole, kind, body = ''] of page.matchAll(
    /```(yaml|console)\n([\s\S]*?)```|<!--.*application.*-->/g,
  )) {
    if (kind === undefined) steps.push({ kind: 'application', what: whole, lines: [] })
    else if (kind === 'yaml') {
      const [title = '', ...lines] = body.split('\n')
      steps.push({ kind: 'file', what: title.replace('# ', ''), lines: [title, ...lines] })
    } else {
      for (const part of body.trimEnd().split(/^\$ /m).slice(1)) {
        const [what = '', ...lines] = part.trimEnd().split('\n')
        steps.push({ kind: 'command', what, lines })
      }
    }
  }
  return steps
}

/** Words of a command line, with single quotes. */
const wordsOf = (command: string): string[] =>
  [...command.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain ?? '')

/** A line of a page as a pattern: `…` is anything, runs of blanks are as wide as the columns happen to be. */
const patternOf = (line: string): RegExp => {
  const literal = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&').replace(/ {2,}/g, ' +')
  return new RegExp(`^${line.trimEnd().split('…').map(literal).join('.*')}$`)
}

/** Whether the page says what was printed; a line of `…` alone is any number of lines. */
function agrees(expected: readonly string[], printed: readonly string[]): boolean {
  const [first, ...rest] = expected
  if (first === undefined) return printed.length === 0
  if (first === '…') return printed.some((_, at) => agrees(rest, printed.slice(at))) || rest.length === 0
  const [line, ...others] = printed
  return line !== undefined && patternOf(first).test(line.trimEnd()) && agrees(rest, others)
}

test('docs/howto/policies.md, word for word', { timeout: 240_000 }, async () => {
  const root = realpathSync(mkdtempSync(join(tmpdir(), 'sl-howto-')))
  let running: { close(): Promise<void> } | null = null
  try {
    mkdirSync(join(root, 'mylog'))
    const steps = stepsOf(readFileSync(join(process.cwd(), 'docs/howto/policies.md'), 'utf8'))
    assert.ok(steps.filter(({ kind }) => kind === 'command').length >= 8, 'the page has its commands')
    for (const { kind, what, lines } of steps) {
      if (kind === 'file') writeFileSync(join(root, what), lines.join('\n'))
      else if (kind === 'application') running = await application(join(root, 'mylog'))
      else {
        const [npx, name, ...args] = wordsOf(what)
        assert.deepEqual([npx, name], ['npx', 'stratalog'])
        const { code, out, err } = await finished(start(args, root))
        const wanted = lines.at(-1)?.match(/^\(exit (\d)\)$/)
        // Notes for people go to stderr beside the answer; a page shows stderr only where the command fails.
        const answer = code === 0 ? out : `${out}${err}(exit ${code})\n`
        assert.equal(code, Number(wanted?.[1] ?? 0), `$ ${what}\n${out}${err}`)
        assert.ok(
          agrees(lines, answer.trimEnd().split('\n')),
          `$ ${what}\n${answer}\nis not\n${lines.join('\n')}`,
        )
      }
    }
    assert.ok(present(running, 'the application'))
  } finally {
    await running?.close()
    rmSync(root, { recursive: true, force: true })
  }
})
