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
// What takes minutes begins first, so that nothing long is left to run alone at the end.
const LONG_FIRST = [
  'fault/demo',
  'fault/kill',
  'sim/',
  'fault/',
  'archive/engines/',
  'bookkeeper/',
  'bench/',
  'e2e/',
]
const rank = (file) => {
  const at = LONG_FIRST.findIndex((part) => file.slice(root.length + 1).startsWith(part))
  return at < 0 ? LONG_FIRST.length : at
}
const files = find(root)
  .filter((file) => existsSync(source(file)))
  .sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1))
  .filter((file) => only.length === 0 || only.some((part) => file.includes(part)))

const count = { passed: 0, failed: 0, skipped: 0 }
// One more than there are cores, at most three: tests of servers and of kills wait for others most of the time.
const concurrency = Math.min(3, availableParallelism() + 1)
// Every case instead of a sample takes hours.
const minutesMax = process.env.TEST_FULL === '1' ? 12 * 60 : 15
const stream = run({ files, concurrency, timeout: minutesMax * 60_000 })
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
// Results come in the order of the files, so the long ones hold back what is done beside them: say that it goes on.
if (process.stderr.isTTY) {
  let begun = 0
  stream.on('test:dequeue', ({ nesting, name }) => {
    if (nesting > 0 || !files.includes(name)) return
    begun += 1
    process.stderr.write(`\r\x1b[K${begun} of ${files.length}: ${name.slice(root.length + 1)}\r`)
  })
}
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
