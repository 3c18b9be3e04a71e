import { resolve } from 'node:path'
import type { KeyRings } from '../../archive/keys.js'
import type { ResolvedConfig } from '../config/resolve.js'
import { isStratalogError } from '../model/errors.js'
import type { OpenOptions, SystemPorts } from '../options.js'
import type { KeyRing } from '../ports/key-ring.js'
import type { Random } from '../ports/random.js'
import { fileKeyRing } from './key-ring-file.js'

/**
 * The rings of a log: one that was passed in, and the files that its configuration names. `files` are looked at again
 * at each use: what is encrypted under yesterday's policy needs the ring of today's, and the other way round.
 */
export function keyRings(options: {
  /** What relative files start at. */
  readonly root: string
  readonly given: KeyRing | string | null
  /** Rings that the configuration names anywhere, and the policy of the stream, if it is known. */
  readonly named: (incarnation: string) => Promise<readonly string[]>
  readonly random: Random
}): KeyRings {
  const { root, given, named, random } = options
  const instance = typeof given === 'object' ? given : null
  const file = (ring: string) => fileKeyRing(resolve(root, ring), random)
  return {
    named: async (ring) => {
      if (ring === instance?.id) return instance
      return file(ring)
    },
    known: async (incarnation) => {
      const paths = new Set([...(typeof given === 'string' ? [given] : []), ...(await named(incarnation))])
      if (instance !== null) paths.delete(instance.id)
      const found = await Promise.allSettled([...paths].map(file))
      const missing = found.flatMap((one) => {
        if (one.status === 'fulfilled') return []
        if (!isStratalogError(one.reason)) throw one.reason
        return [one.reason]
      })
      const rings = found.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
      return { rings: instance === null ? rings : [instance, ...rings], missing }
    },
  }
}

/** The rings of a log as its configuration names them at each use. `ofStream`: the ring in a stream's policy; null: it has none. */
export function ringsOf(
  root: string,
  options: OpenOptions,
  config: () => ResolvedConfig,
  { random }: SystemPorts,
  ofStream: (incarnation: string) => Promise<string | null>,
): KeyRings {
  const named = async (incarnation: string) => {
    const own = await ofStream(incarnation)
    const configured = config().keyRings
    return own === null ? configured : [...configured, own]
  }
  return keyRings({ root, given: options.keyRing ?? null, named, random })
}
