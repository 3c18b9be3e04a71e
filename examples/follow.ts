/** A reader that follows a stream while it is written, ends by an AbortSignal, and goes on later where it was. */
import './temporary-directory.js'
import { type Dlsn, openLog, text } from 'stratalog'

await using log = await openLog('.', { config: 'none', control: 'off' })
const lines = log.stream('lines', { codec: text() })
await lines.append('line 1')

// The reader and the writer work side by side. A new record wakes the reader: it does not ask again and again.
const abort = new AbortController()
const reading = follow(abort)
for (let n = 2; n <= 5; n += 1) await lines.append(`line ${n}`)
const position = await reading

// The position is all there is to keep: it is the same in every tier and after every restart.
await lines.append('line 6')
for await (const record of lines.read({ after: position }))
  console.log(`later  ${record.dlsn}  ${record.value}`)

async function follow(stop: AbortController): Promise<Dlsn> {
  let last: Dlsn | null = null
  for await (const record of lines.read({ from: 'earliest', follow: true, signal: stop.signal })) {
    console.log(`follow ${record.dlsn}  ${record.value}`)
    last = record.dlsn
    // An aborted signal ends the loop: nothing is thrown.
    if (record.value === 'line 5') stop.abort()
  }
  if (last === null) throw new Error('nothing was read')
  return last
}
