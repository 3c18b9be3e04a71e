import { Dlsn } from '../model/dlsn.js'
import type { StratalogError } from '../model/errors.js'
import type { HoldEdge, StreamHold } from '../model/hold.js'
import type { GapReason, Incarnation, StreamParent, StreamRow } from '../model/segment.js'
import { corrupt, unsupportedVersion } from './bytes.js'

/*
 * Decisions that no ledger and no object states, as control frames of the segment stores: what makes the index one
 * that can be made again. docs/formats/control-frames.md describes every field.
 *
 *   id     decision/<sequence, 16 hexadecimal digits>/<random, 16 hexadecimal digits>
 *   kind   stream | finish | delete | trim | gap | hold | release | recall | policy | fact | ids | mark
 *   body   JSON: version (1), sequence, then the kind's own fields; 64-bit numbers are decimal strings
 *
 * Frames of 0.1.0 (kinds stream-created and policy) have neither version nor sequence and count as older than all.
 */

const VERSION = 1
const PREFIX = 'decision/'

/** What was decided. The newest of a subject counts; of trims the largest. */
export type Decision =
  | { readonly kind: 'stream'; readonly stream: DecidedStream }
  /** The stream ended for ever. */
  | { readonly kind: 'finish'; readonly incarnation: Incarnation; readonly finishedMs: number }
  /** The stream is gone for ever, with all it held. */
  | { readonly kind: 'delete'; readonly incarnation: Incarnation; readonly atMs: number }
  | ({ readonly kind: 'trim'; readonly incarnation: Incarnation } & DecidedTrim)
  | ({ readonly kind: 'gap'; readonly incarnation: Incarnation } & DecidedGap)
  | { readonly kind: 'hold'; readonly incarnation: Incarnation; readonly hold: StreamHold }
  /** The hold of that id ended. */
  | {
      readonly kind: 'release'
      readonly incarnation: Incarnation
      readonly id: string
      readonly atMs: number
    }
  | ({ readonly kind: 'recall'; readonly incarnation: Incarnation } & DecidedRecall)
  | { readonly kind: 'policy'; readonly incarnation: Incarnation; readonly policy: string | null }
  /** A fact of the log that its safety hangs on. */
  | { readonly kind: 'fact'; readonly name: string; readonly value: string }
  /** Ledger ids up to this one may have been given out. */
  | { readonly kind: 'ids'; readonly through: bigint }
  /** Copies were given up after this: an index that does not know of it is older than the stores. */
  | { readonly kind: 'mark'; readonly atMs: number }

/** A stream as it was created. */
export type DecidedStream = Pick<StreamRow, 'incarnation' | 'name' | 'txidMode' | 'createdMs' | 'parent'>

/** Where a stream begins since a trim, and what the last trimmed segment left to go on from, if it is known. */
export interface DecidedTrim {
  readonly below: Dlsn
  readonly tail: { readonly nextSequenceId: bigint; readonly lastTxid: bigint } | null
}

/** Segments that are not to be had any more, both ends included: a committed gap. */
export interface DecidedGap {
  readonly first: bigint
  readonly last: bigint
  readonly reason: GapReason
  /** What the last of them left to go on from; absent where nobody knew. */
  readonly tail?: { readonly nextSequenceId: bigint; readonly lastTxid: bigint }
}

/** Segments that are to stay hot until then, both ends included. */
export interface DecidedRecall {
  readonly first: bigint
  readonly last: bigint
  readonly untilMs: number
}

/** A decision in its place: higher sequences are newer; the id breaks ties, so that every reader orders them alike. */
export interface RecordedDecision {
  readonly id: string
  readonly sequence: bigint
  readonly decision: Decision
}

/** As the store keeps it (the port's ControlFrame). */
export interface DecisionFrame {
  readonly id: string
  readonly kind: string
  readonly body: string
}

/** The frame of a decision. `nonce`: 8 random bytes, so that no two frames have one id. */
export function encodeDecision(sequence: bigint, nonce: Uint8Array, decision: Decision): DecisionFrame {
  const { kind, ...fields } = decision
  const body = { version: VERSION, sequence, ...fields }
  return {
    id: `${PREFIX}${sequence.toString(16).padStart(16, '0')}/${Buffer.from(nonce).toString('hex')}`,
    kind,
    body: JSON.stringify(body, (_, value: unknown) => (typeof value === 'bigint' ? value.toString() : value)),
  }
}

