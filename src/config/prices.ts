import { parse } from 'yaml'
import { StratalogError } from '../model/errors.js'
import type { Prices } from '../model/explain-text.js'

const NUMBERS = ['per-thousand-requests', 'per-GiB-egress'] as const
const KEYS: readonly string[] = ['currency', ...NUMBERS]
/** Written by people: anything longer is another file given by mistake. */
const TEXT_CHARACTERS_MAX = 64 * 1024

/**
 * Reads a file of prices: `currency` (shown before figures, `$` if not said), `per-thousand-requests` and
 * `per-GiB-egress`. Throws `config_invalid`.
 */
export function parsePrices(text: string, file: string): Prices {
  const found = text.length > TEXT_CHARACTERS_MAX ? null : parsed(text, file)
  if (typeof found !== 'object' || found === null || Array.isArray(found)) {
    throw invalid(`${file} is not a list of prices: write ${NUMBERS.join(' and ')}, each with a number`)
  }
  const values = found as Readonly<Record<string, unknown>>
  const unknown = Object.keys(values).find((key) => !KEYS.includes(key))
  if (unknown !== undefined) throw invalid(`${file} has a price "${unknown}": there are ${KEYS.join(', ')}`)
  const number = (key: string): number => {
    const value = values[key]
    if (typeof value === 'number' && Number.isFinite(value) && value >= 0) return value
    throw invalid(`${file}: ${key} is not a number of at least 0`)
  }
  const { currency = '$' } = values
  if (typeof currency !== 'string' || currency.length > 8)
    throw invalid(`${file}: currency is not a short text`)
  return { currency, perThousandRequests: number(NUMBERS[0]), perGiBEgress: number(NUMBERS[1]) }
}

function parsed(text: string, file: string): unknown {
  try {
    return parse(text)
  } catch (cause) {
    throw invalid(`${file} is no YAML: ${(cause as Error).message}`, cause)
  }
}

function invalid(message: string, cause?: unknown): StratalogError {
  return new StratalogError('config_invalid', message, { cause })
}
