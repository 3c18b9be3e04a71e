/** Thrown for a bug of ours, never for what the world does: those are `StratalogError`s. */
export class AssertionFailed extends Error {
  override readonly name = 'AssertionFailed'
}

/** States what must hold if our code is right. On in production: a wrong step must not reach a disk. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionFailed(`stratalog bug: ${message}`)
}

/** Closes a `switch` over a union: the compiler proves it is never reached. */
export function unreachable(value: never, what: string): never {
  throw new AssertionFailed(`stratalog bug: unexpected ${what}: ${String(value)}`)
}

/** The value, or an assertion: for what the surrounding code has already made sure of. */
export function present<T>(value: T | null | undefined, what: string): T {
  assert(value !== null && value !== undefined, `${what} is absent`)
  return value
}
