import { present } from '../../src/model/assert.js'
import type { SegmentRow, StreamRow } from '../../src/model/segment.js'
import type { ArchiveStore } from '../../src/ports/archive-store.js'
import { readBatches } from '../../src/read/reader.js'
import { HotSource } from '../../src/read/source.js'
import { recordWhatLacks } from '../../src/rebuild/catch-up.js'
import { DecisionWriter, foldDecisions } from '../../src/rebuild/decisions.js'
import { rebuildIndex } from '../../src/rebuild/rebuild.js'
import { RecordedIndex } from '../../src/rebuild/recorded-index.js'
import { planRestore, restoreInto } from '../../tiering/restore.js'
import type { Client } from './client.js'
import type { ReaderPlace } from './oracle.js'
import { buggySource } from './planted.js'
import type { SimWorld } from './world.js'

const ROWS_MAX = 10_000

/** Invariant 7: the archive alone makes a log again, twice the same, with every record at its place. */
export async function checkRestore(world: SimWorld, client: Client): Promise<void> {
  const source = await present(present(client.running, 'a client that runs').archive, 'archive')()
  const before = await planRestore(source)
  const digests = [await restored(world, client), await restored(world, client)]
  // The agent goes on meanwhile: what it archived or trimmed in between is another history.
  if ((await planRestore(source)).digest !== before.digest) throw new Error('the archive has changed')
  if (digests[0] !== digests[1]) world.trace.violate(7, `restored twice: ${digests.join(' and ')}`)
}

async function restored(world: SimWorld, client: Client): Promise<string> {
  const { archive } = present(client.running, 'a client that runs')
  const { bug } = world.options
  return restoreFrom(world, client, buggySource(await present(archive, 'archive')(), bug, world.random))
}

/** Restores what there is now into a log of its own, and reads it. */
export async function restoreOnce(world: SimWorld, client: Client): Promise<void> {
  const { archive } = present(client.running, 'a client that runs')
  await restoreFrom(world, client, await present(archive, 'archive')())
}

async function restoreFrom(world: SimWorld, client: Client, source: ArchiveStore): Promise<string> {
  const { ledger } = present(client.running, 'a client that runs')
  const plan = await planRestore(source)
  const { index, ledgers } = await world.metadata.another('another log')
  const quorum = () => world.options.quorum
  const target = { ledger: { ...ledger, metadata: ledgers }, index, random: world.random, quorum }
  const { digest } = await restoreInto(target, source, plan, { strict: true })
  if (digest !== plan.digest) world.trace.violate(7, `restored: ${digest}, and the plan said ${plan.digest}`)
  for (const stream of world.streams) {
    const row = await index.streamByName(stream.name)
    if (row !== null) await compare(world, client, stream, row, target)
  }
  return digest
}

async function compare(
  { oracle, trace }: SimWorld,
  client: Client,
  stream: StreamRow,
  row: StreamRow,
  { ledger, index }: Pick<Parameters<typeof restoreInto>[0], 'ledger' | 'index'>,
): Promise<void> {
  const { read } = present(client.running, 'a client that runs')
  const context = {
    ...read,
    index,
    openHot: (segment: Parameters<typeof read.openHot>[0]) => HotSource.open(ledger, segment.ledgerId ?? -1n),
  }
  const place: ReaderPlace = { dlsn: null, sequenceId: null }
  for await (const batch of readBatches(context, row, {}, { hot: 0, cold: 0 })) {
    if (Array.isArray(batch)) for (const record of batch) oracle.observed(stream, record, place)
    else if (batch.gap === 'dropped') oracle.gap(stream, batch, place)
    else if (batch.gap !== 'trimmed')
      trace.violate(7, `${stream.name} was restored with a gap (${batch.gap})`)
  }
}

/**
 * Invariant 12: the index is thrown away and made again from what stores and archive hold. What was decided is written
 * beside the ledgers here, as when a log of 0.1.0 is opened, since the index of a run keeps no decisions.
 */
export async function rebuild(world: SimWorld, client: Client): Promise<void> {
  const { archive, ledger } = present(client.running, 'a client that runs')
  const { clock } = client
  const nothing = foldDecisions([])
  const decisions = new DecisionWriter(ledger, world.random, world.options.quorum.min, 0n)
  const { index } = world.metadata.sqlite
  await recordWhatLacks(
    ledger,
    new RecordedIndex({ index, decisions, clock, decided: nothing }),
    decisions,
    nothing,
  )
  await recordHoldsAndRecalls(world, decisions)
  client.kill('its index is lost')
  client.start([])
  const fresh = await world.metadata.another('this log')
  const running = present(client.running, 'a client that runs')
  await rebuildIndex({
    target: {
      index: fresh.index,
      adoptSegments: fresh.adoptSegments,
      reserveThrough: (id) => fresh.ledgers.reserveThrough(id),
    },
    ledger: { ...running.ledger, metadata: fresh.ledgers },
    archive: archive === null ? null : await present(running.archive, 'archive')(),
    acceptLoss: false,
  })
  world.metadata.replaceBy(fresh)
  const rows: SegmentRow[] = []
  for (const { incarnation } of world.streams)
    rows.push(...(await fresh.index.listSegments(incarnation, 0n, ROWS_MAX)))
  world.oracle.tiering.rowsReplaced(rows)
}

/** What a log of 0.1.0 did not have: a recorded index writes these down as they are made. */
async function recordHoldsAndRecalls(world: SimWorld, decisions: DecisionWriter): Promise<void> {
  const { index } = world.metadata.sqlite
  for (const { incarnation } of world.streams) {
    for (const { releasedMs, ...hold } of await index.holds(incarnation))
      if (releasedMs === null) await decisions.write({ kind: 'hold', incarnation, hold })
    for (const { segment, recalledUntilMs: untilMs } of await index.listSegments(incarnation, 0n, ROWS_MAX))
      if (untilMs !== null)
        await decisions.write({ kind: 'recall', incarnation, first: segment, last: segment, untilMs })
  }
}
