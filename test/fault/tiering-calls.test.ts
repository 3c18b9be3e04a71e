import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { after, before, describe, test } from 'node:test'
import { type Log, openLog } from 'stratalog'
import { present } from '../../src/model/assert.js'
import { silentLogger } from '../../src/system/logger.js'
import { CallFaults, type Case, type Outcome, SEED } from '../helpers/call-faults.js'
import { faultDirectory } from '../helpers/fault-run.js'
import { seededRandom } from '../helpers/seeded-random.js'
import { whyNoStrace } from '../helpers/strace.js'
import { type Acknowledged, acknowledgedIn, attemptPayload, witness } from '../helpers/witness.js'
import { WORKER_OPTIONS } from './scenarios.js'
import { HISTORY, restoreBeside, TIERING_SCENARIOS } from './tiering-scenarios.js'

/*
 * Every step of tiering with faults at its system calls (invariants 1, 4, 5, 7, 8, 10 and 12): the process dies at one,
 * or one of them fails. Then the log is opened again and gone on with until it rests: nothing acknowledged is lost that
 * was not ended on purpose, nothing is there twice, index, stores and archive agree in every byte, and from the archive
 * alone all of it is restored. docs/faults.md says how to run all cases and how to replay one.
 */

/** Above those of the workers. */
const LAST_ATTEMPT = 9_000_000

const missing = whyNoStrace()
const root = missing === null ? faultDirectory('tiering-calls') : ''
const faults = new CallFaults({
  root,
  scenarios: { ...TIERING_SCENARIOS, history: HISTORY },
  sample: Number(process.env.TEST_CASES ?? 2),
  killsReads: true,
})

/** What must hold whatever was met. */
async function judge({ name, scenario, kind }: Case, { hit, said, directory }: Outcome): Promise<void> {
  const place = hit?.path.slice(directory.length + 1) ?? ''
  const about = `${name}\n${hit?.line.slice(0, 200)}\n${said.slice(-2_000)}`
  try {
    if (kind === 'error' || hit === null) {
      // Invariant 10: it goes on by itself, without a restart; an index whose sync failed is not written again.
      assert.match(said, place.startsWith('index.db') ? /^[PF] /m : /^P /m)
      // One store of three: nobody hears of it but who frees what it holds.
      if (place.startsWith('stores/')) assert.doesNotMatch(said, /^E (?!tier|store_unavailable)/m)
    }
    // Invariant 12: half of the time the index is lost with the process.
    if (createHash('sha256').update(name).digest().readUInt8(0) % 2 === 0) loseIndex(directory)
    await checkRest(directory, scenario, said)
  } catch (error) {
    assert.fail(`${about}\nafter it: ${error instanceof Error ? error.stack : error}`)
  }
}

function loseIndex(directory: string): void {
  const files = readdirSync(directory).filter((file) => file.startsWith('index.db'))
  for (const file of files) rmSync(join(directory, file))
}

const open = (directory: string) =>
  openLog(directory, {
    ...WORKER_OPTIONS,
    archive: join(directory, 'archive'),
    system: { logger: silentLogger() },
  })

/** Opens the log without faults, goes on until it rests, and compares everything with what was acknowledged. */
async function checkRest(directory: string, scenario: string, said: string): Promise<void> {
  const { ended, finish } = present(TIERING_SCENARIOS[scenario], scenario)
  const acknowledged = acknowledgedIn(faults.acknowledgedBefore + said)
  const log = await open(directory)
  try {
    await witness(log, acknowledged, ended)
    await finish(log, said)
    await log.stream('a').append(attemptPayload('a', LAST_ATTEMPT, 100))
    for await (const { name } of log.streams.list()) await log.stream(name).seal()
    assert.deepEqual((await log.tier.run()).failed, [])
    for await (const part of log.archive.collect({ graceMs: 0 })) {
      if (part.type === 'orphan') assert.equal(part.orphan.outcome, 'deleted', part.orphan.why)
    }
    await checkAgreement(log)
    await checkNothingTwice(log)
  } finally {
    await log.close()
  }
  await checkRestored(directory, acknowledged, ended)
}

/** Invariants 4, 5 and 9: index, stores and archive say the same, and every byte is what it was. */
async function checkAgreement(log: Log): Promise<void> {
  for await (const part of log.archive.verify({ deep: true })) {
    if (part.type === 'finding') assert.fail(`${part.finding.problem}: ${part.finding.text}`)
    if (part.type === 'end') assert.equal(part.tally.extra, 0, 'objects that nobody refers to')
  }
  for await (const part of log.fsck({ deep: true })) {
    // A ledger that a crash left without a row waits for its time, and costs some space until then.
    if (part.type === 'finding') assert.equal(part.finding.severity, 'waste', part.finding.text)
  }
}

async function checkNothingTwice(log: Log): Promise<void> {
  const seen = new Set<string>()
  for await (const { parsed, key } of log.archive.objects()) {
    const segment = `${parsed.incarnation} ${parsed.segment}`
    assert.ok(!seen.has(segment), `${key} is the second object of its segment`)
    seen.add(segment)
  }
}

/** Invariant 7: the archive alone has all of it, whatever a restore before this one had come to. */
async function checkRestored(
  directory: string,
  acknowledged: readonly Acknowledged[],
  ended: ReadonlySet<string> | undefined,
): Promise<void> {
  // One that was begun goes on to where it was going, and is compared with what the archive held then by `finish`.
  rmSync(join(directory, 'restored'), { recursive: true, force: true })
  await restoreBeside(directory)
  const restored = await openLog(join(directory, 'restored'), {
    ...WORKER_OPTIONS,
    archive: 'none',
    system: { logger: silentLogger() },
  })
  try {
    await witness(restored, acknowledged, ended)
  } finally {
    await restored.close()
  }
}

describe(`faults at system calls of tiering (seed ${SEED})`, { skip: missing ?? false }, () => {
  const random = seededRandom(SEED)

  before(() => faults.prepare('history', 'closed'))
  after(() => rmSync(root, { recursive: true, force: true }))

  for (const scenario of Object.keys(TIERING_SCENARIOS)) {
    describe(scenario, () => {
      let cases: Case[] = []
      before(async () => {
        cases = await faults.casesOf(scenario)
      })
      const kinds = {
        error: 'a call that fails is survived, and gone on from (1, 4, 10)',
        kill: 'killed at a call, nothing is lost and nothing is there twice (1, 4, 7, 12)',
      }
      for (const [kind, title] of Object.entries(kinds)) {
        test(`${kind}: ${title}`, { timeout: 3_600_000 }, async () => {
          const chosen = faults.sampleOf(
            cases.filter((one) => one.kind === kind),
            random,
          )
          await faults.runAll(chosen, judge)
        })
      }
    })
  }
})
