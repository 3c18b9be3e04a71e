/** How an archive in HDFS: `hdfs://namenode:9870/path` is reached; what is not set has a default. Never a credential. */
export type HdfsSettings = Readonly<Record<string, never>>
