import type { PayloadKind } from './payloads.js'

/*
 * What test/java can be asked. Ids, positions (SEGMENT:ENTRY:SLOT) and transaction ids are text on both sides: a number
 * of JSON may not hold them. What has a default in Java may be left out.
 */

/** What a ledger handle of Java knows. */
export interface JavaLedger {
  readonly ledger: string
  readonly lac: string
  readonly length: string
  readonly closed: boolean
}

/** Entries or records that were written or read; the digest is that of `PayloadDigest`. */
export interface JavaPayloads {
  readonly count: number
  readonly bytes: number
  readonly digest: string
}

export interface JavaSegment {
  readonly name: string
  readonly segment: string
  readonly ledger: string
  readonly open: boolean
  readonly truncated: 'whole' | 'partly' | 'no'
  readonly version: number
  readonly records: number
  readonly firstTxid: string
  readonly lastTxid: string
  readonly last: string | null
  readonly minActive: string
  readonly startSequenceId: string
}

export interface JavaRecord {
  readonly dlsn: string
  readonly txid: string
  readonly sequenceId: string
  readonly position: number
  readonly bytes: number
}

export interface JavaNode {
  readonly path: string
  readonly version: number
  /** Base64. */
  readonly data: string
  readonly ephemeral: boolean
  readonly czxid: string
}

interface Quorums {
  readonly ensemble?: number
  readonly writeQuorum?: number
  readonly ackQuorum?: number
}

interface Access {
  /** @default 'CRC32C' */
  readonly digest?: 'CRC32' | 'MAC' | 'CRC32C' | 'DUMMY'
  /** @default '' */
  readonly password?: string
}

interface Payloads {
  /** @default 1 */
  readonly count?: number
  /** Number of the first payload. @default 0 */
  readonly first?: string
  /** @default 100 */
  readonly size?: number
  /** @default 'text' */
  readonly payload?: PayloadKind
}

interface Load {
  readonly count: number
  readonly outstanding: number
  readonly size: number
}

/** How long Java took in its own process; the percentiles are of one operation each. */
export interface JavaTimes {
  readonly wallMs: number
  readonly cpuMs: number
  readonly p50Ms: number
  readonly p99Ms: number
}

interface Handle {
  readonly handle: string
}

interface Stream {
  /** Path in ZooKeeper. */
  readonly namespace: string
  readonly stream: string
  /** @default 'java' */
  readonly clientId?: string
}

type Nothing = Record<never, never>

