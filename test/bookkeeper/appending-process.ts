import { argv } from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { isStratalogError } from '../../src/model/errors.js'
import { openNamespace } from '../helpers/cluster-streams.js'

/*
 * A writer as a process that a test stops and lets go on: appends without end, ten at a time, and says of each record
 * whether it is acknowledged. Its ZooKeeper, ledgers, namespace, stream and session time are its arguments.
 */
const [, , address = '', ledgersPath = '', namespace = '', name = '', sessionTimeoutMs = '2000'] = argv
const zk = { address } as Parameters<typeof openNamespace>[0]['zk']
const opened = await openNamespace({ zk, ledgersPath }, namespace, {
  sessionTimeoutMs: Number(sessionTimeoutMs),
})
const stream = opened.stream(name)
for (let number = 0; ; number += 10) {
  const together = Array.from({ length: 10 }, (_, i) => `mine ${number + i}`).map(async (payload) => {
    try {
      await stream.append(payload)
      process.stdout.write(`acked ${payload}\n`)
    } catch (error) {
      process.stdout.write(`refused ${isStratalogError(error) ? error.code : String(error)}\n`)
    }
  })
  await Promise.all(together)
  await sleep(5)
}
