import type { Document } from 'yaml'
import { isMap, isScalar, LineCounter, parseDocument } from 'yaml'
import { type ConfigLayer, type Locate, readLayer } from './layer.js'
import {
  type Checked,
  type ConfigPath,
  checkShape,
  configError,
  type Problem,
  withoutProblems,
} from './problems.js'
import { CONFIG_SCHEMA, CONFIG_VERSIONS } from './schema.js'
import { ALIASES_MAX, type Lines, readLines } from './yaml-lines.js'

/** A configuration file, read and checked, each value with its line. */
export type ConfigDocument = ConfigLayer

/** A configuration is written by people: anything longer is another file given by mistake. */
const TEXT_CHARACTERS_MAX = 512 * 1024
/** Deeper than any configuration; far deeper nesting exhausts the stack of the parser. */
const NESTING_MAX = 64

/**
 * Reads stratalog.yaml; `file` is its name in messages and origins (`stratalog.yaml:12`). Pure: nothing is
 * opened. Throws one `config_invalid` that tells all problems with their lines (`details.problems`).
 */
export function parseConfig(text: string, file: string): ConfigDocument {
  refuseOversized(text, file)
  const counter = new LineCounter()
  const document = parseDocument(text, {
    lineCounter: counter,
    prettyErrors: false,
    version: '1.2',
    merge: false,
  })
  const lineAt = (offset: number) => counter.linePos(offset).line
  throwSyntax(document, text, file, lineAt)

  const { lines, problems } = readLines(document, lineAt)
  const fail = (found: readonly Problem[]) => {
    const placed = found.map(({ path, message }) => ({ line: lineOf(lines, path), message }))
    placed.sort((a, b) => a.line - b.line)
    return configError(
      'config_invalid',
      placed.map(({ line, message }) => ({ where: `${file}:${line}`, message })),
    )
  }
  // What follows relies on a tree of text keys without endless aliases.
  if (problems.some((problem) => problem.fatal)) throw fail(problems)
  const raw = plainValue(document, file)
  const version = versionProblem(document, raw)
  if (version !== null) throw fail([version])

  const all: Problem[] = [...problems]
  const report = (path: ConfigPath, message: string) => all.push({ path, message })
  const locate: Locate = (path) => `${file}:${lineOf(lines, path)}${sectionOf(path)}`
  checkShape(CONFIG_SCHEMA, raw, report)
  const layer = readLayer(withoutProblems(raw as Checked, all), { locate, report }, false)
  if (all.length > 0) throw fail(all)
  return layer
}

/**
 * The tree as plain values. The parser counts how much aliases expand to, and says so with a ReferenceError.
 */
function plainValue(document: Document, file: string): unknown {
  try {
    return document.toJS({ maxAliasCount: ALIASES_MAX })
  } catch (error) {
    if (!(error instanceof ReferenceError)) throw error
    throw configError('config_invalid', [
      { where: file, message: `more than ${ALIASES_MAX} aliases are followed` },
    ])
  }
}

function refuseOversized(text: string, file: string): void {
  const refuse = (why: string) => configError('config_invalid', [{ where: file, message: why }])
  if (text.length > TEXT_CHARACTERS_MAX) {
    throw refuse(
      `the file has ${text.length} characters, ${TEXT_CHARACTERS_MAX} are the limit: is it the right file?`,
    )
  }
  // Comments and quoted text are left out of the count of brackets.
  const bare = text.replace(/(^|\s)#.*$|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'/gm, '$1')
  let depth = 0
  for (const sign of bare) {
    if (sign === '[' || sign === '{') depth += 1
    else if ((sign === ']' || sign === '}') && depth > 0) depth -= 1
    if (depth > NESTING_MAX) throw refuse(`more than ${NESTING_MAX} brackets are open at once`)
  }
  if (/^ {256}|(?:[-?:] +){64}/m.test(bare)) throw refuse('it is nested too deeply')
}

/** Faults of YAML itself, with what to do about those that people run into. */
function throwSyntax(
  document: Document,
  text: string,
  file: string,
  lineAt: (offset: number) => number,
): void {
  const problems = [...document.errors, ...document.warnings].map((error) => ({
    where: `${file}:${lineAt(error.pos[0])}`,
    message: syntaxMessage(error.code, error.message, text.slice(error.pos[0]).split(/[\s:]/, 1)[0] ?? ''),
  }))
  // %YAML 1.1 would turn yes, no and 12:34:7 into something else than what is written.
  if (document.directives?.yaml.version !== undefined && document.directives.yaml.version !== '1.2') {
    problems.push({ where: `${file}:1`, message: 'the file must be YAML 1.2: remove the %YAML directive' })
  }
  if (problems.length > 0) throw configError('config_invalid', problems)
}

function syntaxMessage(code: string, message: string, word: string): string {
  if (code === 'DUPLICATE_KEY') return `the key "${word}" is given twice: remove one`
  if (code === 'TAB_AS_INDENT') return 'indent with spaces: YAML allows no tabs'
  if (code === 'MULTIPLE_DOCS') return 'the file must be one document: remove the "---"'
  return `not valid YAML: ${message}`
}

function versionProblem(document: Document, raw: unknown): Problem | null {
  const read = CONFIG_VERSIONS.join(', ')
  if (raw === null) return { path: [], message: `the file is empty: write at least "version: ${read}"` }
  if (!isMap(document.contents))
    return { path: [], message: 'the file must be keys with values, as "version: 1"' }
  const node = document.contents.get('version', true)
  const version = isScalar(node) ? node.value : undefined
  if (node === undefined) return { path: [], message: `the file needs its version: write "version: ${read}"` }
  if (typeof version === 'number' && CONFIG_VERSIONS.includes(version)) return null
  const found = `version ${JSON.stringify(version) ?? 'that'} is not read here, only version ${read}`
  return { path: ['version'], message: `${found}: upgrade stratalog, or write "version: ${read}"` }
}

function sectionOf(path: ConfigPath): string {
  if (path[0] === 'policies') return `  policies[${path[1]}]`
  if (path[0] === 'defaults' || path[0] === 'quorum') return `  ${path[0]}`
  return ''
}

/** The line of a value, or of the nearest thing around it that was written. */
function lineOf(lines: Lines, path: ConfigPath): number {
  for (let length = path.length; length > 0; length -= 1) {
    const line = lines.get(JSON.stringify(path.slice(0, length)))
    if (line !== undefined) return line
  }
  return 1
}
