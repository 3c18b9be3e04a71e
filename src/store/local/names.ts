/** The file that says whose store a directory is and which log files belong to it. */
export const SUPERBLOCK_NAME = 'superblock'
/** What a superblock is called until it is whole. */
export const SUPERBLOCK_TEMPORARY_NAME = 'superblock.new'

/** `log-000000000000002a`: a file of the log, named by its generation. */
export function logName(generation: bigint): string {
  return `log-${generation.toString(16).padStart(16, '0')}`
}

/**
 * `spare-0000000000000007`: an allocated file waiting for its next life; the number only tells spares apart.
 */
export function spareName(number: bigint): string {
  return `spare-${number.toString(16).padStart(16, '0')}`
}

/** Reads a name made by the two above; null for anything else, which is not ours and is left alone. */
export function parseName(name: string): { kind: 'log' | 'spare'; number: bigint } | null {
  const match = /^(log|spare)-([0-9a-f]{16})$/.exec(name)
  if (!match) return null
  return { kind: match[1] === 'log' ? 'log' : 'spare', number: BigInt(`0x${match[2]}`) }
}
