import type { Document, Pair, Scalar } from 'yaml'
import { isAlias, isMap, isNode, isScalar, isSeq } from 'yaml'
import { type ConfigPath, type Problem, pathText } from './problems.js'

/** The line of each key and list item, by its path as JSON text. */
export type Lines = ReadonlyMap<string, number>

/** Aliases that are followed before a file counts as an attempt to exhaust memory. */
export const ALIASES_MAX = 500

/** Values a file may have, aliases followed. */
const NODES_MAX = 50_000

/** A problem of the tree itself; after a fatal one the tree can't be turned into values. */
export interface TreeProblem extends Problem {
  readonly fatal: boolean
}

interface Walk {
  readonly document: Document
  readonly lineAt: (offset: number) => number
  readonly lines: Map<string, number>
  readonly problems: TreeProblem[]
  /** Aliases that are being followed: one within itself has no end. */
  readonly following: Set<unknown>
  nodes: number
  aliases: number
}

/** Finds the line of every value, and the traps that YAML sets for people. */
export function readLines(
  document: Document,
  lineAt: (offset: number) => number,
): { lines: Lines; problems: readonly TreeProblem[] } {
  const walk: Walk = {
    document,
    lineAt,
    lines: new Map(),
    problems: [],
    following: new Set(),
    nodes: 0,
    aliases: 0,
  }
  visit(walk, document.contents, [])
  return { lines: walk.lines, problems: walk.problems }
}

function visit(walk: Walk, node: unknown, path: ConfigPath): void {
  walk.nodes += 1
  if (walk.nodes > NODES_MAX) {
    if (walk.nodes === NODES_MAX + 1)
      fatal(walk, [], `it has more than ${NODES_MAX} values, aliases followed`)
  } else if (isAlias(node)) followAlias(walk, node, path)
  else if (isMap(node)) for (const pair of node.items) visitPair(walk, pair, path)
  else if (isSeq(node)) {
    node.items.forEach((item, index) => {
      const at = [...path, index]
      mark(walk, item, at)
      visit(walk, item, at)
    })
  } else if (isScalar(node)) checkScalar(walk, node, path)
}

function visitPair(walk: Walk, pair: Pair, path: ConfigPath): void {
  const { key, value } = pair
  if (!isScalar(key) || typeof key.value !== 'string') {
    mark(walk, key, [...path, '?'])
    fatal(walk, [...path, '?'], `the key ${String(key)} is not text: quote it`)
    return
  }
  const at = [...path, key.value]
  mark(walk, key, at)
  visit(walk, value, at)
}

function followAlias(
  walk: Walk,
  node: { source: string; resolve(document: Document): unknown },
  path: ConfigPath,
): void {
  walk.aliases += 1
  // Counted before it is resolved: resolving one searches the whole document.
  if (walk.aliases > ALIASES_MAX) {
    if (walk.aliases === ALIASES_MAX + 1) fatal(walk, path, `more than ${ALIASES_MAX} aliases are followed`)
    return
  }
  const target = node.resolve(walk.document)
  if (target === undefined) fatal(walk, path, `*${node.source} has no anchor &${node.source} before it`)
  else if (walk.following.has(target)) fatal(walk, path, `*${node.source} stands within itself`)
  else {
    walk.following.add(target)
    visit(walk, target, path)
    walk.following.delete(target)
  }
}

function checkScalar(walk: Walk, node: Scalar, path: ConfigPath): void {
  const source = node.source ?? ''
  if (node.type !== 'PLAIN') return
  if (/^[-+]?\d+(:[0-5]?\d)+(\.\d*)?$/.test(source)) {
    problem(
      walk,
      path,
      `${pathText(path)}: quote "${source}": bare it is a base-60 number to YAML 1.1 readers`,
    )
  }
  if (typeof node.value === 'number' && !/^-?\d+(\.\d+)?$/.test(source)) {
    problem(walk, path, `${pathText(path)}: write ${source} as a plain decimal number`)
  }
}

function mark(walk: Walk, node: unknown, path: ConfigPath): void {
  if (isNode(node) && node.range) walk.lines.set(JSON.stringify(path), walk.lineAt(node.range[0]))
}

function problem(walk: Walk, path: ConfigPath, message: string): void {
  walk.problems.push({ path, message, fatal: false })
}

function fatal(walk: Walk, path: ConfigPath, message: string): void {
  walk.problems.push({ path, message, fatal: true })
}
