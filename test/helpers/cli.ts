import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const COMPILED = join(import.meta.dirname, '..', '..', 'src')
/** The compiled command line. */
export const MAIN: string = join(COMPILED, 'cli', 'main.js')
/** The compiled library, for programs given as text. */
export const OPEN: string = join(COMPILED, 'open.js')

/** How a command ended. */
export interface Result {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

/** The environment without what would change a command. */
export function environment(): NodeJS.ProcessEnv {
  const { STRATALOG_DIR: _, STRATALOG_LOG: __, FORCE_COLOR: ___, ...rest } = process.env
  return rest
}

/** Starts a command line, with variables besides. */
export function start(
  args: readonly string[],
  cwd: string = tmpdir(),
  variables: Readonly<Record<string, string>> = {},
): ChildProcess {
  const env = { ...environment(), ...variables }
  return spawn(process.execPath, [MAIN, ...args], { cwd, env, stdio: 'pipe' })
}

/** What a command said, once it has ended; `input` is all of its stdin. */
export async function finished(child: ChildProcess, input?: string | Uint8Array): Promise<Result> {
  let [out, err] = ['', '']
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
    out += chunk
  })
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
    err += chunk
  })
  child.stdin?.on('error', () => undefined)
  child.stdin?.end(input ?? '')
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, out, err }
}

/** The JSON values of an output. */
export function values(out: string): Record<string, unknown>[] {
  const lines = out.split('\n').filter((line) => line.trim() !== '')
  return lines.map((line) => JSON.parse(line) as Record<string, unknown>)
}

/** A temporary directory with a log's configuration in `log`, and commands on that log. */
export class Workplace {
  readonly base: string
  readonly dir: string

  private constructor(base: string) {
    this.base = base
    this.dir = join(base, 'log')
  }

  static async make(): Promise<Workplace> {
    const place = new Workplace(await realpath(await mkdtemp(join(tmpdir(), 'sl-cli-'))))
    await mkdir(place.dir)
    const config = 'version: 1\narchive: ./archive\ndefaults:\n  hot: { for: 1h }\n  evict: { lag: 0s }\n'
    await writeFile(join(place.dir, 'stratalog.yaml'), config)
    return place
  }

  remove(): Promise<void> {
    return rm(this.base, { recursive: true, force: true })
  }

  /** Runs a command on the log. */
  cli(args: readonly string[], input?: string | Uint8Array): Promise<Result> {
    return finished(start(['--dir', this.dir, ...args], this.base), input)
  }

  /** The same, and it must go well: what it printed. */
  async ok(args: readonly string[], input?: string | Uint8Array): Promise<string> {
    const { code, out, err } = await this.cli(args, input)
    assert.equal(code, 0, `stratalog ${args.join(' ')}: exit ${code}\n${err}`)
    return out
  }
}

/** An application that holds the log open until it is told to close it. */
export async function application(directory: string): Promise<{ close(): Promise<void> }> {
  const code = `import { openLog } from ${JSON.stringify(OPEN)}
const log = await openLog(${JSON.stringify(directory)}, { tiering: 'off' })
await log.stream('app').append('from the application')
process.stdout.write('ready\\n')
process.stdin.on('end', async () => { await log.close(); process.exit(0) }).resume()`
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: environment(),
  })
  await once(child.stdout, 'data')
  return {
    async close() {
      child.stdin.end()
      const [exit] = (await once(child, 'close')) as [number]
      assert.equal(exit, 0)
    },
  }
}
