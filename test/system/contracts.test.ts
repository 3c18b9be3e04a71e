import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { realClock } from '../../src/system/clock.js'
import { realDisk } from '../../src/system/disk.js'
import { silentLogger } from '../../src/system/logger.js'
import { realRandom } from '../../src/system/random.js'
import { clockContract } from '../contract/clock.js'
import { diskContract } from '../contract/disk.js'
import { loggerContract } from '../contract/logger.js'
import { randomContract } from '../contract/random.js'
import { ManualClock } from '../helpers/manual-clock.js'
import { MemoryDisk } from '../helpers/memory-disk.js'

/** What everything is tested on, and what it runs on, keep the same promises. */

diskContract('the real disk', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'stratalog-disk-'))
  return {
    disk: realDisk(),
    directory,
    cleanup: async () => rmSync(directory, { recursive: true, force: true }),
  }
})

diskContract('the disk in memory', async () => {
  const disk = new MemoryDisk()
  await disk.makeDirectory('/work')
  return { disk, directory: '/work', cleanup: async () => {} }
})

clockContract('the real clock', () => ({
  clock: realClock(),
  pass: (ms) => sleep(ms + 5),
}))

clockContract('the manual clock', () => {
  const clock = new ManualClock()
  return { clock, pass: (ms) => clock.advance(ms) }
})

randomContract('the real random', () => realRandom())

loggerContract('the silent logger', () => silentLogger())
