import { DeleteObjectCommand } from '@aws-sdk/client-s3'
import { isNamed, NotFromS3 } from './errors.js'
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
        // A store that says so about what is absent means what the others mean by success. A 404 without that word may
        // come from something in between.
        if (!isNamed(error, 'NoSuchKey') || error instanceof NotFromS3) throw error
      }
    },
  })
}
