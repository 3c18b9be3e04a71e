import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { faultDirectory } from '../helpers/fault-run.js'

/*
 * Invariant 10 for what is no fault of any disk: an application that leaves no descriptor to open a file with, for a
 * while. The stores wait; they are not taken for broken until a restart.
 */

/** Enough for node itself to start; the application below takes the rest. */
const DESCRIPTORS = 300
const SHORTAGE_MS = 1_500

const application = `
import { closeSync, openSync } from 'node:fs'
import { openLog } from 'stratalog'
import { silentLogger } from '${pathToFileURL(join(import.meta.dirname, '../../src/system/logger.js'))}'
const log = await openLog(process.argv[1], {
  config: 'none', control: 'off', tiering: 'off', storeFileBytes: 4 << 20, system: { logger: silentLogger() },
})
const stream = log.stream('a')
const large = 'x'.repeat(900_000)
for (let i = 0; i < 2; i += 1) await stream.append(large)
await stream.seal()
const held = []
for (;;) {
  try { held.push(openSync('/dev/null')) } catch (error) { if (error.code === 'EMFILE') break; throw error }
}
setTimeout(() => held.splice(0).forEach(closeSync), ${SHORTAGE_MS})
// More than one file holds, so that the stores have to open others.
for (let i = 0; i < 8; i += 1) await stream.append(large)
const over = held.length === 0
const states = (await log.stores()).map(({ state }) => state)
let records = 0
for await (const { payload } of stream.read()) records += payload.length === large.length ? 1 : 0
await log.close()
console.log(JSON.stringify({ over, states, records }))
`

test('no descriptor is left for a while: appends wait, no store is given up (10)', {
  skip: process.platform === 'win32',
}, () => {
  const root = faultDirectory('descriptors')
  try {
    const { stdout, stderr, status } = spawnSync(
      'sh',
      [
        '-c',
        `ulimit -n ${DESCRIPTORS}; exec "$0" "$@"`,
        process.execPath,
        '--input-type=module',
        '-e',
        application,
        join(root, 'log'),
      ],
      { encoding: 'utf8', cwd: join(import.meta.dirname, '../../..'), timeout: 60_000 },
    )
    assert.equal(status, 0, stderr)
    assert.deepEqual(JSON.parse(stdout), {
      over: true,
      states: ['writable', 'writable', 'writable'],
      records: 10,
    })
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
})
