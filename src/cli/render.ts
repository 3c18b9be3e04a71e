import picocolors from 'picocolors'
import { formatBytes } from '../model/units.js'

/** Colours; each returns its text unchanged where there are none. */
export type Colors = Pick<
  ReturnType<typeof picocolors.createColors>,
  'bold' | 'dim' | 'red' | 'green' | 'yellow' | 'cyan'
>

/** Colours for a stream: only on a terminal, and not with NO_COLOR. */
export function colorsFor(isTTY: boolean, env: Readonly<Record<string, string | undefined>>): Colors {
  const off = env.NO_COLOR !== undefined && env.NO_COLOR !== ''
  return picocolors.createColors(isTTY && !off && env.TERM !== 'dumb')
}

export interface ProgressOptions {
  /** Begins the line: `append`, `audit/login`. */
  readonly label: string
  /** What is to be done in all; without it only what is done so far is shown. */
  readonly total?: number
  /** `bytes` shows sizes and a rate; `count` plain numbers. @default 'count' */
  readonly unit?: 'bytes' | 'count'
}

/** A piece of work under way. */
export interface Progress {
  /** What is done by now, with a word about it. Cheap: drawn a few times a second at most. */
  update(done: number, detail?: string): void
  /** Takes the bar away. */
  end(): void
}

interface Target {
  readonly columns?: number
  write(text: string): unknown
}

const DRAW_INTERVAL_MS = 100
const LINE_INTERVAL_MS = 10_000
const BAR_WIDTH = 18

/** Shows progress on `target`: `draw` one line over and over, `lines` one now and then, `off` nothing. */
export function startProgress(
  target: Target,
  options: ProgressOptions & { readonly mode: 'draw' | 'lines' | 'off' },
): Progress {
  const { mode } = options
  if (mode === 'off') return { update: () => undefined, end: () => undefined }
  const startedMs = performance.now()
  const intervalMs = mode === 'draw' ? DRAW_INTERVAL_MS : LINE_INTERVAL_MS
  let shownMs = mode === 'draw' ? Number.NEGATIVE_INFINITY : startedMs
  let drawn = false
  return {
    update(done, detail = '') {
      const nowMs = performance.now()
      if (nowMs - shownMs < intervalMs) return
      shownMs = nowMs
      const text = progressText(options, done, nowMs - startedMs, detail)
      if (mode === 'lines') target.write(`${text}\n`)
      else target.write(`\r\u001b[2K${text.slice(0, Math.max(20, (target.columns ?? 80) - 1))}`)
      drawn = mode === 'draw'
    },
    end() {
      if (drawn) target.write('\r\u001b[2K')
      drawn = false
    },
  }
}

/** One line of progress: `append  ██████░░░░  58 %  471 MiB  212 MiB/s`. */
export function progressText(
  options: ProgressOptions,
  done: number,
  elapsedMs: number,
  detail: string,
): string {
  const { label, total, unit = 'count' } = options
  const show = unit === 'bytes' ? formatBytes : formatCount
  const parts = [label]
  if (total !== undefined && total > 0)
    parts.push(
      bar(done / total, BAR_WIDTH),
      `${Math.min(100, Math.floor((done / total) * 100))} %`.padStart(5),
    )
  parts.push(show(done))
  if (elapsedMs > 500) parts.push(`${show(Math.round((done * 1_000) / elapsedMs))}/s`)
  if (detail !== '') parts.push(detail)
  return parts.join('  ')
}

/** `██████░░░░`; fractions outside of 0 … 1 are cut. */
export function bar(fraction: number, width: number): string {
  const full = Math.round(Math.min(1, Math.max(0, fraction)) * width)
  return '█'.repeat(full) + '░'.repeat(width - full)
}

/** `231,083`. */
export function formatCount(count: number | bigint): string {
  return count.toString().replace(/\B(?=(\d{3})+$)/g, ',')
}

/** `1 record`, `1,204 records`. */
export function plural(count: number | bigint, word: string): string {
  return `${formatCount(count)} ${word}${BigInt(count) === 1n ? '' : 's'}`
}

/** A column of a table: its heading, and on which side its cells stand. */
export interface Column {
  readonly name: string
  readonly align?: 'left' | 'right'
}

/** Lines of a table with two spaces between columns and none at the end of a line. Control characters are shown. */
export function table(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  colors?: Colors,
): string[] {
  const cells = rows.map((row) => row.map(printable))
  const widths = columns.map((column, i) =>
    Math.max(width(column.name), ...cells.map((row) => width(row[i] ?? ''))),
  )
  const line = (row: readonly string[]) =>
    columns
      .map((column, i) => {
        const cell = row[i] ?? ''
        const pad = ' '.repeat(Math.max(0, (widths[i] ?? 0) - width(cell)))
        return column.align === 'right' ? pad + cell : cell + pad
      })
      .join('  ')
      .trimEnd()
  const headed = columns.some((column) => column.name !== '')
  const head = headed
    ? [colors === undefined ? line(columns.map((c) => c.name)) : colors.dim(line(columns.map((c) => c.name)))]
    : []
  return [...head, ...cells.map(line)]
}

/** Columns a text takes on a terminal, near enough: wide characters of East Asia take two. */
function width(text: string): number {
  let columns = 0
  for (const char of text)
    columns +=
      /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\u{1f300}-\u{1faff}]/u.test(
        char,
      )
        ? 2
        : 1
  return columns
}

const NOT_PRINTABLE = /[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu

/** The text on one line, with control characters as escapes: what is stored must not steer the terminal. */
export function printable(text: string): string {
  return text.replace(NOT_PRINTABLE, (char) => {
    const named = ({ '\n': '\\n', '\r': '\\r', '\t': '\\t' } as Record<string, string>)[char]
    return named ?? `\\u${(char.codePointAt(0) ?? 0).toString(16).padStart(4, '0')}`
  })
}

const strictUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** The payload's text, or null if it is no UTF-8. */
export function textOf(payload: Uint8Array): string | null {
  try {
    return strictUtf8.decode(payload)
  } catch {
    // Not text: the one failure there is, and the answer to the question.
    return null
  }
}

/** A payload on one line: its text, or its bytes in base64. */
export function payloadLine(payload: Uint8Array): string {
  const text = textOf(payload)
  return text === null
    ? `base64:${Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength).toString('base64')}`
    : printable(text)
}
