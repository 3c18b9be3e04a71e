// Runs every compiled test file and closes with one line that counts. Fails when no test ran.
import { existsSync, readdirSync, statSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'
import { run } from 'node:test'
import { spec } from 'node:test/reporters'

const only = process.argv.slice(2)
const root = join(import.meta.dirname, '..', 'dist', 'test')
const find = (dir) =>
  readdirSync(dir).flatMap((name) => {
    const path = join(dir, name)
    return statSync(path).isDirectory() ? find(path) : name.endsWith('.test.js') ? [path] : []
  })
// What was compiled from a file that is gone is not run.
const source = (file) => join(root, '..', '..', file.slice(root.length - 4).replace(/\.js$/, '.ts'))
const files = find(root)
  .filter((file) => existsSync(source(file)))
  .sort()
  .filter((file) => only.length === 0 || only.some((part) => file.includes(part)))

const count = { passed: 0, failed: 0, skipped: 0 }
const stream = run({ files, concurrency: Math.min(2, availableParallelism()), timeout: 15 * 60_000 })
// A suite counts where it was skipped as a whole: what is left out must be seen in the last line too.
const leaf = (data) =>
  (data.details?.type !== 'suite' || data.skip !== undefined) &&
  data.nesting >= 0 &&
  !files.includes(data.name)
stream.on('test:pass', (data) => {
  if (!leaf(data)) return
  if (data.skip !== undefined || data.todo !== undefined) count.skipped += 1
  else count.passed += 1
})
stream.on('test:fail', (data) => {
  if (data.details?.type !== 'suite') count.failed += 1
})
stream.compose(spec).pipe(process.stdout)
stream.on('close', () => {})
await new Promise((resolve) => stream.on('end', resolve))
// The reporter drains after the events have ended; the count must be the last line.
await new Promise((resolve) => setTimeout(resolve, 200))
if (count.passed + count.failed + count.skipped === 0) {
  process.stdout.write('no test ran: is dist/test built?\n')
  count.failed += 1
}
process.stdout.write(`${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped\n`)
process.exitCode = count.failed > 0 ? 1 : 0
