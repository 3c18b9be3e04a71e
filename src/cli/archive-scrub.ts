import type { ColdScrubDto } from '../model/control-archive.js'
import { StratalogError } from '../model/errors.js'
import { checkStreamName } from '../model/stream-name.js'
import { formatBytes } from '../model/units.js'
import { parseSegment } from './args.js'
import { withLog } from './connect.js'
import { EXIT } from './exit-codes.js'
import type { CliIo } from './io.js'
import { formatCount, plural, printable } from './render.js'

/** `stratalog archive scrub`. */
export async function scrub(io: CliIo): Promise<void> {
  await withLog(io, { lasting: true }, async ({ api }) => {
    const progress = io.progress({ label: 'scrub', unit: 'bytes' })
    try {
      for await (const { type, scrub: state } of api.archiveScrub(io.signal)) {
        if (type === 'progress') progress.update(state.doneBytes)
        else {
          progress.end()
          await showScrub(io, state)
        }
      }
    } finally {
      progress.end()
    }
  })
}

async function showScrub(io: CliIo, state: ColdScrubDto): Promise<void> {
  if (state.alarms.length > 0) io.setExitCode(EXIT.loss)
  if (io.json) return io.value(state)
  for (const { stream, segment, problem, why } of state.alarms) {
    await io.line(`${io.colors.red(problem.padEnd(10))}  ${printable(stream)} seg ${segment}`)
    await io.line(`            ${printable(why)}`)
  }
  const left =
    state.alarms.length === 0 ? 'nothing left that is bad' : `${plural(state.alarms.length, 'alarm')}`
  await io.line(
    `${formatBytes(state.totalBytes)} read · mended ${formatCount(state.repaired)} since the log was made · ${left}`,
  )
}

/** `stratalog archive resolve`. */
export async function resolve(
  io: CliIo,
  stream: string,
  segment: string,
  options: { readonly attempt: string; readonly yes?: boolean },
): Promise<void> {
  checkStreamName(stream)
  const number = parseSegment(segment)
  const { attempt } = options
  if (options.yes !== true) {
    throw new StratalogError(
      'refused',
      `objects of segment ${number} of ${stream} with another content than attempt ${attempt} would be deleted: compare them ("stratalog archive ls ${stream}"), then stratalog archive resolve ${stream} ${number} --attempt ${attempt} --yes`,
    )
  }
  await withLog(io, {}, async ({ api }) => {
    const done = await api.archiveResolve({ stream, segment: number, attempt })
    if (io.json) return io.value(done)
    await io.line(`segment ${done.segment} of ${printable(stream)} is ${done.chosen}`)
    for (const key of done.deleted) await io.line(`deleted ${key}`)
  })
}
