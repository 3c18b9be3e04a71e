import { DeleteObjectCommand } from '@aws-sdk/client-s3'
import { isNamed, NotFromS3, statusOf } from './errors.js'
import type { S3Session } from './session.js'

/** Deletes an object; an absent one is fine. */
export function deleteKey(session: S3Session, key: string, signal: AbortSignal | undefined): Promise<void> {
  return session.call({
    doing: `deleting ${key}`,
    signal,
    work: async ({ signal: abortSignal }) => {
      try {
        await session.client.send(new DeleteObjectCommand(session.at(key)), { abortSignal })
      } catch (error) {
        // A store that says so about what is absent means what the others mean by success.
        const absent = statusOf(error) === 404 && !isNamed(error, 'NoSuchBucket')
        if (!absent || error instanceof NotFromS3) throw error
      }
    },
  })
}
