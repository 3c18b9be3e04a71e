import { distance } from 'fastest-levenshtein'

/**
 * The candidate a person most likely meant, or null if none is near: at most a third of its letters differ,
 * or two letters that changed places. Capitals and the marks between words do not count, so `archive_down`
 * finds `archive-down`.
 */
export function nearest(word: string, candidates: readonly string[]): string | null {
  const plain = (text: string) => text.toLowerCase().replace(/[-_. ]/g, '')
  let found: string | null = null
  let foundDistance = Number.POSITIVE_INFINITY
  for (const candidate of candidates) {
    const swapped = sorted(plain(word)) === sorted(plain(candidate))
    const steps = Math.min(distance(plain(word), plain(candidate)), swapped ? 1 : Number.POSITIVE_INFINITY)
    const allowed = Math.max(1, Math.floor(Math.max(plain(word).length, plain(candidate).length) / 3))
    if (steps <= allowed && steps < foundDistance) {
      found = candidate
      foundDistance = steps
    }
  }
  return found
}

function sorted(text: string): string {
  return [...text].sort().join('')
}

/** `did you mean "roll"?`, or the list of what there is when nothing is near. */
export function didYouMean(word: string, candidates: readonly string[]): string {
  const found = nearest(word, candidates)
  return found === null ? `known are ${candidates.join(', ')}` : `did you mean "${found}"?`
}
