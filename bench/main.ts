import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { parseArgs } from 'node:util'
import { MEMBERS, membersNamed } from './members.js'
import { victim } from './open-after-kill.js'
import { type BenchMember, type BenchResult, LeftOut } from './result.js'

const ROUNDS = 3
const USAGE = `usage: npm run bench -- [NAME…] [--short] [--scale N] [--json] [--dir DIR]
  NAME     what to measure, or the beginning of several names up to a dot; default: all
  --short  only as much as shows that it runs
  --scale  that part of the work, as 0.1
  --json   one object a line instead of a table
  --dir    a directory on the disk to measure; default: the temporary directory
`

interface Options {
  readonly short: boolean
  readonly scale: number
  readonly json: boolean
  readonly parent: string
}

/** Each member in a process of its own, its reference measured in the same run. */
async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      short: { type: 'boolean', default: false },
      scale: { type: 'string', default: '1' },
      json: { type: 'boolean', default: false },
      only: { type: 'string', multiple: true, default: [] },
      dir: { type: 'string', default: tmpdir() },
      help: { type: 'boolean', default: false },
      // How this program calls itself.
      member: { type: 'string' },
      victim: { type: 'string' },
      bytes: { type: 'string', default: '0' },
    },
  })
  if (values.victim !== undefined) return victim(values.victim, Number(values.bytes), values.short)
  const scale = Number(values.scale)
  const options = { short: values.short, scale, json: values.json, parent: values.dir }
  if (values.member !== undefined) return runMember(values.member, options)
  if (values.help || !(scale > 0)) return refuse(USAGE)
  const names = [...values.only, ...positionals]
  const unknown = names.find((name) => membersNamed(name).length === 0)
  if (unknown !== undefined) {
    const all = MEMBERS.flatMap((member) => member.names).join(', ')
    return refuse(`bench: there is nothing called ${unknown}, only ${all}\n`)
  }
  const asked = new Set(names.length === 0 ? MEMBERS : names.flatMap(membersNamed))
  const results = MEMBERS.filter((member) => asked.has(member)).map((member) => measure(member, options))
  if (!values.json) printTable(results.flatMap((some) => some ?? []))
  if (results.some((some) => some === null)) process.exitCode = 1
}

function refuse(text: string): void {
  process.stderr.write(text)
  process.exitCode = 2
}

async function runMember(name: string, { short, scale, parent }: Options): Promise<void> {
  const [member] = membersNamed(name)
  if (member === undefined) throw new Error(`no member ${name}`)
  mkdirSync(parent, { recursive: true })
  const directory = mkdtempSync(join(parent, 'stratalog-bench-'))
  const remove = () => rmSync(directory, { recursive: true, force: true })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      remove()
      process.exit(130)
    })
  }
  const amount = (full: number, little: number) => (short ? little : Math.ceil(full * scale))
  const bytes = (full: number, little: number) => Math.ceil(amount(full, little) / 1024) * 1024
  try {
    const results = await member
      .run({ directory, short, rounds: short ? 1 : ROUNDS, amount, bytes })
      .catch((error: unknown) => leftOut(name, error))
    process.stdout.write(`${JSON.stringify(results)}\n`)
  } finally {
    remove()
  }
}

function leftOut(name: string, error: unknown): BenchResult[] {
  if (!(error instanceof LeftOut)) throw error
  process.stderr.write(`bench: ${name} is left out: ${error.message}\n`)
  return []
}

function measure(member: BenchMember, options: Options): BenchResult[] | null {
  const [name = ''] = member.names
  if (!options.json) process.stderr.write(`${name} … ${member.what}\n`)
  const args = [
    ...['--member', name, '--dir', options.parent, '--scale', String(options.scale)],
    ...(options.short ? ['--short'] : []),
  ]
  const child = spawnSync(process.execPath, [join(import.meta.dirname, 'main.js'), ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  if (child.status !== 0) {
    process.stderr.write(`bench: ${name} failed\n`)
    return null
  }
  const results = JSON.parse(child.stdout) as BenchResult[]
  if (options.json) for (const one of results) process.stdout.write(`${JSON.stringify(one)}\n`)
  return results
}

function printTable(results: readonly BenchResult[]): void {
  const [cpu] = cpus()
  process.stdout.write(
    `node ${process.version}, ${cpus().length} × ${cpu?.model.trim() ?? '?'}, ${Math.round(totalmem() / 2 ** 30)} GiB\n\n`,
  )
  const rows = results.map((one) => [
    one.name,
    `${round(one.value)} ${one.unit}`,
    round(one.reference.value),
    one.ratio.toFixed(2),
    one.target,
    one.met ? 'met' : 'NOT MET',
    one.reference.what,
  ])
  const head = ['name', 'value', 'reference', 'ratio', 'target', '', 'reference is']
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => (row[i] ?? '').length)))
  for (const row of [head, ...rows]) {
    const line = row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  ')
    process.stdout.write(`${line.trimEnd()}\n`)
  }
}

function round(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toFixed(2)
}

await main()
