import type { OpenOptions } from 'stratalog'

/** A log of which members take parts away has a lot to say. */
export const SILENT: NonNullable<NonNullable<OpenOptions['system']>['logger']> = {
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: () => {},
  child: () => SILENT,
}
