import assert from 'node:assert/strict'
import { join } from 'node:path'
import type { Log } from '../../src/log.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { isClosed, isHot } from '../../src/model/segment.js'
import { readStoreFacts } from '../../tiering/store-facts.js'

/** One fault is met once: what fails goes well when it is done again. */
const ATTEMPTS_MAX = 10

/**
 * Replaces a lost store as often as it takes until no ledger names it any more; goes on with what an earlier process
 * began. `failed` is told of what went wrong and has a name.
 */
export async function replaceToTheEnd(
  log: Log,
  store: string,
  failed: (problem: string) => void,
): Promise<void> {
  const place = join(log.directory, store)
  for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt += 1) {
    try {
      if (await isReplaced(log, store)) return
      // Its ledgers are open no longer than the segments of their streams.
      for await (const { name } of log.streams.list()) await log.stream(name).seal()
      await log.parts.stores.beginReplace({ store: place, with: null, bytesPerSecond: null })
      for (const problem of (await log.parts.upkeep.work(() => undefined)).failed) {
        failed(String(problem))
      }
    } catch (error) {
      if (!isStratalogError(error) || error.code === 'internal') throw error
      failed(`${error.code} ${error.message}`)
    }
  }
}

async function isReplaced(log: Log, store: string): Promise<boolean> {
  const { works } = await readStoreFacts(log.parts.stores.keeper)
  const { stores } = await log.parts.stores.list()
  const here = stores.find(({ location }) => location.endsWith(store))
  return works.length === 0 && here?.state === 'writable'
}

/** Finishes the replacement; then the new store has by itself every entry that the index says it has (invariant 1). */
export async function checkReplaced(log: Log, store: string): Promise<void> {
  const failures: string[] = []
  await replaceToTheEnd(log, store, (problem) => failures.push(problem))
  assert.ok(await isReplaced(log, store), `not replaced: ${failures.join('\n')}`)
  const { ledger } = log.parts.segments
  const { stores } = await log.parts.stores.list()
  const id = present(stores.find(({ location }) => location.endsWith(store))?.id, 'the new store')
  const made = present(ledger.stores.get(id), 'the new store')
  let entries = 0
  for await (const { name } of log.streams.list()) {
    for await (const row of log.segments(name)) {
      if (!isClosed(row.state) || !isHot(row)) continue
      const ledgerId = present(row.ledgerId, 'a ledger')
      const { ensembles } = (await ledger.metadata.read(ledgerId)).metadata
      for (let entryId = 0n; entryId <= row.lastEntryId; entryId += 1n) {
        const members = present(
          ensembles.findLast((ensemble) => ensemble.firstEntryId <= entryId),
          'an ensemble',
        ).members
        if (!members.includes(id)) continue
        const { kind } = await made.readEntry(ledgerId, entryId)
        assert.equal(kind, 'entry', `entry ${ledgerId}:${entryId} is not on the store that replaces ${store}`)
        entries += 1
      }
    }
  }
  assert.ok(entries > 0, 'no entry of a closed segment is on the new store')
}
