import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'

/*
 * File systems of their own for tests that fill a disk or cut its power. Only the superuser can mount them: elsewhere
 * the tests are skipped, with the reason.
 */

/** Copies of a device that was written to meanwhile are no moment of it, and are taken again this often. */
const COPIES_MAX = 20

function command(name: string, ...args: string[]): string {
  const done = spawnSync(name, args, { encoding: 'utf8' })
  if (done.error !== undefined) throw new Error(`${name} can't be run: ${done.error.message}`)
  if (done.status !== 0) throw new Error(`${name} ${args.join(' ')}: ${done.stderr.trim()}`)
  return done.stdout.trim()
}

/** Why `mount` of a tmpfs does not work here, or null. */
export function whyNoTmpfs(scratch: string): string | null {
  return whyNot(() => new SmallDisk(join(scratch, 'probe'), 1 << 20).remove())
}

/** Why ext4 in a loop device does not work here, or null. */
export function whyNoLoop(scratch: string): string | null {
  return whyNot(() => LoopDisk.make(join(scratch, 'probe'), 16 << 20).remove())
}

function whyNot(attempt: () => void): string | null {
  try {
    attempt()
    return null
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

/** A tmpfs of a few megabytes: a disk that is soon full. */
export class SmallDisk {
  readonly path: string

  constructor(path: string, sizeBytes: number) {
    this.path = path
    mkdirSync(path)
    command('mount', '-t', 'tmpfs', '-o', `size=${sizeBytes}`, 'stratalog-test', path)
  }

  /** Changes how it is mounted: `ro`, `rw`, `nr_inodes=N`. */
  remount(options: string): void {
    command('mount', '-o', `remount,${options}`, this.path)
  }

  remove(): void {
    command('umount', this.path)
    rmSync(this.path, { recursive: true })
  }
}

/** Shows a directory at another place; the returned function ends that. */
export function bindMount(directory: string, place: string): () => void {
  command('mount', '--bind', directory, place)
  return () => void command('umount', place)
}

/** An ext4 in a file: the file holds what reached the device; what is only in the page cache above it is not in it. */
export class LoopDisk {
  readonly path: string
  readonly #image: string
  readonly #device: string

  /** Mounts what is in `<path>.image`. */
  constructor(path: string) {
    this.path = path
    this.#image = `${path}.image`
    mkdirSync(path)
    this.#device = command('losetup', '--find', '--show', this.#image)
    command('mount', '-t', 'ext4', this.#device, path)
  }

  static make(path: string, sizeBytes: number): LoopDisk {
    const image = `${path}.image`
    writeFileSync(image, '')
    truncateSync(image, sizeBytes)
    // Everything is written now: else the kernel goes on making the file system in the background.
    command('mkfs.ext4', '-q', '-E', 'lazy_itable_init=0,lazy_journal_init=0', image)
    return new LoopDisk(path)
  }

  /** The file system as a power cut now would leave it, mounted at `path`; the caller removes it. */
  powerCut(path: string): LoopDisk {
    for (let copies = 1; ; copies += 1) {
      const before = this.#writes()
      command('cp', '--sparse=always', this.#image, `${path}.image`)
      // A copy takes a while: it is a moment of the device only if nothing was written to that meanwhile.
      if (this.#writes() === before) return new LoopDisk(path)
      if (copies === COPIES_MAX) throw new Error(`${this.#image} was written to during ${COPIES_MAX} copies`)
    }
  }

  /** Writes that the device has completed and the sectors of them. */
  #writes(): string {
    const stat = readFileSync(`/sys/block/${basename(this.#device)}/stat`, 'utf8')
    const [, , , , writes, , sectors] = stat.trim().split(/\s+/)
    return `${writes} ${sectors}`
  }

  remove(): void {
    command('umount', this.path)
    command('losetup', '--detach', this.#device)
    rmSync(this.path, { recursive: true })
    rmSync(this.#image)
  }
}
