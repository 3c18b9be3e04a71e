import { resolve } from 'node:path'
import process from 'node:process'
import type { DoctorCheck } from '../model/control-doctor.js'
import { isStratalogError } from '../model/errors.js'
import type { Random } from '../ports/random.js'
import { fileKeyRing } from './key-ring-file.js'

/** The least version that is supported, and the one whose own support has ended. */
const NODE_MIN = [20, 19] as const
const NODE_ENDED = 20

/** What can be said of the machine and without a log: the version of Node.js. */
export function nodeChecks(version: string = process.versions.node): DoctorCheck[] {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  const about = { area: 'node', name: 'version' } as const
  const text = `Node.js ${version}`
  if (major < NODE_MIN[0] || (major === NODE_MIN[0] && minor < NODE_MIN[1]))
    return [
      { ...about, state: 'bad', text, mend: `use Node.js 22 or 24: ${NODE_MIN.join('.')} is the least` },
    ]
  if (major > NODE_ENDED) return [{ ...about, state: 'ok', text, mend: null }]
  const mend = 'its own support ended in April 2026: it works, and gets no more fixes; use Node.js 22 or 24'
  return [{ ...about, state: 'note', text, mend }]
}

/** Whether the rings that the configuration names are there, can be read, and only by their owner. */
export async function ringChecks(
  root: string,
  rings: readonly string[],
  random: Random,
): Promise<DoctorCheck[]> {
  const checks: DoctorCheck[] = []
  for (const path of new Set(rings.map((ring) => resolve(root, ring)))) {
    try {
      const ring = await fileKeyRing(path, random)
      const count = (await ring.keys()).length
      const text = `${path} has ${count} ${count === 1 ? 'key' : 'keys'}, and only its owner may read it`
      checks.push({ area: 'keys', name: 'ring', state: 'ok', text, mend: null })
    } catch (error) {
      if (!isStratalogError(error)) throw error
      const mend = 'what is encrypted with it can be neither written nor read until it is mended'
      checks.push({ area: 'keys', name: 'ring', state: 'bad', text: error.message, mend })
    }
  }
  return checks
}
