import process from 'node:process'
import { errorBody } from '../model/error-body.js'
import { exitCodeOf } from './exit-codes.js'
import { type Colors, colorsFor, type Progress, type ProgressOptions, startProgress } from './render.js'

/** What a command sees of the world: where it writes, who watches, and when it is to stop. */
export interface CliIo {
  /** `--json`: stdout carries JSON values only, one a line; nothing is said to people. */
  readonly json: boolean
  /** The `--dir` option, undefined where it was not given. */
  readonly dir: string | undefined
  /** The `--attach` option: an archive to read instead of a log. */
  readonly attach: string | undefined
  /** The `--key-ring` option: a ring beside those that policies name; an archive by itself has no policies. */
  readonly keyRing: string | undefined
  /** The `--config` option: instead of the stratalog.yaml of the log, or of where the command runs. */
  readonly config: string | undefined
  /** Whether stderr is a terminal: there progress may be drawn. */
  readonly isTTY: boolean
  /** Colours of stdout; all of them do nothing without a terminal or with NO_COLOR. */
  readonly colors: Colors
  readonly stdin: NodeJS.ReadStream
  readonly env: Readonly<Record<string, string | undefined>>
  /** Aborted by Ctrl-C (then the exit code is 130 unless the command ends well) and when the reader of stdout is gone. */
  readonly signal: AbortSignal
  /** Writes to stdout; resolves when there is room for more, so that a slow reader slows the command down. */
  write(chunk: string | Uint8Array): Promise<void>
  /** A line on stdout. */
  line(text: string): Promise<void>
  /** One JSON value on a line of stdout. bigints become decimal strings. */
  value(value: unknown): Promise<void>
  /** A line on stderr for people; left out with `--json`. */
  note(text: string): void
  /** A progress bar on stderr: drawn on a terminal, else a line each 10 s, nothing with `--json`. */
  progress(options: ProgressOptions): Progress
  /** What the process exits with when the command returns normally. Default 0. */
  setExitCode(code: number): void
}

/** The io of a process, and what only `main` needs of it. */
export interface ProcessIo extends CliIo {
  readonly exitCode: number
  /** Set once the options are known. */
  setDirectory(options: Pick<CliIo, 'dir' | 'attach' | 'keyRing' | 'config'>): void
  /** Says an error on stderr, for people and with `--json` as JSON; returns the exit code for it. */
  fail(error: unknown): number
  /** Why the signal was aborted, if it was. */
  readonly stopped: 'interrupted' | 'pipe-closed' | null
}

/** Exit code of a command that Ctrl-C ended before it was done. */
export const EXIT_INTERRUPTED = 130

/** The real streams, signals and environment. */
export function processIo(argv: readonly string[]): ProcessIo {
  const abort = new AbortController()
  const ends = argv.indexOf('--')
  const json = argv.slice(0, ends < 0 ? undefined : ends).includes('--json')
  const state = {
    exitCode: 0,
    dir: undefined as string | undefined,
    attach: undefined as string | undefined,
    keyRing: undefined as string | undefined,
    config: undefined as string | undefined,
    stopped: null as ProcessIo['stopped'],
  }
  const stop = (why: 'interrupted' | 'pipe-closed') => {
    state.stopped ??= why
    abort.abort(
      new DOMException(why === 'interrupted' ? 'interrupted' : 'nobody reads the output', 'AbortError'),
    )
  }
  const { stdout, stderr } = process
  const interrupt = () => {
    // The first one lets the command end cleanly; who asks twice does not want to wait for that.
    if (state.stopped !== null) process.exit(EXIT_INTERRUPTED)
    stop('interrupted')
  }
  process.on('SIGINT', interrupt)
  process.on('SIGTERM', interrupt)
  stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') {
      stderr.write(`stratalog: can't write the output: ${error.message}\n`)
      state.exitCode = 1
    }
    stop('pipe-closed')
  })
  // With nobody to hear about it there is nothing to do about a closed stderr.
  stderr.on('error', () => undefined)

  const waiting: (() => void)[] = []
  const release = () => {
    for (const resolve of waiting.splice(0)) resolve()
  }
  stdout.on('drain', release).on('close', release)
  abort.signal.addEventListener('abort', release, { once: true })
  const write = (chunk: string | Uint8Array): Promise<void> => {
    if (state.stopped === 'pipe-closed' || chunk.length === 0) return Promise.resolve()
    if (stdout.write(chunk) || abort.signal.aborted) return Promise.resolve()
    return new Promise((resolve) => waiting.push(resolve))
  }
  return {
    json,
    isTTY: stderr.isTTY === true,
    colors: colorsFor(stdout.isTTY === true, process.env),
    get stdin() {
      return process.stdin
    },
    env: process.env,
    signal: abort.signal,
    get dir() {
      return state.dir
    },
    get attach() {
      return state.attach
    },
    get keyRing() {
      return state.keyRing
    },
    get config() {
      return state.config
    },
    get exitCode() {
      return state.exitCode
    },
    get stopped() {
      return state.stopped
    },
    write,
    line: (text) => write(`${text}\n`),
    value: (value) => write(`${jsonText(value)}\n`),
    note: (text) => {
      if (!json) stderr.write(`${text}\n`)
    },
    progress: (options) =>
      startProgress(stderr, { ...options, mode: json ? 'off' : stderr.isTTY === true ? 'draw' : 'lines' }),
    setExitCode: (code) => {
      state.exitCode = code
    },
    setDirectory: ({ dir, attach, keyRing, config }) => {
      Object.assign(state, { dir, attach, keyRing, config })
    },
    fail: (error) => {
      const { text, code } = describe(error)
      stderr.write(json ? `${jsonText({ error: errorBody(error) })}\n` : `stratalog: ${text}\n`)
      return code
    },
  }
}

/** JSON with bigints as decimal strings. */
export function jsonText(value: unknown): string {
  return JSON.stringify(value, (_, one: unknown) => (typeof one === 'bigint' ? one.toString() : one))
}

function describe(error: unknown): { text: string; code: number } {
  const code = exitCodeOf(error)
  const message = error instanceof Error ? error.message : String(error)
  // A bug of ours: whoever reports it needs to say where it happened.
  const bug = error instanceof Error && error.name === 'AssertionFailed'
  return { text: bug ? `${message}\n${error.stack ?? ''}` : message, code }
}
