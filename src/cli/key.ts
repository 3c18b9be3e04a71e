import { resolve } from 'node:path'
import type { Command } from 'commander'
import type { StreamEncryptionDto } from '../model/control-keys.js'
import { StratalogError } from '../model/errors.js'
import { formatBytes, formatTime } from '../model/units.js'
import type { CliIo } from './io.js'
import { quietSystem } from './quiet.js'
import { plural, table } from './render.js'

/** `stratalog key list | add | rotate | reencrypt`. No command takes a key or prints one. */
export function register(program: Command, io: CliIo): void {
  const group = program
    .command('key')
    .description('the keys that archived objects are encrypted with: rings, and what they wrap')
  group
    .command('list')
    .argument('[stream]', 'only this one')
    .description('how streams are encrypted; with --key-ring the keys of that ring, which needs no log')
    .addHelpText('after', '\nExamples:\n  stratalog key list\n  stratalog key list --key-ring ~/strata.ring')
    .action((stream: string | undefined) => list(io, stream, io.keyRing))
  group
    .command('add')
    .argument('<id>', 'what the new key is called, as 2026-01')
    .description(
      'make a new random key in the ring of --key-ring; one that is not there is made, readable by its owner only',
    )
    .addHelpText('after', '\nExample:\n  stratalog key add 2026-01 --key-ring ~/strata.ring')
    .action((id: string) => add(io, id))
  group
    .command('rotate')
    .argument('[stream]', 'only this one')
    .description('wrap the keys of streams by the key that their policy names now; objects are not touched')
    .addHelpText(
      'after',
      '\nChange encryption.key in stratalog.yaml first. When it is done the older key of the ring is needed no more.\n\nExample:\n  stratalog key rotate',
    )
    .action((stream: string | undefined) => rotate(io, stream))
  group
    .command('reencrypt')
    .argument('<stream>', 'the stream')
    .description("write a stream's archived objects anew under its newest key, those in clear too")
    .option(
      '--new-key',
      'make a new key first: what somebody knows of the old one is of no use for the new objects',
    )
    .addHelpText(
      'after',
      '\nSafe to stop; to go on, run it again without --new-key. The objects before stay until they are collected.\n\nExamples:\n  stratalog key reencrypt audit/login\n  stratalog key reencrypt audit/login --new-key',
    )
    .action((stream: string, options: { newKey?: boolean }) => reencrypt(io, stream, options.newKey ?? false))
}

async function list(io: CliIo, stream: string | undefined, ring: string | undefined): Promise<void> {
  if (ring !== undefined) return listRing(io, resolve(ring))
  const { withLog } = await import('./connect.js')
  await withLog(io, {}, async ({ api }) => {
    const rows: string[][] = []
    for await (const one of api.keyList(stream === undefined ? {} : { stream }, io.signal)) {
      if (io.json) await io.value(one)
      else rows.push(...streamRows(one))
    }
    if (io.json) return
    const columns = [
      { name: 'STREAM' },
      { name: 'POLICY' },
      { name: 'KEY' },
      { name: 'WRAPPED BY' },
      { name: 'SINCE' },
    ]
    if (rows.length > 0) for (const line of table(columns, rows, io.colors)) await io.line(line)
    else io.note('(no stream is encrypted: set encryption: { ring: FILE, key: ID } in stratalog.yaml)')
  })
}

function streamRows({ stream, policy, keys }: StreamEncryptionDto): string[][] {
  const wanted = policy === null ? 'none' : `${policy.key} of ${policy.ring}`
  const wraps = keys.flatMap(({ id, wrappedBy }) =>
    wrappedBy.map(({ ring, key, atMs }) => [id, `${key} of ${ring}`, formatTime(atMs)]),
  )
  if (wraps.length === 0) return [[stream, wanted, '', '', '']]
  return wraps.map((wrap, i) => [i === 0 ? stream : '', i === 0 ? wanted : '', ...wrap])
}

async function listRing(io: CliIo, path: string): Promise<void> {
  const { fileKeyRing } = await import('../open/key-ring-file.js')
  const { realRandom } = await import('../system/random.js')
  const ring = await fileKeyRing(path, realRandom())
  const keys = await ring.keys()
  if (io.json) return io.value({ ring: ring.id, location: ring.location, keys })
  const columns = [{ name: 'KEY' }, { name: 'MADE' }]
  const rows = keys.map(({ id, createdMs }) => [id, formatTime(createdMs)])
  for (const line of table(columns, rows, io.colors)) await io.line(line)
  io.note(`(ring ${ring.id}, ${plural(keys.length, 'key')})`)
}

async function add(io: CliIo, id: string): Promise<void> {
  if (io.keyRing === undefined)
    throw new StratalogError('usage', `key add needs a ring: stratalog key add ${id} --key-ring FILE`)
  const { addRingKey } = await import('../open/key-ring-file.js')
  const { clock, random } = await (await import('../open/system.js')).systemPorts(await quietSystem())
  const path = resolve(io.keyRing)
  const added = await addRingKey(path, id, { random, nowMs: clock.nowMs() })
  if (io.json) return io.value({ key: id, ring: added.ring, location: path, made: added.made })
  await io.line(`key ${id} added to ring ${added.ring} in ${path}${added.made ? ', which was made' : ''}`)
  io.note('keep a copy of the ring somewhere else: what it encrypts is lost without it')
}

async function rotate(io: CliIo, stream: string | undefined): Promise<void> {
  const { withLog } = await import('./connect.js')
  await withLog(io, { lasting: true }, async ({ api }) => {
    let streams = 0
    for await (const one of api.keyRotate(stream === undefined ? {} : { stream }, io.signal)) {
      streams += 1
      if (io.json) await io.value(one)
      else if (one.wrapped > 0) await io.line(`${one.stream}  ${plural(one.wrapped, 'key')} wrapped anew`)
      else await io.line(`${one.stream}  nothing to do`)
    }
    if (streams === 0)
      io.note('(no stream is encrypted: set encryption: { ring: FILE, key: ID } in stratalog.yaml)')
  })
}

async function reencrypt(io: CliIo, stream: string, newKey: boolean): Promise<void> {
  const { withLog } = await import('./connect.js')
  await withLog(io, { lasting: true }, async ({ api }) => {
    let [segments, left, bytes] = [0, 0, 0]
    for await (const one of api.keyReencrypt({ stream, newKey }, io.signal)) {
      if (io.json) await io.value(one)
      if (one.written) segments += 1
      else left += 1
      if (one.written) bytes += one.sizeBytes
    }
    if (io.json) return
    const rest = left === 0 ? '' : `, ${left} had the newest key already`
    await io.line(`${stream}  ${plural(segments, 'segment')} written anew, ${formatBytes(bytes)}${rest}`)
  })
}