/**
 * What a frame says; none for frames that are no decisions of ours. A newer version's is `version_unsupported` and a
 * damaged one `corrupt`: a decision that is overlooked costs data (invariant 8).
 */
export function decodeDecision(frame: DecisionFrame): RecordedDecision[] {
  const legacy =
    frame.kind === 'stream-created' || (frame.kind === 'policy' && frame.id.startsWith('policy/'))
  if (!legacy && !frame.id.startsWith(PREFIX)) return []
  const fields = new Fields(frame)
  if (legacy) return decodeLegacy(frame, fields)
  const version = fields.number('version')
  if (version > VERSION) throw newer(frame, version)
  return [{ id: frame.id, sequence: fields.integer('sequence'), decision: decodeKind(frame, fields) }]
}

function decodeKind(frame: DecisionFrame, fields: Fields): Decision {
  switch (frame.kind) {
    case 'stream':
      return { kind: 'stream', stream: decodeStream(fields.inner('stream')) }
    case 'finish':
      return {
        kind: 'finish',
        incarnation: fields.text('incarnation'),
        finishedMs: fields.number('finishedMs'),
      }
    case 'delete':
      return { kind: 'delete', incarnation: fields.text('incarnation'), atMs: fields.number('atMs') }
    case 'trim': {
      const tail = fields.innerOrNull('tail')
      return {
        kind: 'trim',
        incarnation: fields.text('incarnation'),
        below: fields.dlsn('below'),
        tail: tail && decodeTail(tail),
      }
    }
    case 'gap': {
      const incarnation = fields.text('incarnation')
      const range = { first: fields.integer('first'), last: fields.integer('last') }
      const gap = { kind: 'gap' as const, incarnation, ...range, reason: decodeReason(fields) }
      const tail = fields.innerOrNull('tail')
      return tail === null ? gap : { ...gap, tail: decodeTail(tail) }
    }
    case 'hold': {
      const hold = fields.inner('hold')
      return {
        kind: 'hold',
        incarnation: fields.text('incarnation'),
        hold: {
          id: hold.text('id'),
          from: hold.edgeOrNull('from'),
          until: hold.edgeOrNull('until'),
          reason: hold.textOrNull('reason'),
          atMs: hold.number('atMs'),
        },
      }
    }
    case 'release':
      return {
        kind: 'release',
        incarnation: fields.text('incarnation'),
        id: fields.text('id'),
        atMs: fields.number('atMs'),
      }
    case 'recall':
      return {
        kind: 'recall',
        incarnation: fields.text('incarnation'),
        first: fields.integer('first'),
        last: fields.integer('last'),
        untilMs: fields.number('untilMs'),
      }
    case 'policy':
      return {
        kind: 'policy',
        incarnation: fields.text('incarnation'),
        policy: fields.textOrNull('policy'),
      }
    case 'fact':
      return { kind: 'fact', name: fields.text('name'), value: fields.text('value') }
    case 'ids':
      return { kind: 'ids', through: fields.integer('through') }
    case 'mark':
      return { kind: 'mark', atMs: fields.number('atMs') }
    default:
      throw newer(frame, frame.kind)
  }
}

function decodeTail(tail: Fields): { readonly nextSequenceId: bigint; readonly lastTxid: bigint } {
  return { nextSequenceId: tail.integer('nextSequenceId'), lastTxid: tail.integer('lastTxid') }
}

function decodeReason(fields: Fields): DecidedGap['reason'] {
  const reason = fields.text('reason')
  if (reason !== 'dropped' && reason !== 'corrupt' && reason !== 'purged') throw fields.damaged('reason')
  return reason
}

function decodeStream(fields: Fields): DecidedStream {
  const txidMode = fields.text('txidMode')
  if (txidMode !== 'ms' && txidMode !== 'custom') throw fields.damaged('txidMode')
  const parent = fields.innerOrNull('parent')
  return {
    incarnation: fields.text('incarnation'),
    name: fields.text('name'),
    txidMode,
    createdMs: fields.number('createdMs'),
    parent: parent && decodeParent(parent),
  }
}

