import { isDeepStrictEqual } from 'node:util'
import { ENGINES, type EngineName } from '../config/engine-settings.js'
import type { LogSetting, ResolvedConfig } from '../config/resolve.js'
import type { PolicyReload, PolicySource, RestartSetting } from '../model/control-policy.js'
import { isStratalogError, StratalogError } from '../model/errors.js'
import type { ResolvedPolicy } from '../model/policy.js'
import type { Clock, Timer } from '../ports/clock.js'
import type { Logger } from '../ports/logger.js'

/** How often the file is looked at. What it says is in force after it was the same at two looks. */
const LOOK_MS = 2_000

/** The configuration file as a running log needs it. */
export interface ConfigSource {
  /** Its name for people; null: there is none to look at. */
  readonly file: string | null
  /** What it says; null: it is not there. Rejects with `config_invalid` where it can't be read. */
  read(): Promise<string | null>
  /** Code, environment and that text put together. Throws `config_invalid`. */
  resolve(text: string | null): ResolvedConfig
}

/** What a running log does with a configuration. */
export interface ConfigUser {
  /** The policy every stream has under it, by incarnation. Rejects with `config_invalid` where one does not fit. */
  policies(config: ResolvedConfig): Promise<ReadonlyMap<string, ResolvedPolicy>>
  /** It is in force from now on. */
  changed(): void
}

/**
 * The configuration in force, and how it follows its file. A file is taken as a whole or not at all: one that is
 * refused, half written, unreadable or gone leaves in force what was, and says so until it is mended. A file that is
 * gone is no wish to have no policies: holds and retention would end with it (invariant 8).
 */
export class LiveConfig {
  readonly #source: ConfigSource
  readonly #clock: Clock
  readonly #logger: Logger
  /** What the log was opened with: archive and stores stay as they were then. */
  readonly #opened: ResolvedConfig
  #user: ConfigUser | null = null
  #current: ResolvedConfig
  #text: string | null
  #loadedMs: number
  #problem: PolicySource['problem'] = null
  /** What the file said at the last look, if it is not what is in force: a text, or why there is none. */
  #candidate: string | null = null
  #refused: string | null = null
  #timer: Timer | null = null
  #work: Promise<unknown> = Promise.resolve()
  #closed = false

  constructor(
    source: ConfigSource,
    opened: { readonly config: ResolvedConfig; readonly text: string | null },
    clock: Clock,
    logger: Logger,
  ) {
    this.#source = source
    this.#clock = clock
    this.#logger = logger
    this.#opened = opened.config
    this.#current = opened.config
    this.#text = opened.text
    this.#loadedMs = clock.nowMs()
  }

  get current(): ResolvedConfig {
    return this.#current
  }

  get source(): PolicySource {
    return {
      file: this.#source.file,
      loadedMs: this.#loadedMs,
      problem: this.#problem,
      needsRestart: needsRestart(this.#opened, this.#current),
    }
  }

  /** Who has the streams; before that nothing is read again. */
  use(user: ConfigUser): void {
    this.#user = user
  }

  /** Looks at the file every few seconds until `close`. */
  follow(): void {
    if (this.#source.file === null || this.#closed || this.#timer !== null) return
    this.#timer = this.#clock.setTimer(LOOK_MS, () => {
      void this.#inTurn(() => this.#look())
        .catch((error: unknown) => this.#logger.error({ err: error }, 'looking at the configuration failed'))
        .finally(() => {
          this.#timer = null
          this.follow()
        })
    })
  }

  /** Takes what the file says now. Rejects with `config_invalid`, and what was in force stays. */
  reload(): Promise<PolicyReload> {
    return this.#inTurn(async () => {
      if (this.#source.file === null) return { source: this.source, changed: false, streams: 0 }
      const found = await this.#found()
      try {
        return await this.#take(found)
      } catch (error) {
        throw this.#refuse(found.key, error)
      }
    })
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#timer?.cancel()
    await this.#work
  }