/** Each verb's arguments and result. */
export interface JavaVerbs {
  'ledger.create': [
    Quorums & Access & { readonly custom?: Readonly<Record<string, string>> },
    JavaLedger & Handle,
  ]
  /** `recover` fences it, and recovers and closes what was left open. */
  'ledger.open': [Access & { readonly ledger: string; readonly recover?: boolean }, JavaLedger & Handle]
  /** Fails with the first entry that is refused, as `BKLedgerFencedException` and the like. */
  'ledger.add': [
    /** `payloads`: these, in base64, instead of what follows from numbers. */
    Handle & Payloads & { readonly payloads?: readonly string[] },
    JavaLedger & JavaPayloads,
  ]
  'ledger.read': [
    Handle & {
      readonly first?: string
      readonly last?: string
      readonly unconfirmed?: boolean
      readonly each?: boolean
    },
    /** Base64. */
    JavaLedger & JavaPayloads & { readonly payloads?: readonly string[] },
  ]
  /** Reads what another writes, by long polls, until so many are read, it is closed, or the time is over. */
  'ledger.follow': [
    Handle & { readonly first?: string; readonly count?: number; readonly timeoutMs?: number },
    JavaLedger & JavaPayloads,
  ]
  'ledger.close': [Handle, JavaLedger]
  'ledger.delete': [{ readonly ledger: string }, Nothing]
  'ledger.metadata': [
    { readonly ledger: string },
    Required<Quorums> & {
      readonly state: 'OPEN' | 'IN_RECOVERY' | 'CLOSED'
      readonly digest: string
      readonly lastEntry: string
      readonly length: string
      readonly formatVersion: number
      readonly cToken: string
      /** Hex; null where the node has none. */
      readonly password: string | null
      /** Hex. */
      readonly custom: Readonly<Record<string, string>>
      readonly ensembles: readonly { readonly firstEntry: string; readonly members: readonly string[] }[]
    },
  ]
  'namespace.bind': [{ readonly namespace: string }, Nothing]
  'namespace.list': [{ readonly namespace: string }, { readonly streams: readonly string[] }]
  'stream.create': [Stream, Nothing]
  'stream.delete': [Stream, Nothing]
  'stream.info': [
    Stream,
    {
      readonly first: string | null
      readonly last: string | null
      readonly lastTxid: string | null
      readonly records: number
      readonly ended: boolean
      readonly segments: readonly JavaSegment[]
    },
  ]
  /** Takes the stream over: recovers what is open and begins a segment with its first record. */
  'writer.open': [
    Stream &
      Quorums & {
        /** Each record is flushed and published by a control record. @default false */
        readonly immediate?: boolean
        /** @default 16384, immediate: 0 */
        readonly bufferBytes?: number
        /** @default 10, immediate: 0 */
        readonly flushMs?: number
        /** @default 'none' */
        readonly compression?: 'none' | 'lz4'
        /** Text. */
        readonly segmentBytes?: string
        /** @default 0 */
        readonly lockTimeoutSeconds?: number
        /** @default 6 */
        readonly sessionSeconds?: number
        /** Completed segments older than this go after each roll; 0: none do. @default 0 */
        readonly retentionHours?: number
        /** Only truncated ones do. @default false */
        readonly explicitTruncation?: boolean
      },
    Handle & { readonly lastTxid: string },
  ]
  'writer.write': [
    Handle &
      Payloads & {
        /** Of the first record. @default '1000' */
        readonly txid?: string
        /** From one record to the next. @default '10' */
        readonly step?: string
        /** So many records in a record set, with the txid that its first would have. */
        readonly set?: number
        readonly setCompression?: 'none' | 'lz4'
        readonly each?: boolean
      },
    JavaPayloads & {
      readonly first: string | null
      readonly last: string | null
      readonly records?: readonly Pick<JavaRecord, 'dlsn' | 'txid'>[]
    },
  ]
  'writer.truncate': [Handle & { readonly dlsn: string }, { readonly truncated: boolean }]
  /** Marks the end of the stream. */
  'writer.end': [Handle, { readonly lastTxid: string }]
  /** `abort` leaves the segment open. */
  'writer.close': [Handle & { readonly abort?: boolean }, Nothing]
  /** From the head unless told otherwise. `txid`: from the first record not below it. */
  'reader.open': [
    Stream & {
      readonly dlsn?: string
      readonly txid?: string
      readonly tail?: boolean
      readonly ignoreTruncation?: boolean
      readonly alertOnTruncated?: boolean
    },
    Handle,
  ]
  /** `timeoutMs` is for each record. `why` it ended. */
  'reader.read': [
    Handle & {
      readonly count?: number
      readonly last?: string
      readonly timeoutMs?: number
      readonly each?: boolean
    },
    JavaPayloads & {
      readonly first: string | null
      readonly last: string | null
      readonly why: 'count' | 'last' | 'timeout' | 'ended'
      readonly records?: readonly JavaRecord[]
    },
  ]
  'reader.close': [Handle, Nothing]
  /** Entries into a ledger of its own in E3 Qw3 Qa2, as CRC32. */
  'bench.add': [Load, JavaTimes]
  /** Records into `streams` streams of that name and a number, in turn; opening them is not counted. */
  'bench.write': [
    Stream &
      Load & {
        readonly streams: number
        /** How much makes an entry. @default 16384 */
        readonly bufferBytes?: number
        /** An entry is sent after this, whatever is in it. @default 10 */
        readonly flushMs?: number
        readonly segmentBytes?: string
      },
    JavaTimes,
  ]
  /** So many records of a stream from its head. */
  'bench.read': [Stream & { readonly count: number }, JavaTimes & { readonly bytes: number }]
  /** The node and all below it, parents first. */
  'tree.dump': [{ readonly path: string }, { readonly nodes: readonly JavaNode[] }]
  /** As an operator's hand would, whatever the version. */
  'tree.put': [{ readonly path: string; readonly text: string }, Nothing]
  'tree.delete': [{ readonly path: string }, Nothing]
}
