import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, realpathSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { test } from 'node:test'
import { environment, MAIN } from '../helpers/cli.js'

interface Said {
  readonly command: string
  readonly lines: readonly string[]
  readonly exit: number
}

/** The commands of the console blocks of a page with what they are said to print; `…` stands for anything. */
function commandsOf(page: string): Said[] {
  const blocks = [...page.matchAll(/```console\n([\s\S]*?)```/g)].map(([, block]) => `${block}`)
  return blocks.flatMap((block) =>
    block
      .split(/^\$ /m)
      .slice(1)
      .map((part) => {
        const [command = '', ...lines] = part.replace(/\n$/, '').split('\n')
        const exit = /^\(exit (\d)\)$/.exec(lines.at(-1) ?? '')?.[1]
        return { command, lines: exit === undefined ? lines : lines.slice(0, -1), exit: Number(exit ?? 0) }
      }),
  )
}

function patternOf(line: string): RegExp {
  const parts = line
    .split('…')
    .map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&').replace(/ +/g, ' +'))
  return new RegExp(`^${parts.join('.*')}$`)
}

test('docs/howto/outage.md, followed word for word', () => {
  const base = realpathSync(mkdtempSync(join(tmpdir(), 'sl-howto-')))
  try {
    const commands = commandsOf(readFileSync(join(process.cwd(), 'docs/howto/outage.md'), 'utf8'))
    assert.ok(commands.length > 10, 'the page has its commands')
    for (const { command, lines, exit } of commands) {
      const script = `stratalog() { "${process.execPath}" "${MAIN}" "$@"; }\n${command}`
      const { status, stdout, stderr } = spawnSync('sh', ['-c', script], {
        cwd: base,
        env: environment(),
        encoding: 'utf8',
      })
      assert.equal(status, exit, `${command}\n${stdout}${stderr}`)
      const printed = stdout.replace(/\n$/, '').split('\n')
      const said = lines.length === 0 ? [''] : lines
      assert.equal(printed.length, said.length, `${command} prints\n${stdout}`)
      for (const [at, line] of said.entries()) assert.match(`${printed[at]}`, patternOf(line), command)
    }
  } finally {
    rmSync(base, { recursive: true, force: true })
  }
})
