import { RestoreObjectCommand } from '@aws-sdk/client-s3'
import { StratalogError } from '../../src/model/errors.js'
import { isNamed, statusOf } from './errors.js'
import { requireMarker } from './marker.js'
import { headObject, type ObjectHead } from './read.js'
import type { S3Session } from './session.js'

const DAY_MS = 86_400_000
/** Classes whose objects are read only after a restore. `GLACIER_IR` is not among them. */
const FROZEN = new Set(['GLACIER', 'DEEP_ARCHIVE'])
const TIERS = { expedited: 'Expedited', standard: 'Standard', bulk: 'Bulk' } as const

/** Starts thawing an object, or says how far it is. */
export async function thawObject(
  session: S3Session,
  key: string,
  forMs: number,
  signal: AbortSignal | undefined,
): Promise<'readable' | 'thawing'> {
  const head = await headObject(session, key, signal)
  if (head === null) {
    await requireMarker(session, signal)
    throw new StratalogError('object_not_found', `${key} is not in ${session.location}: look for its twins`, {
      found: key,
    })
  }
  const state = frozenState(head)
  if (state !== 'frozen') return state
  return (await restore(session, key, forMs, head, signal)) ? 'thawing' : 'readable'
}

function frozenState({
  storageClass,
  restore,
  archiveStatus,
}: ObjectHead): 'readable' | 'thawing' | 'frozen' {
  if (restore?.includes('ongoing-request="true"') === true) return 'thawing'
  // A copy for a time is there; objects of intelligent tiering come back for good.
  if (restore?.includes('ongoing-request="false"') === true) return 'readable'
  return FROZEN.has(storageClass ?? '') || archiveStatus !== undefined ? 'frozen' : 'readable'
}

/** Whether there is something to wait for. */
function restore(
  session: S3Session,
  key: string,
  forMs: number,
  { archiveStatus }: ObjectHead,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const tier = { Tier: TIERS[session.place.thawTier] }
  // Intelligent tiering moves the object itself and takes no days.
  const request =
    archiveStatus === undefined
      ? { Days: Math.max(1, Math.ceil(forMs / DAY_MS)), GlacierJobParameters: tier }
      : { GlacierJobParameters: tier }
  return session.call({
    doing: `thawing ${key}`,
    signal,
    work: async ({ signal: abortSignal }) => {
      try {
        const command = new RestoreObjectCommand({ ...session.at(key), RestoreRequest: request })
        const { $metadata } = await session.client.send(command, { abortSignal })
        // 200: there is a copy already, and its time was made longer.
        return $metadata.httpStatusCode !== 200
      } catch (error) {
        if (isNamed(error, 'RestoreAlreadyInProgress')) return true
        // A store that takes the class for a label and reads the object all the same.
        if ([405, 501].includes(statusOf(error))) return false
        throw error
      }
    },
  })
}
