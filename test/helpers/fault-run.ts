import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, statfsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'

const SHARED_MEMORY = '/dev/shm'
const ROOM_BYTES = 2 * 2 ** 30
const WAIT_MS = 60_000

/**
 * A directory to remove afterwards, in memory where there is room: these tests write a lot, and what they inject
 * does not depend on the file system.
 */
export function faultDirectory(name: string): string {
  const about = existsSync(SHARED_MEMORY) ? statfsSync(SHARED_MEMORY) : null
  const roomy = about !== null && about.bavail * about.bsize >= ROOM_BYTES
  return mkdtempSync(join(roomy ? SHARED_MEMORY : tmpdir(), `stratalog-${name}-`))
}

/** A worker of test/fault/, whose output is kept in files: what it said before a kill is there after it. */
export class FaultWorker {
  readonly #child: ChildProcess
  readonly #exited: Promise<[number | null, string | null]>
  readonly #base: string

  /** `user`: whose process it is. */
  constructor(base: string, plan: object, user?: number) {
    this.#base = base
    const [output, errors] = [openSync(`${base}.said`, 'w'), openSync(`${base}.complaints`, 'w')]
    const script = join(import.meta.dirname, '..', 'fault', 'fault-worker.js')
    this.#child = spawn(process.execPath, [script, JSON.stringify(plan)], {
      stdio: ['pipe', output, errors],
      ...(user === undefined ? {} : { uid: user, gid: user }),
      // One thread for files, so that every call of it is seen; libuv must not hide them in an io_uring.
      env: { ...process.env, UV_THREADPOOL_SIZE: '1', UV_USE_IO_URING: '0' },
    })
    closeSync(output)
    closeSync(errors)
    this.#exited = once(this.#child, 'exit') as Promise<[number | null, string | null]>
    // One that died does not read; that it died is what counts.
    this.#child.stdin?.on('error', () => undefined)
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  get said(): string {
    return readFileSync(`${this.#base}.said`, 'utf8')
  }

  get complaints(): string {
    return readFileSync(`${this.#base}.complaints`, 'utf8')
  }

  /** The rest of the first line that begins with `kind`, or null if the worker ended without it. */
  async waitFor(kind: string): Promise<string | null> {
    const find = () => new RegExp(`^${kind}(?: (.*))?\\n`, 'm').exec(this.said)
    for (let waitedMs = 0; waitedMs < WAIT_MS; waitedMs += 5) {
      const ended = this.#child.exitCode !== null || this.#child.signalCode !== null
      const match = find()
      if (match !== null) return match[1] ?? ''
      if (ended) return null
      await sleep(5)
    }
    throw new Error(`the worker did not say ${kind} in ${WAIT_MS} ms: ${this.said}${this.complaints}`)
  }

  /** What it waits for between its parts. */
  goOn(): void {
    this.#child.stdin?.write('go\n')
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  /** How it ended: code and signal. One that hangs is killed and an error. */
  async exited(): Promise<[number | null, string | null]> {
    const abort = new AbortController()
    const late = sleep(WAIT_MS, null, { signal: abort.signal }).catch(() => null)
    const ended = await Promise.race([this.#exited, late])
    abort.abort()
    if (ended !== null) return ended
    await this.kill()
    throw new Error(`the worker did not end in ${WAIT_MS} ms: ${this.said}${this.complaints}`)
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#exited
  }
}
