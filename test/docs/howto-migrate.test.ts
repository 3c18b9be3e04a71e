import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, realpathSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { after, describe, test } from 'node:test'
import { environment, MAIN } from '../helpers/cli.js'

const root = realpathSync(mkdtempSync(join(tmpdir(), 'sl-howto-migrate-')))
after(() => rmSync(root, { recursive: true, force: true }))

/** A command of a page, the exit code it names (`# exit 6`) and what it is said to print. */
interface Step {
  readonly command: string
  readonly exit: number
  readonly lines: readonly string[]
}

/** The commands of all console blocks, in order. */
function stepsOf(page: string): Step[] {
  const steps: { command: string; exit: number; lines: string[] }[] = []
  for (const [, block = ''] of page.matchAll(/```console\n([\s\S]*?)```/g)) {
    for (const line of block.trimEnd().split('\n')) {
      if (line.startsWith('$ ')) {
        const exit = Number(/# exit (\d+)$/.exec(line)?.[1] ?? '0')
        steps.push({ command: line.slice(2), exit, lines: [] })
      } else steps.at(-1)?.lines.push(line)
    }
  }
  return steps
}

/** `…` stands for anything within a line, alone on a line for any lines. */
function patternOf(lines: readonly string[]): RegExp {
  const parts = lines.map((line) => {
    if (line === '…') return '(?:.*\\n)*?'
    return `${line
      .split('…')
      .map((text) => text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&'))
      .join('.*')}.*\\n`
  })
  return new RegExp(`^${parts.join('')}$`)
}

describe('docs/howto/migrate.md, word for word', () => {
  const steps = stepsOf(readFileSync(join(process.cwd(), 'docs/howto/migrate.md'), 'utf8'))

  test('there is something to follow', () => assert.ok(steps.length > 10))

  for (const { command, exit, lines } of steps) {
    test(command, () => {
      const shell = `stratalog() { "${process.execPath}" "${MAIN}" "$@"; }\n${command}`
      const { status, stdout } = spawnSync('sh', ['-c', `{ ${shell}\n} 2>&1`], {
        cwd: root,
        env: environment(),
        encoding: 'utf8',
      })
      assert.equal(status, exit, stdout)
      assert.match(stdout, patternOf(lines))
    })
  }
})
