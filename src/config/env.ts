import { ENGINES } from './engine-settings.js'
import { type ConfigLayer, readLayer } from './layer.js'
import {
  branches,
  type ConfigPath,
  checkShape,
  configError,
  type Problem,
  propertiesOf,
  withoutProblems,
} from './problems.js'
import { BOOKKEEPER, CONFIG_SCHEMA, CONFIG_VERSIONS } from './schema.js'
import { nearest } from './suggest.js'

const PREFIX = 'STRATALOG_'

/** Names with the prefix that are no configuration: the directory to work in, the level of the log, a secret. */
export const OTHER_VARIABLES: readonly string[] = [
  'STRATALOG_DIR',
  'STRATALOG_LOG',
  'STRATALOG_ZOOKEEPER_AUTH',
]

/**
 * Reads `STRATALOG_ROLL__AGE=30m` as `defaults.roll.age`: two underscores divide keys, one is a `-`.
 * `STRATALOG_STORES` is a list divided by `pathDelimiter` (`:`, on Windows `;`). Names that mean nothing and
 * values that don't fit are refused together in one `config_invalid`: a misspelt one would quietly do
 * nothing.
 */
export function parseEnvironment(
  env: Readonly<Record<string, string | undefined>>,
  pathDelimiter: string,
): ConfigLayer {
  const known = settableNames()
  const problems: { where: string; message: string }[] = []
  const raw: Record<string, unknown> = { version: CONFIG_VERSIONS[0] }
  const named = new Map<string, string>()
  for (const [name, text] of Object.entries(env).sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (text === undefined || !name.startsWith(PREFIX) || OTHER_VARIABLES.includes(name)) continue
    const setting = known.get(name)
    const refuse = (message: string) => problems.push({ where: name, message })
    if (setting === undefined) refuse(unknownVariable(name, [...known.keys()]))
    else if (text === '') refuse('it is empty: unset it or give it a value')
    else if (!assign(raw, setting.path, plainValue(text, setting, pathDelimiter))) {
      refuse(`it says something about the same key as ${name.slice(0, name.lastIndexOf('__'))}: unset one`)
    } else named.set(JSON.stringify(setting.path), name)
  }
  const found: Problem[] = []
  const report = (path: ConfigPath, message: string) =>
    found.push({ path, message: message.replace(/^defaults\./, '') })
  const where = (path: ConfigPath): string => {
    for (let length = path.length; length > 0; length -= 1) {
      const name = named.get(JSON.stringify(path.slice(0, length)))
      if (name !== undefined) return name
    }
    // A problem of a group, as a window without its cron: any variable of the group is a place to look.
    const within = [...named].find(([key]) => key.startsWith(JSON.stringify(path).slice(0, -1)))
    return within?.[1] ?? 'environment'
  }
  checkShape(CONFIG_SCHEMA, raw, report)
  const locate = (path: ConfigPath) => `env ${where(path)}`
  const layer = readLayer(withoutProblems(raw, found), { locate, report }, false)
  problems.push(...found.map(({ path, message }) => ({ where: where(path), message })))
  if (problems.length > 0) throw configError('config_invalid', problems)
  return layer
}

function unknownVariable(name: string, known: readonly string[]): string {
  const inner = known.filter((other) => other.startsWith(`${name}__`))
  if (inner.length > 0) return `it is a group of settings: set one of ${inner.join(', ')}`
  // The prefix all names share would make any two of them look alike.
  const bare = (text: string) => text.slice(PREFIX.length)
  const found = nearest(bare(name), [...known, ...OTHER_VARIABLES].map(bare))
  return found === null
    ? 'unknown variable: docs/configuration.md lists those there are'
    : `unknown variable: did you mean "${PREFIX}${found}"?`
}

interface Setting {
  readonly path: readonly string[]
  readonly kind: 'text' | 'count' | 'flag' | 'list' | 'hosts'
}

function plainValue(text: string, setting: Setting, pathDelimiter: string): unknown {
  if (setting.kind === 'list') return text === BOOKKEEPER ? text : text.split(pathDelimiter)
  if (setting.kind === 'hosts') return text.split(',').map((host) => host.trim())
  if (setting.kind === 'flag') return text === 'true' ? true : text === 'false' ? false : text
  // Only plain decimal numbers: the schema refuses any other text in their place.
  return setting.kind === 'count' && /^\d{1,9}$/.test(text) ? Number(text) : text
}

/** False if a value stands where a group is needed. */
function assign(raw: Record<string, unknown>, path: readonly string[], value: unknown): boolean {
  let group = raw
  for (const key of path.slice(0, -1)) {
    group[key] ??= {}
    if (typeof group[key] !== 'object') return false
    group = group[key] as Record<string, unknown>
  }
  group[path.at(-1) ?? ''] = value
  return true
}

/** Every variable there is, from the schema: the leaves of `defaults`, `cache` and the engines, and `archive` and `stores`. */
function settableNames(): ReadonlyMap<string, Setting> {
  const names = new Map<string, Setting>()
  const variable = (path: readonly string[]) =>
    PREFIX + path.map((key) => key.replaceAll('-', '_').toUpperCase()).join('__')
  const visit = (schema: unknown, top: readonly string[], path: readonly string[]) => {
    for (const branch of branches(schema)) {
      const keys = Object.entries(propertiesOf(branch))
      for (const [key, inner] of keys) visit(inner, top, [...path, key])
      const type = typeof branch === 'object' && branch !== null && 'type' in branch ? branch.type : 'string'
      if (keys.length > 0 || type === 'object' || type === 'number') continue
      // Of lists only those of hosts can be told in a variable.
      const isHosts = ENGINES.some((engine) => engine === path[0])
      if (type === 'array' && !isHosts) continue
      const kind =
        type === 'integer' ? 'count' : type === 'boolean' ? 'flag' : type === 'array' ? 'hosts' : 'text'
      names.set(variable(path), { path: [...top, ...path], kind })
    }
  }
  const top = propertiesOf(CONFIG_SCHEMA)
  visit(top.defaults, ['defaults'], [])
  visit(top.cache, [], ['cache'])
  for (const engine of ENGINES) visit(top[engine], [], [engine])
  names.set('STRATALOG_ARCHIVE', { path: ['archive'], kind: 'text' })
  names.set('STRATALOG_METADATA', { path: ['metadata'], kind: 'text' })
  names.set('STRATALOG_STORES', { path: ['stores'], kind: 'list' })
  return names
}
