import { isStratalogError, StratalogError } from '../model/errors.js'
import type { SegmentRow } from '../model/segment.js'

/** The same error with what the reader has to do about it; any other error as it is. */
export function thawingAdvice(
  error: unknown,
  row: Pick<SegmentRow, 'segment'>,
  streamName: string | null,
): unknown {
  if (!isStratalogError(error, 'thawing') || error.details.advised === true) return error
  const { segment } = row
  const stream = streamName ?? 'STREAM'
  return new StratalogError(
    'thawing',
    `segment ${segment} of ${stream} can't be read yet: ${error.message}. ` +
      `"stratalog recall ${stream} --from ${segment}:0:0 --until ${segment + 1n}:0:0 --for 7d" asks for it and brings it back when it can be read`,
    {
      cause: error,
      retryable: error.retryable,
      found: error.found,
      details: { ...error.details, advised: true },
    },
  )
}
