/** Who decides how long records stay where: the file, code, and a stream's own override, field by field. */
import './temporary-directory.js'
import { writeFile } from 'node:fs/promises'
import { openLog, type ResolvedPolicy } from 'stratalog'

const POLICIES = `version: 1
archive: ./archive
defaults:
  hot: { for: 24h }
  keep: { for: 90d }
policies:
  - match: audit/**
    keep: forever
    hot: { for: 7d }
  - match: sensors/*
    roll: { size: 8 MiB }
    keep: { max: 1 GiB }
`

await writeFile('stratalog.yaml', POLICIES)
// What code says about all streams stands above the file's defaults, and below what the file says about a pattern.
await using log = await openLog('.', {
  defaults: { evict: { lag: '1h' } },
  tiering: 'off',
  control: 'off',
})

for (const name of ['audit/login', 'sensors/t1', 'web']) {
  await log.stream(name).append('an event')
  show(name, (await log.policyOf(name)).resolved)
}

// For one stream, kept by the log itself until it is taken back with null.
await log.stream('web').setPolicy({ keep: { for: '30d' } })
show('web', await log.stream('web').policy())

// What follows from it: every step that is due or to come, with its reason.
for (const { stream, actions } of await log.tier.plan('web')) {
  for (const { kind, reason } of actions) console.log(`${stream.name}: ${kind} by ${reason}`)
}

function show(name: string, { policy, origins }: ResolvedPolicy): void {
  const days = policy.keep.forMs === null ? 'for ever' : `${policy.keep.forMs / 86_400_000} days`
  console.log(`${name}: kept ${days} (${origins['keep.for']}), evict.lag from ${origins['evict.lag']}`)
}
