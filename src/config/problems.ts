import type { ErrorObject, ValidateFunction } from 'ajv'
import { Ajv } from 'ajv'
import type { TSchema } from 'typebox'
import { type ErrorCode, StratalogError } from '../model/errors.js'
import { credentialAdvice } from './engine-settings.js'
import { EXPECTS } from './schema.js'
import { didYouMean, nearest } from './suggest.js'

/** Keys and list indexes from the top of a document to a value. */
export type ConfigPath = readonly (string | number)[]

/** Something that is wrong, and at which value. */
export interface Problem {
  readonly path: ConfigPath
  readonly message: string
}

/** A JSON object whose shape was checked. */
export type Checked = Readonly<Record<string, unknown>>

/** Takes note of a problem; the caller goes on, so that all of them are told at once. */
export type Report = (path: ConfigPath, message: string) => void

/** `policies[1].roll.size`; the top is the empty text. */
export function pathText(path: ConfigPath): string {
  return path.reduce<string>(
    (text, part) => (typeof part === 'number' ? `${text}[${part}]` : text === '' ? part : `${text}.${part}`),
    '',
  )
}

/**
 * A value as it is quoted in a message: short, and never with the user part of an address, which may be a
 * secret.
 */
export function quoted(value: unknown): string {
  const text = value === undefined ? 'nothing' : (JSON.stringify(value) ?? typeof value)
  const hidden = text.replace(/:\/\/[^/\s"]*@/g, '://…@')
  return hidden.length > 80 ? `${hidden.slice(0, 77)}…` : hidden
}

/** One error that tells all problems, each with where it is. */
export function configError(
  code: ErrorCode,
  problems: readonly { where: string; message: string }[],
): StratalogError {
  const lines = problems.map(({ where, message }) => `${where}: ${message}`)
  const message =
    lines.length === 1
      ? `${lines[0]}`
      : `${lines.length} problems in the configuration\n  ${lines.join('\n  ')}`
  return new StratalogError(code, message, { details: { problems: lines } })
}

const compiled = new WeakMap<TSchema, ValidateFunction>()

/** Compiled at first use: programs that never read a configuration do not pay for it. */
function validatorOf(schema: TSchema): ValidateFunction {
  let validate = compiled.get(schema)
  if (validate === undefined) {
    const ajv = new Ajv({ allErrors: true, verbose: true })
    ajv.addKeyword(EXPECTS)
    validate = ajv.compile(schema)
    compiled.set(schema, validate)
  }
  return validate
}

/** Reports everything in `value` that `schema` refuses, once each, in words for people. True: nothing. */
export function checkShape(schema: TSchema, value: unknown, report: Report): boolean {
  const validate = validatorOf(schema)
  if (validate(value)) return true
  for (const error of relevant(validate.errors ?? [])) {
    const path = pathOf(error.instancePath, value)
    if (error.keyword === 'additionalProperties') {
      const key = String(error.params.additionalProperty)
      const advice = credentialAdvice(path.at(-1), key) ?? suggestion(key, error.parentSchema)
      report([...path, key], `unknown key "${key}": ${advice}`)
    } else if (error.keyword === 'required') {
      const missing = String(error.params.missingProperty)
      report(path, `${pathText(path) || 'the file'} needs the key "${missing}"`)
    } else {
      const expects = error.parentSchema?.[EXPECTS]
      const why = typeof expects === 'string' ? `is not ${expects}` : `${error.message ?? 'is not valid'}`
      report(path, `${pathText(path) || 'the file'}: ${quoted(error.data)} ${why}`)
    }
  }
  return false
}

/**
 * A value that fits no branch of a union fails every branch, and most of these errors only confuse. For an
 * object or a list that is meant as one, what is wrong inside it; for anything else, the error of the union as a whole.
 */
function relevant(errors: readonly ErrorObject[]): ErrorObject[] {
  let kept = [...errors]
  for (const union of errors.filter((error) => error.keyword === 'anyOf')) {
    const at = union.instancePath
    const isObject = typeof union.data === 'object' && union.data !== null && !Array.isArray(union.data)
    const inside = (error: ErrorObject) =>
      error.instancePath.startsWith(`${at}/`) ||
      (error.instancePath === at &&
        (error.keyword === 'additionalProperties' || error.keyword === 'required'))
    const isMeant = isObject ? isObjectSchema : Array.isArray(union.data) ? isListSchema : () => false
    const useInside = (union.schema as unknown[]).filter(isMeant).length === 1 && errors.some(inside)
    kept = kept.filter((error) => {
      if (useInside) return error.instancePath !== at || inside(error)
      return error === union || (error.instancePath !== at && !error.instancePath.startsWith(`${at}/`))
    })
  }
  const seen = new Set<string>()
  return kept.filter((error) => {
    const own =
      error.keyword === 'additionalProperties' || error.keyword === 'required'
        ? JSON.stringify(error.params)
        : ''
    const key = `${error.instancePath} ${own}`
    return !seen.has(key) && seen.add(key)
  })
}

function isObjectSchema(schema: unknown): boolean {
  return typeof schema === 'object' && schema !== null && 'properties' in schema
}

function isListSchema(schema: unknown): boolean {
  return typeof schema === 'object' && schema !== null && 'items' in schema
}

function pathOf(pointer: string, root: unknown): ConfigPath {
  let value = root
  return pointer
    .split('/')
    .slice(1)
    .map((escaped) => {
      const part = escaped.replaceAll('~1', '/').replaceAll('~0', '~')
      const key = Array.isArray(value) ? Number(part) : part
      value = (value as Record<string | number, unknown> | null)?.[key]
      return key
    })
}

/** The nearest key here, or a place deeper down where such a key belongs. */
function suggestion(key: string, schema: unknown): string {
  const properties = propertiesOf(schema)
  const known = Object.keys(properties)
  if (nearest(key, known) !== null) return didYouMean(key, known)
  for (const section of known) {
    const inner = branches(properties[section]).flatMap((branch) => Object.keys(propertiesOf(branch)))
    const found = nearest(key, inner)
    if (found !== null) return `did you mean "${section}.${found}"?`
  }
  return didYouMean(key, known)
}

/**
 * A copy without the values that problems are about, so that the rest can be read and its problems told too.
 */
export function withoutProblems(value: Checked, problems: readonly Problem[]): Checked {
  const copy = JSON.parse(JSON.stringify(value)) as Checked
  for (const { path } of problems) {
    let group: unknown = copy
    for (const part of path.slice(0, -1)) group = isGroup(group) ? group[part] : undefined
    // Deleting from a list leaves a hole: the places of the others stay what they are.
    const last = path.at(-1)
    if (isGroup(group) && last !== undefined) delete group[last]
  }
  return copy
}

function isGroup(value: unknown): value is Record<string | number, unknown> {
  return typeof value === 'object' && value !== null
}

/** The properties an object schema has; none for any other. */
export function propertiesOf(schema: unknown): Record<string, unknown> {
  if (typeof schema !== 'object' || schema === null || !('properties' in schema)) return {}
  return schema.properties as Record<string, unknown>
}

/** A schema, or the branches of it if it is a union. */
export function branches(schema: unknown): readonly unknown[] {
  if (typeof schema !== 'object' || schema === null || !('anyOf' in schema)) return [schema]
  return schema.anyOf as unknown[]
}
