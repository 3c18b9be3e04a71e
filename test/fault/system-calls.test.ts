import assert from 'node:assert/strict'
import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { after, before, describe, test } from 'node:test'
import { openLog } from 'stratalog'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import type { SegmentStore } from '../../src/ports/segment-store.js'
import { silentLogger } from '../../src/system/logger.js'
import { CallFaults, type Case, MAY_LIE, ONLY, type Outcome, SEED } from '../helpers/call-faults.js'
import { faultDirectory } from '../helpers/fault-run.js'
import { checkReplaced } from '../helpers/replace-store.js'
import { seededRandom } from '../helpers/seeded-random.js'
import { openStore } from '../helpers/store.js'
import { whyNoStrace } from '../helpers/strace.js'
import { acknowledgedIn, witness } from '../helpers/witness.js'
import { SCENARIOS, WORKER_OPTIONS } from './scenarios.js'

/*
 * Invariants 1, 2, 9 and 10 with faults where they come from: strace lets chosen system calls of a running log fail,
 * lie, or be the last thing the process does. Each case is one call of one scenario; docs/faults.md says how to run
 * all of them and how to replay one.
 */

const missing = whyNoStrace()
const root = missing === null ? faultDirectory('calls') : ''
/** Their template: a log with closed and archived segments whose process was killed. */
const faults = new CallFaults({
  root,
  scenarios: SCENARIOS,
  sample: Number(process.env.TEST_CASES ?? 4),
  killsReads: false,
})

/** What must hold whatever was met. Returns what a lying store gave away of its lie. */
async function judge({ name, kind, scenario }: Case, { hit, said, directory }: Outcome): Promise<number> {
  const place = hit?.path.slice(directory.length + 1) ?? ''
  const { lost, needsAll } = present(SCENARIOS[scenario], scenario)
  // The calls of this run came in another order, and the lie met another file.
  if (kind === 'lie' && hit !== null && !MAY_LIE.test(place)) return 0
  const about = `${name}\n${hit?.line.slice(0, 200)}\n${said.slice(-2_000)}`
  if (kind !== 'kill' || hit === null) {
    // Invariant 10: it goes on by itself, without a restart; only a start may be refused, for a named reason.
    assert.match(said, scenario === 'close' ? /^D$/m : /^[PF] /m, about)
    // One store of three: nobody who appends hears of it.
    const spare = needsAll !== true || (lost !== undefined && place.startsWith(lost))
    if (place.startsWith('stores/') && spare) assert.doesNotMatch(said, /^[EF] (?!tier|store)/m, about)
  }
  const store = /^(stores\/\d)\/log-/.exec(place)?.[1]
  const found =
    kind === 'lie' && store !== undefined ? await compareCopies(directory, store, store !== lost, about) : 0
  const log = await openLog(directory, {
    ...WORKER_OPTIONS,
    archive: join(directory, 'archive'),
    system: { logger: silentLogger() },
  })
  try {
    await witness(log, acknowledgedIn(faults.acknowledgedBefore + said))
    await log.stream('a').append('goes on')
    // One that was made on a lie may have to be taken away first: that is for a person to do.
    if (lost !== undefined && kind !== 'lie') await checkReplaced(log, lost)
  } catch (error) {
    assert.fail(`${about}\nafter it: ${error instanceof Error ? error.stack : error}`)
  } finally {
    await log.close()
  }
  return found
}

/**
 * Invariant 9, one store by itself: of what the others hold it gives the same bytes, or says that it can't; it never
 * says that there is nothing. Returns how often it could not.
 */
async function compareCopies(
  directory: string,
  lying: string,
  hasAll: boolean,
  about: string,
): Promise<number> {
  const { logId } = JSON.parse(readFileSync(join(directory, 'log.json'), 'utf8')) as { logId: string }
  const open = (name: string) =>
    openStore(join(directory, name), { logId, fileBytes: 4 << 20, create: false })
  const others = await Promise.all(
    ['stores/1', 'stores/2', 'stores/3'].filter((name) => name !== lying).map(open),
  )
  const store = await open(lying)
  const answer = (from: SegmentStore, ledgerId: bigint, entryId: bigint) =>
    from.readEntry(ledgerId, entryId).catch((error: unknown) => {
      assert.ok(isStratalogError(error, 'corrupt'), `${about}\n${String(error)}`)
      return { kind: 'corrupt' } as const
    })
  let found = 0
  try {
    const [first, second] = [present(others[0], 'store'), present(others[1], 'store')]
    for (const { ledgerId, lastEntryId } of await first.listLedgers(-1n, 1_000)) {
      for (let entryId = 0n; entryId <= lastEntryId; entryId += 1n) {
        const good = await answer(first, ledgerId, entryId)
        if (good.kind !== 'entry' || (await answer(second, ledgerId, entryId)).kind !== 'entry') continue
        const copy = await answer(store, ledgerId, entryId)
        // A store that is being filled has nothing yet of what no ledger says it has.
        if (hasAll) assert.notEqual(copy.kind, 'missing', `entry ${ledgerId}:${entryId}\n${about}`)
        if (copy.kind === 'entry') assert.deepEqual(copy.bytes, good.bytes, about)
        else found += 1
      }
    }
  } finally {
    for (const one of [...others, store]) await one.close()
  }
  return found
}

describe(`faults at system calls (seed ${SEED})`, { skip: missing ?? false }, () => {
  const random = seededRandom(SEED)
  let lies = 0
  let given = 0

  before(async () => {
    await faults.prepare('tier', 'closed')
    await faults.prepare('roll', 'killed', 1_000)
  })
  after(() => rmSync(root, { recursive: true, force: true }))

  for (const scenario of Object.keys(SCENARIOS)) {
    describe(scenario, () => {
      let cases: Case[] = []
      before(async () => {
        cases = await faults.casesOf(scenario)
      })
      const kinds = {
        error: 'a call that fails is survived, and a store of three that fails is not noticed (1, 10)',
        lie: 'a write that is claimed and not made never reaches a reader (9)',
        kill: 'killed at a call, everything acknowledged is there (1, 2)',
      }
      for (const [kind, title] of Object.entries(kinds)) {
        test(`${kind}: ${title}`, { timeout: 3_600_000 }, async () => {
          const chosen = faults.sampleOf(
            cases.filter((one) => one.kind === kind),
            random,
          )
          await faults.runAll(chosen, async (one, outcome) => {
            const found = await judge(one, outcome)
            if (kind === 'lie') [lies, given] = [lies + 1, given + found]
          })
        })
      }
    })
  }

  test('stores gave lies away when they were asked for what was not written', { skip: ONLY !== '' }, () => {
    assert.ok(lies === 0 || given > 0, `${lies} lies, and no store noticed one`)
  })
})
