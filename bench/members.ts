import { APPEND_MEMBERS } from './append.js'
import { BOOKKEEPER_MEMBER } from './bookkeeper.js'
import { BOOKKEEPER_STREAMS_MEMBER } from './bookkeeper-streams.js'
import { ENCRYPTION_MEMBER } from './encryption.js'
import { HDFS_MEMBERS } from './hdfs.js'
import { INDEX_MEMBERS } from './index.js'
import { LATENCY_MEMBER } from './latency.js'
import { MEMORY_MEMBERS } from './memory.js'
import { OPEN_MEMBER } from './open-after-kill.js'
import { OPEN_STREAMS_MEMBER } from './open-streams.js'
import { READ_MEMBERS } from './read.js'
import { REBUILD_MEMBER } from './rebuild.js'
import type { BenchMember } from './result.js'
import { S3_MEMBERS } from './s3.js'
import { TIER_MEMBERS } from './tier.js'

/** All there is to measure, in the order it is told. */
export const MEMBERS: readonly BenchMember[] = [
  ...APPEND_MEMBERS,
  LATENCY_MEMBER,
  ...READ_MEMBERS,
  OPEN_MEMBER,
  ...TIER_MEMBERS,
  ENCRYPTION_MEMBER,
  REBUILD_MEMBER,
  ...INDEX_MEMBERS,
  OPEN_STREAMS_MEMBER,
  ...MEMORY_MEMBERS,
  ...S3_MEMBERS,
  ...HDFS_MEMBERS,
  BOOKKEEPER_MEMBER,
  BOOKKEEPER_STREAMS_MEMBER,
]

/** Those with a figure of that name, or whose name begins with it and a dot. */
export function membersNamed(name: string): BenchMember[] {
  return MEMBERS.filter((member) => member.names.some((one) => one === name || one.startsWith(`${name}.`)))
}