function decodeParent(parent: Fields): StreamParent {
  const left = {
    incarnation: parent.text('incarnation'),
    fork: parent.textOrNull('fork') === null ? null : parent.dlsn('fork'),
  }
  return parent.flag('shares') ? { ...left, shares: true } : left
}

/** A restored stream's creation told its trim as well; policies told their time in their id. */
function decodeLegacy(frame: DecisionFrame, fields: Fields): RecordedDecision[] {
  const recorded = (decision: Decision) => ({ id: frame.id, sequence: 0n, decision })
  if (frame.kind === 'policy') {
    const incarnation = fields.text('incarnation')
    return [recorded({ kind: 'policy', incarnation, policy: fields.textOrNull('policy') })]
  }
  const stream = decodeStream(fields)
  const created = recorded({ kind: 'stream', stream })
  if (fields.textOrNull('trimmedBelow') === null) return [created]
  const { incarnation } = stream
  const below = fields.dlsn('trimmedBelow')
  return [created, recorded({ kind: 'trim', incarnation, below, tail: null })]
}

/** Older first. */
export function byAge(one: RecordedDecision, other: RecordedDecision): number {
  if (one.sequence !== other.sequence) return one.sequence < other.sequence ? -1 : 1
  return one.id < other.id ? -1 : one.id > other.id ? 1 : 0
}

/** The fields of a body, each as what it must be. */
class Fields {
  readonly #frame: DecisionFrame
  readonly #fields: Readonly<Record<string, unknown>>

  constructor(frame: DecisionFrame, fields?: object) {
    this.#frame = frame
    this.#fields = (fields ?? this.#parse()) as Readonly<Record<string, unknown>>
  }

  text(name: string): string {
    const value = this.#fields[name]
    if (typeof value !== 'string') throw this.damaged(name)
    return value
  }

  textOrNull(name: string): string | null {
    const value = this.#fields[name] ?? null
    return value === null ? null : this.text(name)
  }

  number(name: string): number {
    const value = this.#fields[name]
    if (typeof value !== 'number' || !Number.isSafeInteger(value)) throw this.damaged(name)
    return value
  }

  /** Absent: false. */
  flag(name: string): boolean {
    const value = this.#fields[name] ?? false
    if (typeof value !== 'boolean') throw this.damaged(name)
    return value
  }

  integer(name: string): bigint {
    const text = this.text(name)
    if (!/^-?\d{1,19}$/.test(text)) throw this.damaged(name)
    return BigInt(text)
  }

  dlsn(name: string): Dlsn {
    try {
      return Dlsn.parse(this.text(name))
    } catch (cause) {
      throw this.damaged(name, cause)
    }
  }

  /** One of dlsn, txid and timeMs. */
  edgeOrNull(name: string): HoldEdge | null {
    const edge = this.innerOrNull(name)
    if (edge === null) return null
    if (edge.textOrNull('dlsn') !== null) return { dlsn: edge.dlsn('dlsn') }
    if (edge.textOrNull('txid') !== null) return { txid: edge.integer('txid') }
    return { timeMs: edge.number('timeMs') }
  }

  inner(name: string): Fields {
    return this.innerOrNull(name) ?? this.#absent(name)
  }

  innerOrNull(name: string): Fields | null {
    const value = this.#fields[name] ?? null
    if (value === null) return null
    if (typeof value !== 'object') throw this.damaged(name)
    return new Fields(this.#frame, value)
  }

  damaged(name: string, cause?: unknown): StratalogError {
    return corrupt(
      `control frame ${this.#frame.id} is damaged: field ${name}; nothing is decided without it, keep the stores as they are`,
      { cause, found: this.#frame.body.slice(0, 200) },
    )
  }

  #absent(name: string): never {
    throw this.damaged(name)
  }

  #parse(): object {
    try {
      const parsed: unknown = JSON.parse(this.#frame.body)
      if (typeof parsed === 'object' && parsed !== null) return parsed
    } catch (cause) {
      throw this.damaged('body', cause)
    }
    throw this.damaged('body')
  }
}

function newer(frame: DecisionFrame, found: unknown): StratalogError {
  return unsupportedVersion(
    `control frame ${frame.id} (${frame.kind}) was written by a newer stratalog: use that one`,
    { expected: VERSION, found },
  )
}
