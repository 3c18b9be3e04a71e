import { resolve } from 'node:path'

/** An archive as the log knows it: addresses as they are, directories in full. */
export function archivePlace(place: string): string {
  return /^[a-z][a-z0-9+.-]+:\/\//.test(place) ? place : resolve(place)
}
