import picomatch from 'picomatch'
import { StratalogError } from '../model/errors.js'
import { checkStreamName } from '../model/stream-name.js'

/** More than these could make matching one name take seconds. */
const STARS_MAX = 6

const refuse = (pattern: string, why: string) =>
  new StratalogError(
    'invalid_argument',
    `${JSON.stringify(pattern)} is not a pattern of stream names: ${why}`,
    {
      found: pattern,
    },
  )

/**
 * Checks a pattern of stream names and returns it: a name in which `*` stands for anything within a part and
 * `**` for anything across parts. `audit/**` matches `audit` too. Throws `invalid_argument`.
 */
export function checkPattern(pattern: string): string {
  // Other glob signs may stand in names, and taking them as such here would quietly match nothing.
  const sign = /[?[\]{}()!|\\]/.exec(pattern)?.[0]
  if (sign !== undefined)
    throw refuse(pattern, `"${sign}" has no meaning here: use * and **, one policy for each pattern`)
  if ((pattern.match(/\*+/g)?.length ?? 0) > STARS_MAX)
    throw refuse(pattern, `${STARS_MAX} times * or ** are the limit`)
  if (pattern.split('/').some((part) => part.includes('**') && part !== '**')) {
    throw refuse(pattern, '** stands for whole parts: write a/**/b')
  }
  checkStreamName(pattern.replaceAll('*', 'x'))
  return pattern
}

/** Whether a stream name matches; the pattern was checked. */
export function matcher(pattern: string): (streamName: string) => boolean {
  const matches = picomatch(checkPattern(pattern), {
    dot: true,
    nonegate: true,
    noextglob: true,
    nobrace: true,
  })
  return (streamName) => matches(streamName)
}
