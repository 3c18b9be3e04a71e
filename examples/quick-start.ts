/** The quick start of the README. */
import './temporary-directory.js'
// #region readme
import { json, openLog } from 'stratalog'

type Trade = { symbol: string; price: number; at: number }

await using log = await openLog('./data', { archive: './archive' })
const trades = log.stream('trades', { codec: json<Trade>() }) // a handle: no I/O yet

const sum = await trades.appendAll(history(), {
  txid: (trade) => BigInt(trade.at), // a position of your own, here the time
  producer: 'loader-1', // run again after a crash it appends nothing twice
}) // batched, in order, a bounded number under way
console.log(`${sum.count} records, ${sum.first} … ${sum.last}`)

const ack = await trades.append({ symbol: 'ACME', price: 12.5, at: Date.now() })
console.log(`${ack.dlsn} durable on ${ack.copies} stores`)

await trades.setPolicy({ hot: { for: '1h' }, keep: { for: '7 years' } })
await trades.seal()
const report = await log.tier.run({ until: 'settled' }) // the agent does this by itself; here: now
console.log(`${report.failed.length} steps failed, ${report.waiting} are for later`)

const january = { from: { time: '2025-01-01Z' }, until: { time: '2025-02-01Z' } } as const
for await (const record of trades.read(january)) {
  console.log(`${record.dlsn}`, record.value.symbol, record.value.price) // hot or cold: you can't tell
}

const saved = ack.dlsn // your own table keeps positions
await trades.append({ symbol: 'ACME', price: 12.75, at: Date.now() })
for await (const record of trades.read({ after: saved, follow: true, signal: AbortSignal.timeout(500) })) {
  console.log('new', record.value.price)
}

function* history(): Generator<Trade> {
  for (let day = 1; day <= 90; day += 1) {
    yield { symbol: 'ACME', price: 10 + day / 100, at: Date.UTC(2025, 0, day) }
  }
}
// #endregion readme
