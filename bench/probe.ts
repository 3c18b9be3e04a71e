import {
  closeSync,
  fdatasync,
  fsyncSync,
  mkdirSync,
  openSync,
  readSync,
  rmSync,
  write,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'

/** The plain loops the log is held against: the same disk, the same bytes, nothing else. */

const COPIES = 3

/** Writes `totalBytes` in groups to three preallocated files, each group synced on all three; MB/s, counted once. */
export async function plainAppend(
  directory: string,
  groupBytes: number,
  totalBytes: number,
): Promise<number> {
  mkdirSync(directory, { recursive: true })
  const files = Array.from({ length: COPIES }, (_, i) =>
    preallocated(join(directory, `plain-${i}`), totalBytes),
  )
  const group = Buffer.alloc(groupBytes, 7)
  const start = performance.now()
  for (let offset = 0; offset + groupBytes <= totalBytes; offset += groupBytes) {
    await Promise.all(files.map((fd) => writeAndSync(fd, group, offset)))
  }
  const seconds = (performance.now() - start) / 1_000
  for (const fd of files) closeSync(fd)
  rmSync(directory, { recursive: true })
  return totalBytes / 1e6 / seconds
}

/** Median milliseconds of three parallel writes and fdatasyncs of 4 KiB. */
export async function plainLatency(directory: string, rounds: number): Promise<number[]> {
  mkdirSync(directory, { recursive: true })
  const files = Array.from({ length: COPIES }, (_, i) =>
    preallocated(join(directory, `plain-${i}`), rounds * 4_096),
  )
  const page = Buffer.alloc(4_096, 7)
  const times: number[] = []
  for (let round = 0; round < rounds; round += 1) {
    const start = performance.now()
    await Promise.all(files.map((fd) => writeAndSync(fd, page, round * 4_096)))
    times.push(performance.now() - start)
  }
  for (const fd of files) closeSync(fd)
  rmSync(directory, { recursive: true })
  return times
}

/** Reads files from front to back, 1 MiB at a time; MB/s. */
export function plainRead(files: readonly string[]): number {
  const buffer = Buffer.allocUnsafe(1024 * 1024)
  let total = 0
  const start = performance.now()
  for (const file of files) {
    const fd = openSync(file, 'r')
    for (let bytes = readSync(fd, buffer); bytes > 0; bytes = readSync(fd, buffer)) total += bytes
    closeSync(fd)
  }
  return total / 1e6 / ((performance.now() - start) / 1_000)
}

function preallocated(path: string, bytes: number): number {
  const fd = openSync(path, 'w')
  const zeros = Buffer.alloc(1024 * 1024)
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

export function percentile(values: readonly number[], fraction: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * fraction))] ?? Number.NaN
}
