/** How an S3 archive: `s3://bucket/prefix` is reached; what is not set has a default. Never a credential. */
export type S3Settings = Readonly<Record<string, never>>
