import { StratalogError } from './errors.js'

/** Longest stream name, in bytes of UTF-8. */
export const STREAM_NAME_BYTES_MAX = 255

/**
 * Checks a stream name and returns it. Names are paths of parts divided by `/` (`audit/login`), the rule of
 * DistributedLog's names (FORMATS.md §5.2) plus NFC, so that two spellings of one name are never two streams.
 * Throws `stream_name_invalid` that says what to change.
 */
export function checkStreamName(name: string): string {
  const refuse = (why: string) =>
    new StratalogError('stream_name_invalid', `${JSON.stringify(name)} can't name a stream: ${why}`, {
      found: name,
    })
  if (typeof name !== 'string' || name.length === 0) throw refuse('it is empty')
  if (name !== name.normalize('NFC')) {
    throw refuse(`it is not in Unicode normal form C; write ${JSON.stringify(name.normalize('NFC'))}`)
  }
  const bytes = new TextEncoder().encode(name).length
  if (bytes > STREAM_NAME_BYTES_MAX)
    throw refuse(`it has ${bytes} bytes, ${STREAM_NAME_BYTES_MAX} are the limit`)
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
  if (/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/.test(name)) throw refuse('it has a control character')
  if (/[\ud800-\udfff]/u.test(name)) throw refuse('it has half a surrogate pair')
  if (/[<>\s\\]/u.test(name)) throw refuse('"<", ">", "\\" and white space are not allowed')
  if (name.startsWith('/') || name.endsWith('/') || name.includes('//')) {
    throw refuse('a "/" divides parts and stands neither first, last nor twice')
  }
  for (const part of name.split('/')) {
    if (part.startsWith('.')) throw refuse(`the part ${JSON.stringify(part)} starts with "."`)
  }
  return name
}
