import type { Logger } from '../ports/logger.js'

/**
 * What a command passes to whatever it opens: it logs nothing unless STRATALOG_LOG asks for it. What went wrong is
 * said once and for people, in the line of the error; a program has other readers for its log.
 */
export async function quietSystem(): Promise<{ readonly logger: Logger }> {
  const { createLogger } = await import('../system/logger.js')
  return { logger: createLogger({ level: 'silent' }) }
}
