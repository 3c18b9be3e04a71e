import { writeSync } from 'node:fs'
import process from 'node:process'
import { isStratalogError, type Log, openLog } from 'stratalog'

/**
 * A small application that is killed: checks what it finds, then appends, seals, archives, evicts and reads as fast
 * as it can. What it says on stdout has happened: `V stream count` verified at start, `A stream sequenceId dlsn`
 * acknowledged, `R stream sequenceId` read back at a DLSN that was acknowledged by an earlier life.
 */

const STREAMS = ['a', 'b/one', 'b/two', 'c']
const OUTSTANDING = 32

const say = (line: string) => writeSync(1, `${line}\n`)

export function payloadOf(stream: string, sequenceId: bigint): string {
  return `${stream} ${sequenceId} ${'.'.repeat(Number((sequenceId * 7_919n) % 700n))}`
}

/** What a life is told, as JSON in its first argument. */
export interface KillPlan {
  readonly directory: string
  /** By stream, where checking begins: what lies before was checked by an earlier life. */
  readonly from: Readonly<Record<string, string>>
  /** `stream sequenceId dlsn` of acknowledgements of earlier lives. */
  readonly known: readonly string[]
}

async function main({ directory, from, known }: KillPlan): Promise<void> {
  const log = await openLog(directory, {
    archive: `${directory}/archive`,
    config: 'none',
    // Most of what a life costs is loading code, and a third of that is the socket's.
    control: 'off',
    storeFileBytes: 4 * 1024 * 1024,
    defaults: { roll: { size: '48 KiB', age: '1s' }, hot: { for: '200ms' }, evict: { lag: 0 } },
  })
  say('O')
  for (const name of STREAMS) await verify(log, name, BigInt(from[name] ?? '0'))
  for (const line of known) await readBack(log, line)
  await Promise.all(STREAMS.flatMap((name) => appendForEver(log, name)))
}

/** Every record from that one on, dense, with the payload its number demands. */
async function verify(log: Log, name: string, from: bigint): Promise<void> {
  let next = from
  try {
    for await (const record of log.stream(name).read({
      from: from === 0n ? 'earliest' : { sequenceId: from },
    })) {
      const found = Buffer.from(record.payload).toString()
      if (record.sequenceId !== next || found !== payloadOf(name, next)) {
        say(`X ${name} ${next}: found ${record.sequenceId} at ${record.dlsn}: ${found.slice(0, 60)}`)
        process.exit(3)
      }
      next += 1n
    }
  } catch (error) {
    if (!isStratalogError(error, 'stream_not_found')) throw error
  }
  say(`V ${name} ${next}`)
}

/** `stream sequenceId dlsn` of an earlier life: the record must be just there. */
async function readBack(log: Log, line: string): Promise<void> {
  const [name = '', sequenceId = '', dlsn = ''] = line.split(' ')
  const { Dlsn } = await import('stratalog')
  for await (const record of log.stream(name).read({ from: Dlsn.parse(dlsn), limit: 1 })) {
    if (record.dlsn.toString() !== dlsn || record.sequenceId !== BigInt(sequenceId))
      say(`X ${line}: found ${record.sequenceId} at ${record.dlsn}`)
    say(`R ${name} ${sequenceId}`)
  }
}

function appendForEver(log: Log, name: string): Promise<void>[] {
  const stream = log.stream(name)
  // Numbered here, since payloads say which record they are; appends keep the order they are issued in.
  const numbered = (async () => {
    try {
      return (await stream.info()).nextSequenceId
    } catch {
      return 0n
    }
  })()
  let next: bigint | null = null
  const worker = async () => {
    const first = await numbered
    for (;;) {
      const number: bigint = next === null ? first : next + 1n
      next = number
      const ack = await stream.append(payloadOf(name, number))
      say(`A ${name} ${ack.sequenceId} ${ack.dlsn}`)
    }
  }
  return Array.from({ length: OUTSTANDING }, worker)
}

main(JSON.parse(process.argv[2] ?? '{}') as KillPlan).catch((error: unknown) => {
  say(`X failed: ${error instanceof Error ? error.stack : String(error)}`)
  process.exit(4)
})
