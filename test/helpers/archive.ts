import { createHash } from 'node:crypto'
import type { EntrySource, PlannedObject } from '../../archive/segment-writer.js'
import {
  attemptOf,
  checkArchiveKey,
  encodeSegmentKey,
  type SegmentKey,
} from '../../src/format/archive-names.js'
import { encodeEnvelope } from '../../src/format/entry.js'
import { encodeLedgerMetadata } from '../../src/format/ledger-metadata.js'
import { controlRecord, recordBytes, writeRecord } from '../../src/format/record.js'
import type { SegmentObjectMeta } from '../../src/format/segment-object-meta.js'
import { StratalogError } from '../../src/model/errors.js'
import type {
  ArchiveContext,
  ArchivedKey,
  ArchiveStore,
  ReplayableBody,
} from '../../src/ports/archive-store.js'
import type { Clock } from '../../src/ports/clock.js'
import type { Disk } from '../../src/ports/disk.js'
import type { Logger } from '../../src/ports/logger.js'
import type { Random } from '../../src/ports/random.js'

export const INCARNATION = '0123456789abcdef0123456789abcdef'

/** A logger that keeps what it is told. */
export function memoryLogger(lines: string[] = []): Logger {
  const add = (_: object, message: string): void => {
    lines.push(message)
  }
  const logger: Logger = { debug: add, info: add, warn: add, error: add, child: () => logger }
  return logger
}

/** Bytes that differ at each call and are the same in each run. */
export function countingRandom(seed = 'seed'): Random {
  let calls = 0
  return {
    bytes(count) {
      calls += 1
      return createHash('shake256', { outputLength: count }).update(`${seed}${calls}`).digest()
    },
    fraction: () => 0.5,
  }
}

/** A clock that stands still where it is put. */
export function fixedClock(at: { nowMs: number }): Clock {
  return {
    nowMs: () => at.nowMs,
    monotonicMs: () => at.nowMs,
    setTimer: () => ({ cancel: () => undefined }),
    sleep: async () => undefined,
  }
}

/** What an engine gets in tests. */
export function archiveContext(
  disk: Disk,
  nowMs = 1_700_000_000_000,
  logger: Logger = memoryLogger(),
  existing = false,
): ArchiveContext {
  const signal = new AbortController().signal
  return {
    clock: fixedClock({ nowMs }),
    random: countingRandom(String(nowMs)),
    logger,
    disk,
    signal,
    existing,
  }
}

/** A body of one chunk. */
export function bodyOf(bytes: Uint8Array | string): ReplayableBody {
  const data = typeof bytes === 'string' ? Buffer.from(bytes) : bytes
  return {
    sizeBytes: data.length,
    async *open() {
      yield data
    },
  }
}

/** All bytes of a body. */
export async function bytesOf(body: ReplayableBody): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of body.open()) chunks.push(Buffer.from(chunk))
  return Buffer.concat(chunks)
}

/** An archive in memory that counts requests and lets tests change what is stored. */
export class MemoryArchive implements ArchiveStore {
  readonly location = 'memory'
  readonly capabilities = { putIfAbsent: 'native', checksums: [], listFrom: true, thaw: false } as const
  readonly objects: Map<string, Buffer> = new Map()
  requests = 0

  async putIfAbsent(key: string, body: ReplayableBody): Promise<void> {
    checkArchiveKey(key)
    if (this.objects.has(key)) throw new StratalogError('object_exists', `${key} exists`)
    this.objects.set(key, await bytesOf(body))
  }

  async head(key: string): Promise<ArchivedKey | null> {
    const bytes = this.objects.get(key)
    return bytes === undefined ? null : { key, sizeBytes: bytes.length }
  }

  async readRange(
    key: string,
    offset: number,
    lengthBytes: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    this.requests += 1
    await new Promise((resolve) => setImmediate(resolve))
    signal?.throwIfAborted()
    const bytes = this.objects.get(key)
    if (bytes === undefined) throw new StratalogError('object_not_found', `${key} is not there`)
    return Uint8Array.from(bytes.subarray(offset, offset + lengthBytes))
  }

  async listFrom(prefix: string, after: string, limit: number): Promise<ArchivedKey[]> {
    const keys = [...this.objects.keys()].filter((key) => key > after && key.startsWith(prefix)).sort()
    return keys.slice(0, limit).map((key) => ({ key, sizeBytes: this.objects.get(key)?.length ?? 0 }))
  }

  async delete(key: string): Promise<void> {
    this.objects.delete(key)
  }

