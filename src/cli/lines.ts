import { StratalogError } from '../model/errors.js'
import { PAYLOAD_BYTES_MAX } from '../model/record.js'

/** Lines handed on together at most, and their bytes. Appended together they share a disk sync. */
const BATCH_LINES_MAX = 4_096
const BATCH_BYTES_MAX = 4 * 1024 * 1024

/** A line of input with where it came from, `stdin line 3`. */
export interface InputLine {
  readonly bytes: Uint8Array
  readonly where: string
}

/** A text given as an option, as the only line. */
export async function* oneLine(text: string): AsyncGenerator<InputLine[], void, undefined> {
  yield [{ bytes: Buffer.from(text, 'utf8'), where: '--message' }]
}

/**
 * Lines of a stream in batches: whatever has arrived while the batch before was worked on, so that a lone line goes
 * at once and a flood goes in large pieces. Bytes are kept as they are, and an empty line is a line; the line feed
 * at the end of the input begins none. Ends when `signal` is aborted. Rejects with `record_too_large` for a line of more than
 * `lineBytesMax`, by default what a record may have.
 */
export async function* lineBatches(
  input: NodeJS.ReadableStream,
  name: string,
  signal: AbortSignal,
  lineBytesMax: number = PAYLOAD_BYTES_MAX,
): AsyncGenerator<InputLine[], void, undefined> {
  const gathered = new Gathered(name, lineBytesMax)
  let wake: () => void = () => undefined
  let ended = false
  let failure: Error | null = null
  const onData = (chunk: Buffer | string) => {
    gathered.add(typeof chunk === 'string' ? Buffer.from(chunk) : chunk)
    if (gathered.full) input.pause()
    wake()
  }
  const onEnd = () => {
    ended = true
    wake()
  }
  const onError = (error: Error) => {
    failure = new StratalogError('io_failed', `${name} can't be read: ${error.message}`, { cause: error })
    wake()
  }
  input.on('data', onData).on('end', onEnd).on('close', onEnd).on('error', onError)
  signal.addEventListener('abort', onEnd, { once: true })
  try {
    for (;;) {
      const lines = gathered.take()
      if (lines.length > 0) yield lines
      if (failure !== null) throw failure
      if (signal.aborted) return
      if (!gathered.full) input.resume()
      if (gathered.hasLines) continue
      if (ended) break
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
    const last = gathered.rest()
    if (last !== null) yield [last]
  } finally {
    input.pause()
    input.off('data', onData).off('end', onEnd).off('close', onEnd).off('error', onError)
    signal.removeEventListener('abort', onEnd)
  }
}

/** Whether there is nothing in a line but spaces: no JSON, and no mistake either. */
export function isBlank({ bytes }: InputLine): boolean {
  return bytes.every((byte) => byte === 32 || byte === 9 || byte === 13)
}

/** The batches without their blank lines; `passedOver` hears at the end how many there were. */
export async function* withoutBlank(
  batches: AsyncIterable<InputLine[]>,
  passedOver: (count: number) => void,
): AsyncGenerator<InputLine[], void, undefined> {
  let count = 0
  for await (const batch of batches) {
    const lines = batch.filter((line) => !isBlank(line))
    count += batch.length - lines.length
    if (lines.length > 0) yield lines
  }
  passedOver(count)
}

/** Bytes that have arrived, divided into lines. */
class Gathered {
  readonly #name: string
  readonly #lineBytesMax: number
  #lines: InputLine[] = []
  #bytes = 0
  /** Pieces of the line that has not ended yet. */
  #open: Buffer[] = []
  #openBytes = 0
  #number = 1
  #tooLong: StratalogError | null = null

  constructor(name: string, lineBytesMax: number) {
    this.#name = name
    this.#lineBytesMax = lineBytesMax
  }

  get full(): boolean {
    return this.#lines.length >= BATCH_LINES_MAX || this.#bytes >= BATCH_BYTES_MAX || this.#tooLong !== null
  }

  get hasLines(): boolean {
    return this.#lines.length > 0 || this.#tooLong !== null
  }

  add(chunk: Buffer): void {
    let from = 0
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, from)) {
      this.#hold(chunk.subarray(from, at))
      this.#end()
      from = at + 1
    }
    if (from < chunk.length) this.#hold(chunk.subarray(from))
  }

  /** What was gathered, at most a batch; what is too long is told after the lines before it. */
  take(): InputLine[] {
    if (this.#lines.length === 0 && this.#tooLong !== null) throw this.#tooLong
    const lines = this.#lines.splice(0, BATCH_LINES_MAX)
    this.#bytes = this.#lines.reduce((sum, line) => sum + line.bytes.length, 0)
    return lines
  }

  /** The last line, if the input did not end with a line feed. */
  rest(): InputLine | null {
    if (this.#openBytes > 0) this.#end()
    return this.take()[0] ?? null
  }

  #hold(piece: Buffer): void {
    if (this.#tooLong !== null) return
    this.#open.push(piece)
    this.#openBytes += piece.length
    if (this.#openBytes <= this.#lineBytesMax) return
    this.#tooLong = new StratalogError(
      'record_too_large',
      `${this.#name} line ${this.#number} has more than ${this.#lineBytesMax} bytes, the most a record may have: divide it`,
      {
        expected: this.#lineBytesMax,
        found: this.#openBytes,
      },
    )
    this.#open = []
  }

  #end(): void {
    if (this.#tooLong === null) {
      const [first] = this.#open
      const bytes = this.#open.length === 1 && first !== undefined ? first : Buffer.concat(this.#open)
      this.#lines.push({ bytes, where: `${this.#name} line ${this.#number}` })
      this.#bytes += bytes.length
    }
    this.#open = []
    this.#openBytes = 0
    this.#number += 1
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true })

/** The value of a line of JSON. Throws `invalid_argument` that names the line. */
export function parseJsonLine(line: InputLine): unknown {
  try {
    return JSON.parse(utf8.decode(line.bytes))
  } catch (cause) {
    const why = cause instanceof SyntaxError ? cause.message : 'it is not UTF-8'
    throw new StratalogError('invalid_argument', `${line.where} is not JSON: ${why}`, { cause })
  }
}
