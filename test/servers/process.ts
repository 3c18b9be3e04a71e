import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'

/*
 * The guard of a household: a shell that is told of every process begun and ended, and that kills what is left and
 * removes the data when its standard input ends, which the kernel sees to however the test process dies.
 */
const GUARD = `
groups=
while read -r verb group; do
  case $verb in
    began) groups="$groups $group" ;;
    ended) kept=; for one in $groups; do [ "$one" = "$group" ] || kept="$kept $one"; done; groups=$kept ;;
  esac
done
for one in $groups; do kill -9 "-$one" 2>/dev/null; done
for _ in 1 2 3 4 5; do rm -rf -- "$1" 2>/dev/null && break; sleep 0.2; done
`
/** A server waits for a line before it becomes itself: until then its guard may not know of it. */
const START = 'read -r _ && exec "$@" </dev/null'
const STOP_TIMEOUT_MS = 10_000

/** One process of a server, in a process group of its own. */
export class Daemon {
  readonly name: string
  readonly pid: number
  readonly #child: ChildProcess
  readonly #exited: Promise<unknown>
  readonly #log: string

  constructor(name: string, child: ChildProcess, log: string) {
    if (child.pid === undefined) throw new Error(`${name} could not be started`)
    this.name = name
    this.pid = child.pid
    this.#child = child
    this.#exited = once(child, 'exit')
    this.#log = log
  }

  get running(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null
  }

  /** What it ended with; null while it runs, and when a signal ended it. */
  get exitCode(): number | null {
    return this.#child.exitCode
  }

  /** Sends a signal to the whole process group; nothing if it has ended. */
  signal(name: NodeJS.Signals): void {
    if (this.running) process.kill(-this.pid, name)
  }

  /** kill -9, and waits until it is gone. */
  async kill(): Promise<void> {
    this.signal('SIGKILL')
    await this.ended()
  }

  /** SIGTERM, and what does not end by itself is killed. */
  async end(): Promise<void> {
    this.signal('SIGCONT')
    this.signal('SIGTERM')
    await Promise.race([this.ended(), sleep(STOP_TIMEOUT_MS)])
    await this.kill()
  }

  async ended(): Promise<void> {
    if (!this.running) return
    this.#child.ref()
    await this.#exited
  }

  /** The last lines it wrote. */
  tail(): string {
    return readFileSync(this.#log, 'utf8').split('\n').slice(-25).join('\n')
  }
}

/**
 * The processes and the directory of one server. Whatever becomes of this process, by kill -9 too, the processes end
 * and the directory goes.
 */
export class Household {
  readonly directory: string
  readonly #guard: ChildProcess
  readonly #daemons = new Map<string, Daemon>()
  #closed = false

  /** The directory's path is short: sockets below it have at most 107 bytes. */
  constructor(name: string) {
    this.directory = mkdtempSync(join(tmpdir(), `sl-${name}-`))
    mkdirSync(join(this.directory, 'log'))
    this.#guard = spawn('sh', ['-c', GUARD, 'guard', this.directory], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
    })
    this.#guard.unref()
    unrefed(this.#guard)
  }

  /** Starts a process, or starts it again after it ended. */
  start(
    name: string,
    command: readonly string[],
    environment: Readonly<Record<string, string>> = {},
  ): Daemon {
    const before = this.#daemons.get(name)
    if (this.#closed || before?.running === true) throw new Error(`${name} can't be started now`)
    const path = join(this.directory, 'log', `${name}.log`)
    const log = openSync(path, 'a')
    const child = spawn('sh', ['-c', START, name, ...command], {
      cwd: this.directory,
      env: { ...process.env, ...environment },
      stdio: ['pipe', log, log],
      detached: true,
    })
    closeSync(log)
    const daemon = new Daemon(name, child, path)
    this.#daemons.set(name, daemon)
    child.once('exit', () => this.#tell(`ended ${daemon.pid}`))
    this.#tell(`began ${daemon.pid}`)
    unrefed(child)
    child.stdin?.end('go\n')
    child.unref()
    return daemon
  }

  /**
   * Waits until `ready` says so; fails after `timeoutMs`, and when one of `needed` ends before, with its last lines.
   *
   * @param needed all processes that were begun, if it is absent
   */
  async until(
    what: string,
    ready: () => Promise<boolean>,
    timeoutMs = 90_000,
    needed: readonly Daemon[] = [...this.#daemons.values()],
  ): Promise<void> {
    const endMs = Date.now() + timeoutMs
    while (!(await ready().catch(() => false))) {
      const dead = needed.find((daemon) => !daemon.running)
      if (dead !== undefined) throw new Error(`${what}: ${dead.name} ended\n${dead.tail()}`)
      if (Date.now() > endMs) {
        const tails = [...this.#daemons.values()].map((daemon) => `${daemon.name}:\n${daemon.tail()}`)
        throw new Error(`${what}: not after ${timeoutMs} ms\n${tails.join('\n')}`)
      }
      await sleep(50)
    }
  }

  /** Runs a command to its end; fails with what it said. */
  run(command: readonly string[], timeoutMs = 60_000): string {
    const [program = '', ...args] = command
    const options = { encoding: 'utf8', cwd: this.directory, timeout: timeoutMs } as const
    const done = spawnSync(program, args, options)
    if (done.error !== undefined) throw new Error(`${program}: ${done.error.message}`)
    if (done.status !== 0) throw new Error(`${command.join(' ')}: ${done.stdout}${done.stderr}`)
    return done.stdout
  }

  /** Ends every process, the last begun first, and removes the data. */
  async close(how: 'end' | 'kill' = 'kill'): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    for (const daemon of [...this.#daemons.values()].reverse()) await daemon[how]()
    rmSync(this.directory, { recursive: true, force: true, maxRetries: 5 })
    const gone = once(this.#guard, 'exit')
    this.#guard.ref()
    this.#guard.stdin?.end()
    await gone
    if (existsSync(this.directory)) throw new Error(`${this.directory} could not be removed`)
  }

  #tell(line: string): void {
    if (this.#guard.stdin?.writable === true) this.#guard.stdin.write(`${line}\n`)
  }
}

/** A pipe to a child keeps no test process alive, and a child that died before it read is no error. */
function unrefed(child: ChildProcess): void {
  const { stdin } = child
  if (stdin !== null && 'unref' in stdin && typeof stdin.unref === 'function') stdin.unref()
  stdin?.on('error', () => undefined)
}

/** Whether `url` is answered, with any status, within a second. */
export async function answers(url: string): Promise<boolean> {
  const response = await fetch(url, { signal: AbortSignal.timeout(1000) })
  await response.arrayBuffer()
  return response.status > 0
}

/** Starts again with other ports when a port that was free has been taken meanwhile. */
export async function withRetry<T>(start: () => Promise<T>): Promise<T> {
  try {
    return await start()
  } catch (error) {
    if (!/address already in use|bind|in use/i.test(String(error))) throw error
    return start()
  }
}
