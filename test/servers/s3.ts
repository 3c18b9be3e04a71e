import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3'

/** An S3 server of a test, on 127.0.0.1. */
export interface S3Server {
  readonly endpoint: string
  readonly region: string
  readonly accessKey: string
  readonly secretKey: string
  /** Makes an empty bucket; one that is there already is fine. */
  makeBucket(name: string): Promise<void>
  /** kill -9 of the gateway. */
  kill(): Promise<void>
  /** The gateway stops answering: SIGSTOP, until `cont`. */
  stop(): void
  cont(): void
  /** The gateway again after `kill`, or killed and started again: same data, same port. */
  restart(): Promise<void>
  /** Ends everything and removes its data. */
  close(): Promise<void>
}

/** Whom S3 servers of tests know. */
export const ACCESS_KEY = 'testkey0000000000001'
export const SECRET_KEY = 'testsecret00000000000000000000000000001'
export const REGION = 'us-east-1'

/** The environment in which the SDK's credential chain, here and in child processes, finds these keys. */
export const S3_ENVIRONMENT: Readonly<Record<string, string>> = {
  AWS_ACCESS_KEY_ID: ACCESS_KEY,
  AWS_SECRET_ACCESS_KEY: SECRET_KEY,
  AWS_REGION: REGION,
  // No file of this machine's user may change what a test does.
  AWS_CONFIG_FILE: '/nonexistent/aws-config',
  AWS_SHARED_CREDENTIALS_FILE: '/nonexistent/aws-credentials',
  AWS_EC2_METADATA_DISABLED: 'true',
}

/** A plain client of a server, for what a test looks at beside the engine. The caller destroys it. */
export function plainClient(endpoint: string): S3Client {
  return new S3Client({
    endpoint,
    region: REGION,
    forcePathStyle: true,
    credentials: { accessKeyId: ACCESS_KEY, secretAccessKey: SECRET_KEY },
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  })
}

/** Makes an empty bucket. */
export async function makeBucket(endpoint: string, name: string): Promise<void> {
  const client = plainClient(endpoint)
  try {
    await client.send(new CreateBucketCommand({ Bucket: name }))
  } catch (error) {
    const there = error instanceof Error && error.name === 'BucketAlreadyOwnedByYou'
    if (!there) throw error
  } finally {
    client.destroy()
  }
}
