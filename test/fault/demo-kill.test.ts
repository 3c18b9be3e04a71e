import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { seededRandom } from '../helpers/seeded-random.js'

/** The demo killed at any moment and run on loses nothing acknowledged and ends with digests equal. */

const KILLS = Number(process.env.TEST_KILLS ?? 100)
const SEED = Number(process.env.TEST_SEED ?? Date.now() % 1_000_000)
const CLI = join(import.meta.dirname, '..', '..', 'src', 'cli', 'main.js')

interface Step {
  readonly step: string
  readonly records?: number
  readonly equal?: boolean
  readonly digestsEqual?: boolean
}

test(`the demo, killed ${KILLS} times and run on each time (seed ${SEED})`, {
  timeout: 1_200_000,
}, async () => {
  const root = mkdtempSync(join(tmpdir(), 'stratalog-demo-kill-'))
  const random = seededRandom(SEED)
  let directory = join(root, '0')
  // What the run before was told to be durable.
  let acknowledged = 0
  const seen = { killed: 0, finished: 0, resumed: 0 }
  try {
    while (seen.killed < KILLS) {
      // Most die while records are on their way in, some in the long parts after that.
      const killMs = random() < 0.7 ? random() * 500 : random() * 5_000
      const { steps, finished } = await run(root, directory, killMs)
      acknowledged = checkResumed(steps, acknowledged)
      seen.resumed += steps.some((step) => step.step === 'resume' && (step.records ?? 0) > 0) ? 1 : 0
      if (finished) {
        checkFinished(steps)
        seen.finished += 1
        directory = join(root, String(seen.finished))
        acknowledged = 0
      } else seen.killed += 1
    }
    const { steps, finished } = await run(root, directory, null)
    checkResumed(steps, acknowledged)
    assert.ok(finished, `the last run did not end (seed ${SEED})`)
    checkFinished(steps)
    assert.ok(seen.resumed > KILLS / 10, `only ${seen.resumed} runs found anything to go on with`)
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
})

/** One run of the demo, killed `killMs` after it has opened its log and begun to append (null: left to end). */
async function run(
  root: string,
  directory: string,
  killMs: number | null,
): Promise<{ steps: Step[]; finished: boolean }> {
  const said = join(root, 'said.ndjson')
  const complaints = join(root, 'complaints.txt')
  const [output, errors] = [openSync(said, 'w'), openSync(complaints, 'w')]
  const child = spawn(process.execPath, [CLI, 'demo', '--dir', directory, '--json'], {
    stdio: ['ignore', output, errors],
  })
  const exited = once(child, 'exit') as Promise<[number | null, string | null]>
  if (killMs !== null) {
    for (
      let waited = 0;
      waited < 30_000 && child.exitCode === null && !readFileSync(said, 'utf8').includes('"source"');
      waited += 10
    ) {
      await sleep(10)
    }
    await Promise.race([sleep(killMs), exited])
    child.kill('SIGKILL')
  }
  const [code, signal] = await exited
  closeSync(output)
  closeSync(errors)
  assert.ok(
    code === 0 || signal === 'SIGKILL',
    `the demo ended with ${code}: ${readFileSync(complaints, 'utf8')} (seed ${SEED})`,
  )
  const lines = readFileSync(said, 'utf8').split('\n')
  // The last line may be cut off by the kill.
  const steps = lines.slice(0, -1).map((line) => JSON.parse(line) as Step)
  return { steps, finished: code === 0 }
}

/** What was durable before is there and equals its source; returns what is durable now. */
function checkResumed(steps: readonly Step[], acknowledged: number): number {
  const resume = steps.find((step) => step.step === 'resume')
  if (resume !== undefined) {
    assert.equal(resume.equal, true)
    assert.ok(
      (resume.records ?? 0) >= acknowledged,
      `${resume.records} records are there and ${acknowledged} were acknowledged (seed ${SEED})`,
    )
  } else if (acknowledged > 0) {
    assert.ok(
      !steps.some((step) => step.step === 'append'),
      `${acknowledged} acknowledged records are gone (seed ${SEED})`,
    )
  }
  const appended = steps
    .filter((step) => step.step === 'append')
    .reduce((sum, step) => sum + (step.records ?? 0), 0)
  return Math.max(acknowledged, (resume?.records ?? 0) + appended)
}

function checkFinished(steps: readonly Step[]): void {
  assert.equal(steps.find((step) => step.step === 'restore')?.digestsEqual, true)
  assert.equal(steps.find((step) => step.step === 'verify')?.equal, true)
}
