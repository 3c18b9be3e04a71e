/** What a store was seen to do. What it was not seen to do is done without, safely. */
export interface Abilities {
  /** `If-None-Match: *` on PUT: one winner of many, atomically. */
  readonly conditionalPut: boolean
  /** The same on the end of an upload in parts. */
  readonly conditionalComplete: boolean
  /** A CRC-32C that does not fit is refused, of an object and of a part. */
  readonly crc32c: boolean
  /** So is one over the whole of an object in parts. */
  readonly crc32cOfWhole: boolean
  /** A Content-MD5 that does not fit is refused. */
  readonly md5: boolean
  /** A listing begins behind a name. */
  readonly startAfter: boolean
}

/** A store of which nothing is known. */
export const NO_ABILITIES: Abilities = {
  conditionalPut: false,
  conditionalComplete: false,
  crc32c: false,
  crc32cOfWhole: false,
  md5: false,
  startAfter: false,
}
