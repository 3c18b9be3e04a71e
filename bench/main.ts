import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { parseArgs } from 'node:util'
import { type BenchResult, MEMBERS } from './members.js'

/**
 * `npm run bench [-- --json] [--only NAME] [--dir DIR]`: each member in a process of its own, its reference measured
 * in the same run. With `--json` one object a line, without it a table.
 */
async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      json: { type: 'boolean', default: false },
      only: { type: 'string' },
      dir: { type: 'string' },
      member: { type: 'string' },
    },
  })
  if (values.member !== undefined) return runMember(values.member, values.dir ?? tmpdir())
  const chosen = MEMBERS.filter(
    (one) => values.only === undefined || one.name === values.only || one.name.startsWith(`${values.only}.`),
  )
  if (chosen.length === 0) {
    process.stderr.write(
      `bench: no member ${values.only}. There are ${MEMBERS.map((one) => one.name).join(', ')}\n`,
    )
    process.exitCode = 2
    return
  }
  const results = chosen.map((one) => measure(one.name, values.dir ?? tmpdir(), values.json))
  if (!values.json) printTable(results)
  if (results.some((one) => one === null)) process.exitCode = 1
}

async function runMember(name: string, parent: string): Promise<void> {
  const member = MEMBERS.find((one) => one.name === name)
  if (member === undefined) throw new Error(`no member ${name}`)
  const directory = mkdtempSync(join(parent, 'stratalog-bench-'))
  try {
    process.stdout.write(`${JSON.stringify(await member.run(directory))}\n`)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

function measure(name: string, parent: string, json: boolean): BenchResult | null {
  if (!json) process.stderr.write(`${name} …\n`)
  const child = spawnSync(
    process.execPath,
    [join(import.meta.dirname, 'main.js'), '--member', name, '--dir', parent],
    {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  if (child.status !== 0) {
    process.stderr.write(`bench: ${name} failed\n`)
    return null
  }
  const found = JSON.parse(child.stdout) as BenchResult
  if (json) process.stdout.write(`${JSON.stringify(found)}\n`)
  return found
}

function printTable(results: readonly (BenchResult | null)[]): void {
  const [cpu] = cpus()
  process.stdout.write(
    `node ${process.version}, ${cpus().length} × ${cpu?.model.trim() ?? '?'}, ${Math.round(totalmem() / 2 ** 30)} GiB\n\n`,
  )
  const rows = results.flatMap((one) =>
    one === null
      ? []
      : [
          [
            one.name,
            `${round(one.value)} ${one.unit}`,
            `${round(one.reference.value)}`,
            one.ratio.toFixed(2),
            one.target,
            one.met ? 'met' : 'NOT MET',
            one.reference.what,
          ],
        ],
  )
  const head = ['name', 'value', 'reference', 'ratio', 'target', '', 'reference is']
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => (row[i] ?? '').length)))
  for (const row of [head, ...rows])
    process.stdout.write(
      `${row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd()}\n`,
    )
}

function round(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toFixed(2)
}

await main()
