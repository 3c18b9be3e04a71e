import { StratalogError } from './errors.js'

/** Turns values into payloads and back. */
export interface Codec<T> {
  /** A string is stored as UTF-8. */
  encode(value: T): Uint8Array | string
  /** The payload is a view: copy what is kept. */
  decode(payload: Uint8Array): T
}

const utf8 = new TextDecoder()

/**
 * Values as JSON text.
 *
 * @example
 * ```ts
 * import { json } from 'stratalog'
 * const codec = json<{ at: number }>()
 * console.log(codec.decode(new TextEncoder().encode('{"at":1}')).at)
 * ```
 */
export function json<T>(): Codec<T> {
  return {
    encode: (value) => {
      const text = JSON.stringify(value) as string | undefined
      if (text === undefined)
        throw new StratalogError('invalid_argument', `a value of type ${typeof value} has no JSON form`)
      return text
    },
    decode: (payload) => JSON.parse(utf8.decode(payload)) as T,
  }
}

/** Values as UTF-8 text. */
export function text(): Codec<string> {
  return { encode: (value) => value, decode: (payload) => utf8.decode(payload) }
}

/** Payloads as they are. */
export function bytes(): Codec<Uint8Array> {
  return { encode: (value) => value, decode: (payload) => payload }
}