  /** One look or reload at a time: what was read last must not be overtaken by what was read before it. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#work.then(work)
    this.#work = done.catch(() => undefined)
    return done
  }

  async #look(): Promise<void> {
    if (this.#closed) return
    const found = await this.#found()
    if (found.text !== undefined && found.text === this.#text) {
      if (this.#problem !== null) this.#logger.info({}, `${this.#source.file} says again what is in force`)
      this.#candidate = this.#refused = this.#problem = null
      return
    }
    if (found.key === this.#refused) return
    // An editor that writes a file in place leaves half of it for a moment, and half a file may read as a whole one.
    const seenTwice = found.key === this.#candidate
    this.#candidate = found.key
    if (!seenTwice) return
    try {
      await this.#take(found)
    } catch (error) {
      this.#refuse(found.key, error)
    }
  }

  async #found(): Promise<Found> {
    try {
      const text = await this.#source.read()
      if (text !== null || this.#text === null) return { key: `text ${text ?? ''}`, text }
      return { key: 'gone', problem: gone(this.#source.file) }
    } catch (error) {
      return { key: `unreadable ${String(error)}`, problem: error }
    }
  }

  /** All or nothing: whatever may be refused comes before the first change. */
  async #take(found: Found): Promise<PolicyReload> {
    if (found.text === undefined) throw found.problem
    if (this.#user === null || found.text === this.#text) {
      this.#problem = this.#refused = this.#candidate = null
      return { source: this.source, changed: false, streams: 0 }
    }
    const next = this.#source.resolve(found.text)
    const before = await this.#user.policies(this.#current)
    const after = await this.#user.policies(next)
    this.#current = next
    this.#text = found.text
    this.#loadedMs = this.#clock.nowMs()
    this.#problem = this.#refused = this.#candidate = null
    this.#user.changed()
    const streams = [...after].filter(
      ([incarnation, { policy }]) => !isDeepStrictEqual(policy, before.get(incarnation)?.policy),
    ).length
    const { needsRestart } = this.source
    this.#logger.info(
      { file: this.#source.file, streams },
      'the configuration was read again and is in force',
    )
    for (const { setting, origin } of needsRestart)
      this.#logger.warn({ setting, origin }, 'changed, and takes effect when the log is opened again')
    return { source: this.source, changed: true, streams }
  }

  #refuse(key: string, error: unknown): StratalogError {
    const ours = isStratalogError(error)
      ? error
      : new StratalogError('config_invalid', `${this.#source.file}: ${String(error)}`, { cause: error })
    this.#refused = key
    this.#problem = { atMs: this.#clock.nowMs(), message: ours.message }
    this.#logger.error(
      { err: ours },
      'the configuration was changed and is refused: what was in force stays in force',
    )
    return ours
  }
}

/** What a look at the file found: a text (null: there is none, and was none before), or why there is none. */
type Found =
  | { readonly key: string; readonly text: string | null; readonly problem?: never }
  | { readonly key: string; readonly text?: never; readonly problem: unknown }

function gone(file: string | null): StratalogError {
  return new StratalogError(
    'config_invalid',
    `${file} is gone: put it back, or open the log again to go on without it`,
  )
}

/** What is said of an engine before and now, by the names of its settings. */
function engineSettings(
  engine: EngineName,
  { engines: { [engine]: opened } }: ResolvedConfig,
  { engines: { [engine]: now } }: ResolvedConfig,
): [setting: RestartSetting['setting'], was: LogSetting<unknown>, is: LogSetting<unknown>][] {
  const unsaid = { value: undefined, origin: 'built-in', layer: 'built-in' } as const
  return [...new Set([...Object.keys(opened), ...Object.keys(now)])].map((field) => [
    `${engine}.${field}`,
    opened[field] ?? unsaid,
    now[field] ?? unsaid,
  ])
}

function needsRestart(opened: ResolvedConfig, now: ResolvedConfig): RestartSetting[] {
  const pairs = [
    ['archive', opened.archive, now.archive],
    ['metadata', opened.metadata, now.metadata],
    ['stores', opened.stores, now.stores],
    ['cache.disk', opened.cache.diskBytes, now.cache.diskBytes],
    ['cache.index', opened.cache.indexBytes, now.cache.indexBytes],
    ...ENGINES.flatMap((engine) => engineSettings(engine, opened, now)),
  ] as const
  return pairs.flatMap(([setting, was, is]) =>
    isDeepStrictEqual([was.value, was.layer], [is.value, is.layer]) ? [] : [{ setting, origin: is.origin }],
  )
}
