/** Structured diagnostics on stderr as JSON lines; never program output, never a secret (known names are redacted). */
export interface Logger {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
  child(fields: object): Logger
}