  async close(): Promise<void> {
    this.objects.clear()
  }
}

export interface SampleOptions {
  readonly entries: number
  readonly recordsPerEntry: number
  readonly payloadBytes: number
  /** Every n-th entry holds nothing but a control record. */
  readonly controlEvery?: number
  readonly incompressible?: boolean
}

/**
 * A segment's entries with the metadata that describe them. txids go 1000, 1010, 1020 …; sequenceIds from
 * 500.
 */
export function sampleSegment(options: SampleOptions): { meta: SegmentObjectMeta; payloads: Uint8Array[] } {
  const payloads: Uint8Array[] = []
  let position = 0
  let last = { entry: 0, slot: 0 }
  for (let entry = 0; entry < options.entries; entry++) {
    const control = options.controlEvery !== undefined && (entry + 1) % options.controlEvery === 0
    if (control) {
      payloads.push(encodeEnvelope(controlRecord(position, BigInt(990 + 10 * Math.max(1, position))), 'none'))
      continue
    }
    const size = recordBytes(options.payloadBytes)
    const records = Buffer.alloc(options.recordsPerEntry * size)
    for (let slot = 0; slot < options.recordsPerEntry; slot++) {
      position += 1
      writeRecord(
        records,
        slot * size,
        0,
        position,
        BigInt(990 + 10 * position),
        samplePayload(options, position),
      )
      last = { entry, slot }
    }
    payloads.push(encodeEnvelope(records, 'none'))
  }
  const lengthBytes = payloads.reduce((sum, payload) => sum + payload.length, 0)
  const meta: SegmentObjectMeta = {
    incarnation: INCARNATION,
    streamName: 'audit/login',
    segment: 7n,
    epoch: 3n,
    txidMode: 'custom',
    openedMs: 1_700_000_000_000,
    sealedMs: 1_700_000_600_000,
    firstTxid: 1000n,
    lastTxid: BigInt(990 + 10 * position),
    startSequenceId: 500n,
    recordCount: BigInt(position),
    lastEntryId: BigInt(last.entry),
    lastSlot: BigInt(last.slot),
    lengthBytes,
    digestType: 'CRC32C',
    ledgerMetadata: sampleLedgerMetadata(lengthBytes, payloads.length),
  }
  return { meta, payloads }
}

function samplePayload(options: SampleOptions, position: number): Uint8Array {
  if (options.incompressible !== true) return Buffer.alloc(options.payloadBytes, `record ${position} `)
  return createHash('shake256', { outputLength: options.payloadBytes }).update(String(position)).digest()
}

function sampleLedgerMetadata(lengthBytes: number, entries: number): Uint8Array {
  return encodeLedgerMetadata({
    formatVersion: 3,
    ensembleSize: 1,
    writeQuorum: 1,
    ackQuorum: 1,
    state: 'CLOSED',
    lengthBytes: BigInt(lengthBytes),
    lastEntryId: BigInt(entries - 1),
    ensembles: [{ firstEntryId: 0n, members: ['store-1'] }],
    digestType: 'CRC32C',
    password: new Uint8Array(0),
    ctimeMs: 1_700_000_000_000n,
    customMetadata: new Map(),
    cToken: 0n,
  })
}

/** A source of entries in batches of `batch`. */
export function sourceOf(payloads: readonly Uint8Array[], batch = 16): EntrySource {
  return {
    async *open() {
      for (let at = 0; at < payloads.length; at += batch) {
        yield payloads.slice(at, at + batch).map((payload, i) => ({ entryId: BigInt(at + i), payload }))
      }
    },
  }
}

/** The key that a planned object has. */
export function keyOf(planned: PlannedObject, random: Random = countingRandom()): SegmentKey {
  const { meta } = planned
  return {
    incarnation: meta.incarnation,
    segment: meta.segment,
    lastEntryId: meta.lastEntryId,
    lastSlot: meta.lastSlot,
    recordCount: meta.recordCount,
    startSequenceId: meta.startSequenceId,
    firstTxid: meta.firstTxid,
    lastTxid: meta.lastTxid,
    completionMs: meta.sealedMs,
    indexBytes: planned.indexBytes,
    contentDigest: planned.contentDigest,
    attempt: planned.sealing?.place.attempt ?? attemptOf(random.bytes(8)),
    ...(planned.sealing === null ? {} : { keyId: planned.sealing.place.keyId }),
  }
}

/** The name of that key. */
export function nameOf(planned: PlannedObject): string {
  return encodeSegmentKey(keyOf(planned))
}
