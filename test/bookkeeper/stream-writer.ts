import { argv } from 'node:process'
import { openNamespace } from '../helpers/cluster-streams.js'
import { makePayload } from '../helpers/payloads.js'

/*
 * A writer of ours as a process that a test kills: appends records without end, ten at a time, and says after each ten
 * how many are acknowledged. Its ZooKeeper, ledgers, namespace, stream, first number, payload size are its arguments.
 */
const [, , address = '', ledgersPath = '', namespace = '', name = '', first = '0', size = '100'] = argv
const zk = { address } as Parameters<typeof openNamespace>[0]['zk']
const opened = await openNamespace({ zk, ledgersPath }, namespace, {
  rollBytes: 40_000,
  sessionTimeoutMs: 3000,
})
const stream = opened.stream(name)
for (let number = BigInt(first); ; ) {
  const together: Promise<unknown>[] = []
  for (let i = 0; i < 10; i++, number += 1n) {
    const txid = 1000n + 10n * number
    together.push(stream.append(makePayload('text', number, Number(size)), { txid }))
  }
  await Promise.all(together)
  process.stdout.write(`${number}\n`)
}
