import type { Incarnation, StreamParent } from './segment.js'

/*
 * A clone is a stream of its own that begins with the history of another: whole segments below its fork are the objects
 * of its parent, what comes behind is its own. Its segments have the numbers, and its records the positions, they have
 * there.
 */

/** What a clone is called until it has everything it was made with: nobody finds half of one under its name. */
export function nameWhileCloned(incarnation: Incarnation): string {
  return `cloning/${incarnation}`
}

/** Whether the making of a clone is under way, or was cut short. */
export function isBeingCloned(stream: { readonly name: string; readonly incarnation: Incarnation }): boolean {
  return stream.name === nameWhileCloned(stream.incarnation)
}

/** Segments below this one are the parent's objects; null: the stream shares none. */
export function sharedBelow(parent: StreamParent | null): bigint | null {
  return parent?.shares === true && parent.fork !== null ? parent.fork.segment : null
}

/** The last segment a clone was made with; null: the stream is none. */
export function clonedThrough(parent: StreamParent | null): bigint | null {
  if (parent?.shares !== true || parent.fork === null) return null
  const { segment, entry, slot } = parent.fork
  return entry === 0n && slot === 0n ? segment - 1n : segment
}
