import { ERROR_CODES, type ErrorCode, StratalogError } from './errors.js'

/** An error as JSON: on stderr of the command line and in answers of the control socket. */
export interface ErrorBody {
  readonly code: ErrorCode
  readonly message: string
  readonly retryable: boolean
  readonly expected?: unknown
  readonly found?: unknown
}

/** Any error as JSON; what is not ours has the code `internal`. */
export function errorBody(error: unknown): ErrorBody {
  if (!(error instanceof StratalogError)) {
    return {
      code: 'internal',
      message: error instanceof Error ? error.message : String(error),
      retryable: false,
    }
  }
  const { code, message, retryable, expected, found } = error
  return {
    code,
    message,
    retryable,
    ...(expected === undefined ? {} : { expected: plain(expected) }),
    ...(found === undefined ? {} : { found: plain(found) }),
  }
}

/** The error that `errorBody` described. An unknown code, of another version, becomes `internal`. */
export function errorFromBody(body: unknown): StratalogError {
  const { code, message, retryable, expected, found } = (
    typeof body === 'object' && body !== null ? body : {}
  ) as Record<string, unknown>
  const known = ERROR_CODES.find((one) => one === code)
  return new StratalogError(
    known ?? 'internal',
    typeof message === 'string' ? message : 'the log answered with an error that says nothing',
    {
      retryable: retryable === true,
      expected,
      found,
    },
  )
}

/** What JSON has a form for: bigints as decimal strings, the rest by its own toJSON. */
function plain(value: unknown): unknown {
  const text = JSON.stringify(value, (_, one: unknown) => (typeof one === 'bigint' ? one.toString() : one)) as
    | string
    | undefined
  return text === undefined ? String(value) : (JSON.parse(text) as unknown)
}
