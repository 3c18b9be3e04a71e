import { spawnSync } from 'node:child_process'
import {
  closeSync,
  fdatasync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  statSync,
  write,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'

/*
 * The plain loops the log is held against: the same disk, the same bytes, nothing else.
 */

const COPIES = 3
const CHUNK_BYTES = 1024 * 1024

/** How fast, and at what cost: user and system time of the whole process. */
export interface Speed {
  readonly mbPerSecond: number
  readonly cpuMicrosPerKib: number
}

/** Three preallocated files, written over again and again. */
export class PlainFiles {
  readonly fileBytes: number
  readonly #directory: string
  readonly #files: readonly number[]

  constructor(directory: string, fileBytes: number) {
    mkdirSync(directory, { recursive: true })
    this.#directory = directory
    this.fileBytes = fileBytes
    this.#files = Array.from({ length: COPIES }, (_, i) =>
      preallocated(join(directory, `plain-${i}`), fileBytes),
    )
  }

  /** Fills all three in groups, each synced on all of them before the next; payload is counted once. */
  async append(groupBytes: number): Promise<Speed> {
    const group = Buffer.alloc(groupBytes, 7)
    const measure = startMeasure()
    let written = 0
    for (; written + groupBytes <= this.fileBytes; written += groupBytes) {
      await Promise.all(this.#files.map((fd) => writeAndSync(fd, group, written)))
    }
    return measure(written)
  }

  /** Milliseconds of `rounds` times three parallel writes and fdatasyncs of 4 KiB. */
  async latencies(rounds: number): Promise<number[]> {
    const page = Buffer.alloc(4_096, 7)
    const times: number[] = []
    for (let round = 0; round < rounds; round += 1) {
      const offset = (round * 4_096) % this.fileBytes
      const start = performance.now()
      await Promise.all(this.#files.map((fd) => writeAndSync(fd, page, offset)))
      times.push(performance.now() - start)
    }
    return times
  }

  close(): void {
    for (const fd of this.#files) closeSync(fd)
    rmSync(this.#directory, { recursive: true })
  }
}

/** Counts from now on; what it returns is told how many bytes of payload were done, and ends it. */
export function startMeasure(): (bytes: number) => Speed {
  const cpu = process.cpuUsage()
  const start = performance.now()
  return (bytes) => {
    const ms = performance.now() - start
    const { user, system } = process.cpuUsage(cpu)
    return { mbPerSecond: bytes / 1e3 / ms, cpuMicrosPerKib: ((user + system) * 1024) / bytes }
  }
}

/** Reads files from front to back, 1 MiB at a time, at most `bytesMax`; MB/s. */
export function plainRead(files: readonly string[], bytesMax: number = Number.MAX_SAFE_INTEGER): number {
  const buffer = Buffer.allocUnsafe(CHUNK_BYTES)
  let total = 0
  const start = performance.now()
  for (const file of files) {
    const fd = openSync(file, 'r')
    for (
      let bytes = readSync(fd, buffer);
      bytes > 0 && total < bytesMax;
      bytes = total < bytesMax ? readSync(fd, buffer) : 0
    ) {
      total += bytes
    }
    closeSync(fd)
  }
  return total / 1e3 / (performance.now() - start)
}

/** Takes files out of the page cache, as far as they are clean; false where the machine's `dd` can not. */
export function dropCache(files: readonly string[]): boolean {
  return files.every((file) => {
    const { status } = spawnSync('dd', [`if=${file}`, 'iflag=nocache', 'count=0'], { stdio: 'ignore' })
    return status === 0
  })
}

/** Files of some size below a directory, by path. */
export function filesBelow(directory: string): string[] {
  return readdirSync(directory)
    .sort()
    .flatMap((name) => {
      const path = join(directory, name)
      const about = statSync(path)
      if (about.isDirectory()) return filesBelow(path)
      return about.size > 4_096 ? [path] : []
    })
}

/** A new file full of zeros, synced; its descriptor. */
export function preallocated(path: string, bytes: number): number {
  const fd = openSync(path, 'w')
  const zeros = Buffer.alloc(CHUNK_BYTES)
  for (let at = 0; at < bytes; at += zeros.length)
    writeSync(fd, zeros, 0, Math.min(zeros.length, bytes - at), at)
  fsyncSync(fd)
  return fd
}

function writeAndSync(fd: number, bytes: Buffer, offset: number): Promise<void> {
  return new Promise((resolve, reject) => {
    write(fd, bytes, 0, bytes.length, offset, (failed) => {
      if (failed) reject(failed)
      else fdatasync(fd, (error) => (error ? reject(error) : resolve()))
    })
  })
}
