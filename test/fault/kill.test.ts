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

/** Invariants 1, 2 and 4: kill -9 at any moment, a hundred times over one log, loses nothing acknowledged. */

const ROUNDS = Number(process.env.TEST_KILLS ?? 100)
const SEED = Number(process.env.TEST_SEED ?? Date.now() % 1_000_000)

interface Life {
  readonly opened: boolean
  readonly acked: number
  readonly read: number
}

test(`kill -9 ${ROUNDS} times while appending, tiering and reading loses nothing acknowledged (seed ${SEED})`, {
  timeout: 600_000,
}, async () => {
  const directory = mkdtempSync(join(tmpdir(), 'stratalog-kill-'))
  const random = seededRandom(SEED)
  const acked = new Map<string, bigint>()
  const samples: string[] = []
  const total = { lives: 0, opened: 0, acked: 0, read: 0 }
  try {
    for (let round = 0; round < ROUNDS; round += 1) {
      // Some die while they open and recover, most at work.
      const killMs = round % 4 === 3 ? -(100 + random() * 800) : random() * 500
      const life = await live(directory, killMs, acked, samples, random)
      total.lives += 1
      total.opened += life.opened ? 1 : 0
      total.acked += life.acked
      total.read += life.read
    }
    const last = await live(directory, 3_000, acked, samples, random)
    assert.ok(last.opened, 'the last life opened the log')
    // Evidence that the test tests: it was killed at work, and there was work to lose.
    assert.ok(
      total.opened >= ROUNDS / 4,
      `only ${total.opened} of ${total.lives} lives got as far as opening`,
    )
    assert.ok(total.acked > ROUNDS * 10, `only ${total.acked} records were acknowledged`)
    assert.ok(total.read > 0, 'no record of an earlier life was read back by its DLSN')
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
})

/**
 * One life of the worker. It is killed `afterOpenMs` after it has opened the log; a negative value kills it so long
 * after its start instead, while it opens and recovers.
 */
async function live(
  directory: string,
  killMs: number,
  acked: Map<string, bigint>,
  samples: string[],
  random: () => number,
): Promise<Life> {
  const known = samples.splice(0, 6)
  // A file, not a pipe: what was written to it before the kill is there after it.
  const said = join(directory, 'said.txt')
  const output = openSync(said, 'w')
  const worker = spawn(process.execPath, [join(import.meta.dirname, 'kill-worker.js'), directory, ...known], {
    stdio: ['ignore', output, 'inherit'],
  })
  const exited = once(worker, 'exit')
  try {
    if (killMs < 0) await Promise.race([sleep(-killMs), exited])
    else {
      for (
        let waited = 0;
        waited < 30_000 && worker.exitCode === null && !readFileSync(said, 'utf8').startsWith('O');
        waited += 20
      )
        await sleep(20)
      await Promise.race([sleep(killMs), exited])
    }
  } finally {
    worker.kill('SIGKILL')
    await exited
    closeSync(output)
  }
  return judge(readFileSync(said, 'utf8').split('\n'), acked, samples, random)
}

function judge(
  lines: readonly string[],
  acked: Map<string, bigint>,
  samples: string[],
  random: () => number,
): Life {
  const life = { opened: false, acked: 0, read: 0 }
  for (const line of lines) {
    const [kind, stream = '', number = '', dlsn = ''] = line.split(' ')
    if (kind === 'X') assert.fail(`${line} (seed ${SEED})`)
    if (kind === 'O') life.opened = true
    if (kind === 'R') life.read += 1
    if (kind === 'V') {
      const least = (acked.get(stream) ?? -1n) + 1n
      assert.ok(
        BigInt(number) >= least,
        `${stream} holds ${number} records and ${least} were acknowledged (seed ${SEED})`,
      )
    }
    if (kind === 'A') {
      life.acked += 1
      if (BigInt(number) > (acked.get(stream) ?? -1n)) acked.set(stream, BigInt(number))
      if (random() < 0.01) samples.push(`${stream} ${number} ${dlsn}`)
    }
  }
  return life
}
