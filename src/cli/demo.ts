import type { Command } from 'commander'
import type { CliIo } from './io.js'

const HELP = `
Real events go the whole way of a record: appended to several streams, sealed by policy, copied to an archive
directory and read back, freed on the hot stores, read across both tiers, and restored from the archive alone.
Everything read is compared with its source. Stopped or killed anywhere, it goes on where it was when run again.

Files: .ndjson, .json (an array), .csv with a header, else plain lines. The time of an event is its field time, at,
timestamp, date or ts. Without files: the flights and earthquakes of the npm package vega-datasets.

Examples:
  stratalog demo
  stratalog demo access.ndjson orders.csv --dir ./try
  stratalog demo --json
`

/** `stratalog demo`: the whole path of a record in a few seconds. */
export function register(program: Command, io: CliIo): void {
  program
    .command('demo')
    .summary('take real events through the whole path, in a directory of its own')
    .description(
      'Take real events through the whole path of a record, in a directory of its own (--dir, else ./stratalog-demo).',
    )
    .argument('[files...]', 'events to use instead')
    .addHelpText('after', HELP)
    .action(async (files: string[]) => {
      const [{ demoOutput }, { runDemo }] = await Promise.all([
        import('./demo/output.js'),
        import('./demo/run.js'),
      ])
      const directory = io.dir ?? './stratalog-demo'
      try {
        await runDemo({ directory, files, out: demoOutput(io), signal: io.signal })
      } catch (error) {
        if (!io.signal.aborted) throw error
        io.note('stopped: run the same command again and it goes on from here')
        // What a wait rejects with is an error of its own kind; the command ends for the reason it was stopped.
        throw io.signal.reason
      }
    })
}
