import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'

/** One system call that a thread made, as strace shows it. */
export interface SystemCall {
  readonly thread: number
  readonly name: string
  /** The how manieth of its name in its thread, from 1: what `when=` of an injection means. */
  readonly number: number
  readonly line: string
  /** The path of its descriptor or its (last) path argument; '' for none. */
  readonly path: string
  /** What it returned; −1 for a failure. */
  readonly result: number
}

/** Every call that changes a file or a directory, and the reads of data. */
export const FILE_CALLS =
  'openat,pwrite64,pwritev,pread64,preadv,fdatasync,fsync,rename,link,unlink,mkdir,ftruncate,fallocate'

/** Why system calls can't be traced here, or null: strace is absent, or the machine does not let it attach. */
export function whyNoStrace(): string | null {
  const found = spawnSync('strace', ['-o', '/dev/null', '-e', 'trace=close', 'true'], { encoding: 'utf8' })
  if (found.error !== undefined) return 'strace is not installed'
  if (found.status !== 0) return `strace can't trace here: ${found.stderr.trim().split('\n')[0]}`
  return null
}

/** A strace that is attached to some threads. */
export class Strace {
  readonly #child: ChildProcess
  readonly #exited: Promise<unknown>
  readonly #output: string

  private constructor(child: ChildProcess, output: string) {
    this.#child = child
    this.#exited = once(child, 'exit')
    this.#output = output
  }

  /** Attaches, and returns once it has. `inject`: what strace's `-e inject=` takes. */
  static async attach(threads: readonly number[], output: string, inject: string | null): Promise<Strace> {
    const wanted = threads.flatMap((thread) => ['-p', String(thread)])
    const injected = inject === null ? [] : ['-e', `inject=${inject}`]
    // `-f` also for one thread: lines begin with its number then, as with several.
    const args = ['-y', '-s', '300', '-o', output, '-e', `trace=${FILE_CALLS}`, ...injected, ...wanted]
    const child = spawn('strace', args, { stdio: ['ignore', 'ignore', 'pipe'] })
    const strace = new Strace(child, output)
    let said = ''
    let left = threads.length
    await new Promise<void>((resolve, reject) => {
      child.stderr?.setEncoding('utf8').on('data', (text: string) => {
        said += text
        left = threads.length - (said.match(/ attached/g) ?? []).length
        if (left <= 0) resolve()
      })
      child.once('error', reject)
      child.once('exit', () => reject(new Error(`strace did not attach: ${said}`)))
    })
    return strace
  }

  /** Lets the threads go; returns what they did. */
  async detach(onlyThread: number | null): Promise<SystemCall[]> {
    this.#child.kill('SIGTERM')
    await this.#exited
    return parse(readFileSync(this.#output, 'utf8'), onlyThread)
  }
}

/** With several threads every line begins with the thread's number; with one it does not. */
function parse(text: string, onlyThread: number | null): SystemCall[] {
  const counts = new Map<string, number>()
  return joined(text).flatMap((line) => {
    const match = /^(?:(\d+) +)?(\w+)\((.*)$/.exec(line)
    if (match === null) return []
    const [, numbered, name = '', rest = ''] = match
    const thread = numbered === undefined ? (onlyThread ?? 0) : Number(numbered)
    const key = `${thread} ${name}`
    const number = (counts.get(key) ?? 0) + 1
    counts.set(key, number)
    const result = Number(/\) += (-?\d+)/.exec(rest)?.[1] ?? -1)
    return [{ thread, name, number, line, path: pathOf(rest), result }]
  })
}

/** Joins `… <unfinished ...>` with its `<... resumed>`. */
function joined(text: string): string[] {
  const begun = new Map<string, number>()
  const lines: string[] = []
  for (const line of text.split('\n')) {
    const thread = /^(\d+) /.exec(line)?.[1] ?? ''
    const resumed = /<\.\.\. \w+ resumed>(.*)$/.exec(line)
    if (resumed !== null) {
      const at = begun.get(thread)
      if (at !== undefined) lines[at] = `${lines[at]}${resumed[1]}`
      continue
    }
    const cut = line.indexOf(' <unfinished')
    if (cut >= 0) begun.set(thread, lines.length)
    lines.push(cut >= 0 ? line.slice(0, cut) : line)
  }
  return lines
}

function pathOf(rest: string): string {
  const descriptor = /^\d+<([^>]*)>/.exec(rest)
  if (descriptor !== null) return descriptor[1] ?? ''
  const quoted = [...rest.matchAll(/"([^"]*)"/g)]
  return quoted.at(-1)?.[1] ?? ''
}
