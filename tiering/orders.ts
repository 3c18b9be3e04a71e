import { corrupt } from '../src/format/bytes.js'
import { StratalogError } from '../src/model/errors.js'
import type { Incarnation, StreamRow } from '../src/model/segment.js'
import type { TieringContext } from './context.js'

/**
 * The fact that holds an operator's orders to the agent. A recorded one (src/rebuild/recorded-index.ts): it survives a
 * restart, and an index that is made again.
 */
const ORDERS_FACT = 'tier-orders'
const FORMAT = 1
/** Slower than this a step would seem to hang. */
const UPLOAD_BYTES_PER_SECOND_MIN = 64 * 1024
const PAUSES_MAX = 10_000

/** Moves nothing of one stream, or of any, until then; seals go on. */
export interface Pause {
  /** Null: every stream. */
  readonly incarnation: Incarnation | null
  /** What the stream was called then, for people. */
  readonly stream: string | null
  readonly atMs: number
  /** Null: until it is resumed. */
  readonly untilMs: number | null
}

/** How fast copies may go into the archive, all of them together. */
export interface UploadLimit {
  readonly bytesPerSecond: number
  readonly atMs: number
  /** Null: until it is lifted. */
  readonly untilMs: number | null
}

/** What an operator told the agent beside its policies. Orders whose time is over are not among them. */
export interface TierOrders {
  readonly pauses: readonly Pause[]
  readonly upload: UploadLimit | null
}

type OrdersContext = Pick<TieringContext, 'index' | 'ledger'>

/** The orders that hold now. `corrupt` where they can't be read: nothing is moved then. */
export async function tierOrders(context: OrdersContext): Promise<TierOrders> {
  const text = await context.index.fact(ORDERS_FACT)
  if (text === null) return { pauses: [], upload: null }
  const { pauses, upload } = decode(text)
  const nowMs = context.ledger.clock.nowMs()
  const holds = ({ untilMs }: { untilMs: number | null }) => untilMs === null || untilMs > nowMs
  return { pauses: pauses.filter(holds), upload: upload !== null && holds(upload) ? upload : null }
}

function decode(text: string): TierOrders {
  try {
    const { format, pauses, upload } = JSON.parse(text) as { format?: unknown } & TierOrders
    if (format === FORMAT && Array.isArray(pauses)) return { pauses, upload }
    throw new Error(`format ${String(format)}`)
  } catch (cause) {
    throw corrupt(
      'the orders to the agent can\'t be read from the index: give them anew with "stratalog tier resume" or "tier pause"',
      { cause },
    )
  }
}

/** Whether nothing of the stream is to be moved now. */
export function isPaused({ pauses }: TierOrders, incarnation: Incarnation): boolean {
  return pauses.some((pause) => pause.incarnation === null || pause.incarnation === incarnation)
}

/** When the next order ends by itself; null: none does. */
export function nextOrderEndMs({ pauses, upload }: TierOrders): number | null {
  const ends = [...pauses, ...(upload === null ? [] : [upload])].flatMap(({ untilMs }) => untilMs ?? [])
  return ends.length === 0 ? null : Math.min(...ends)
}

/** Pauses a stream, or with null all of them; another pause of the same takes its place. */
export async function pauseTiering(
  context: OrdersContext,
  stream: StreamRow | null,
  untilMs: number | null,
): Promise<TierOrders> {
  checkEnd(context, untilMs)
  const incarnation = stream?.incarnation ?? null
  const { pauses, upload } = await tierOrders(context)
  const others = pauses.filter((pause) => pause.incarnation !== incarnation)
  if (others.length >= PAUSES_MAX)
    throw new StratalogError('refused', `${PAUSES_MAX} streams are paused: pause all with "tier pause"`)
  const atMs = context.ledger.clock.nowMs()
  const pause = { incarnation, stream: stream?.name ?? null, atMs, untilMs }
  return store(context, { pauses: [...others, pause], upload })
}

/** Ends the pause of a stream, or with null every pause. `refused` for one stream while all are paused. */
export async function resumeTiering(context: OrdersContext, stream: StreamRow | null): Promise<TierOrders> {
  if (stream === null) {
    // Also the way out where the orders can't be read.
    const upload = await tierOrders(context).then(
      (orders) => orders.upload,
      () => null,
    )
    return store(context, { pauses: [], upload })
  }
  const { pauses, upload } = await tierOrders(context)
  if (pauses.some(({ incarnation }) => incarnation === null))
    throw new StratalogError(
      'refused',
      `every stream is paused, ${stream.name} with them: stratalog tier resume`,
      { found: stream.name },
    )
  return store(context, {
    pauses: pauses.filter(({ incarnation }) => incarnation !== stream.incarnation),
    upload,
  })
}

/** Limits uploads of all streams together; null lifts the limit, and policies alone decide. */
export async function limitUpload(
  context: OrdersContext,
  bytesPerSecond: number | null,
  untilMs: number | null,
): Promise<TierOrders> {
  checkEnd(context, untilMs)
  if (
    bytesPerSecond !== null &&
    !(Number.isSafeInteger(bytesPerSecond) && bytesPerSecond >= UPLOAD_BYTES_PER_SECOND_MIN)
  )
    throw new StratalogError(
      'invalid_argument',
      `${bytesPerSecond} bytes a second is no limit for uploads: use at least 64 KiB/s, or "tier pause"`,
      { found: bytesPerSecond, expected: UPLOAD_BYTES_PER_SECOND_MIN },
    )
  const { pauses } = await tierOrders(context)
  const atMs = context.ledger.clock.nowMs()
  return store(context, {
    pauses,
    upload: bytesPerSecond === null ? null : { bytesPerSecond, atMs, untilMs },
  })
}

function checkEnd(context: OrdersContext, untilMs: number | null): void {
  if (untilMs === null || (Number.isSafeInteger(untilMs) && untilMs > context.ledger.clock.nowMs())) return
  throw new StratalogError('invalid_argument', 'the order would end before it begins: name a time to come', {
    found: untilMs,
  })
}

async function store(context: OrdersContext, orders: TierOrders): Promise<TierOrders> {
  await context.index.setFact(ORDERS_FACT, JSON.stringify({ format: FORMAT, ...orders }))
  return orders
}
