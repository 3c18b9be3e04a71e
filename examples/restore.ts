/** The machine is lost and the archive is left: a new log is made from it, with equal positions and payloads. */
import './temporary-directory.js'
import { rm } from 'node:fs/promises'
import { openArchive, openLog, planRestore, restoreArchive, text } from 'stratalog'

const archived = './archive'
await writeAndLose('./lost')
const archive = await openArchive(archived)

// The names of the objects tell everything: no segment is opened for the plan.
const plan = await planRestore(archive)
for (const { binding, segments, records, missing } of plan.streams) {
  console.log(`${binding.name}: ${records} records in ${segments.length} segments, ${missing.length} missing`)
}

// Interrupted, it goes on where it was when it is run again.
await using log = await openLog('./new', { config: 'none', control: 'off', tiering: 'off' })
const report = await restoreArchive(log, archive, plan)
console.log(`restored ${report.records} records, digests equal: ${report.digest === plan.digest}`)
await archive.close()

for await (const record of log.stream('audit', { codec: text() }).read({ from: { sequenceId: 998n } })) {
  console.log(`${record.dlsn}  ${record.value}`)
}

/** Appends, seals and copies; then the disks are gone. What was hot only would be lost with them. */
async function writeAndLose(directory: string): Promise<void> {
  {
    await using log = await openLog(directory, {
      archive: archived,
      config: 'none',
      control: 'off',
      tiering: 'off',
    })
    const audit = log.stream('audit', { codec: text() })
    await audit.appendAll(Array.from({ length: 1_000 }, (_, n) => `event ${n}`))
    await audit.seal()
    await log.tier.run({ until: 'settled' })
  }
  await rm(directory, { recursive: true })
}
