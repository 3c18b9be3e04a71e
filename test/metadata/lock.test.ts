import assert from 'node:assert/strict'
import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, test } from 'node:test'
import { lockDirectory } from '../../src/metadata/sqlite/lock.js'
import { isStratalogError } from '../../src/model/errors.js'
import { temporaryDirectory } from './helpers.js'

const about = { pid: process.pid, command: 'test' }
const inUse = (pid?: number) => (error: unknown) =>
  isStratalogError(error, 'directory_in_use') &&
  (pid === undefined || error.message.includes(`process ${pid}`))

describe('the lock of a directory', () => {
  let directory: string
  let remove: () => void
  const children: ChildProcess[] = []
  beforeEach(() => {
    const made = temporaryDirectory()
    directory = made.directory
    remove = made.remove
  })
  afterEach(() => {
    for (const child of children.splice(0)) child.kill('SIGKILL')
    remove()
  })

  test('a second one in the process is refused until the first is released', () => {
    const lock = lockDirectory(directory, about)
    assert.equal(lock.describeError, null)
    assert.deepEqual(JSON.parse(readFileSync(join(directory, 'lock.json'), 'utf8')), about)
    assert.throws(() => lockDirectory(directory, about), inUse(process.pid))
    // The refused one must not have freed it: closing a descriptor drops the locks of a process on the file.
    assert.throws(() => lockDirectory(directory, about), inUse(process.pid))
    lock.release()
    lock.release()
    assert.equal(existsSync(join(directory, 'lock.json')), false)
    lockDirectory(directory, about).release()
  })

  test('another path to the directory is the same directory', () => {
    const link = `${directory}-link`
    symlinkSync(directory, link)
    const lock = lockDirectory(directory, about)
    assert.throws(() => lockDirectory(link, about), inUse())
    lock.release()
    rmSync(link)
  })

  test('a damaged lock.db may be removed, and the message says so', () => {
    const file = join(directory, 'lock.db')
    writeFileSync(file, 'this is no database'.repeat(100))
    assert.throws(
      () => lockDirectory(directory, about),
      (error) => isStratalogError(error, 'corrupt') && error.message.includes('remove lock.db while no'),
    )
    rmSync(file)
    lockDirectory(directory, about).release()
  })

  test('the message names the holder and says what works beside it', () => {
    const lock = lockDirectory(directory, about)
    assert.throws(
      () => lockDirectory(directory, about),
      (error) =>
        isStratalogError(error) &&
        error.message.includes(directory) &&
        error.message.includes('control socket') &&
        error.found === process.pid,
    )
    lock.release()
  })

  test('without a readable note the lock holds all the same', () => {
    const lock = lockDirectory(directory, about)
    for (const text of ['', 'no json', '{"pid":"x"}', 'null', '[]']) {
      writeFileSync(join(directory, 'lock.json'), text)
      assert.throws(() => lockDirectory(directory, about), inUse())
    }
    lock.release()
    mkdirSync(join(directory, 'lock.json.tmp'))
    const unnoted = lockDirectory(directory, about)
    assert.ok(isStratalogError(unnoted.describeError))
    assert.throws(() => lockDirectory(directory, about), inUse())
    unnoted.release()
  })

  test('a directory that is not there, or is a file, is file_not_found', () => {
    const isMissing = (error: unknown) => isStratalogError(error, 'file_not_found')
    assert.throws(() => lockDirectory(join(directory, 'nope'), about), isMissing)
    writeFileSync(join(directory, 'plain'), '')
    assert.throws(() => lockDirectory(join(directory, 'plain'), about), isMissing)
  })

  test('another process is named while it holds the lock, and killing it frees the lock at once', async () => {
    const module = new URL('../../src/metadata/sqlite/lock.js', import.meta.url).href
    const script = `
      const { lockDirectory } = await import(${JSON.stringify(module)})
      lockDirectory(${JSON.stringify(directory)}, { pid: process.pid })
      process.stdout.write('held')
      setInterval(() => undefined, 1000)`
    const hold = async (): Promise<ChildProcess> => {
      const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      children.push(child)
      const [said] = await once(child.stdout, 'data')
      assert.equal(String(said), 'held')
      return child
    }
    const first = await hold()
    assert.throws(() => lockDirectory(directory, about), inUse(first.pid))
    first.kill('SIGKILL')
    await once(first, 'exit')
    // The note of the dead holder is still there and means nothing.
    assert.ok(existsSync(join(directory, 'lock.json')))
    const mine = lockDirectory(directory, about)
    assert.deepEqual(JSON.parse(readFileSync(join(directory, 'lock.json'), 'utf8')), about)
    mine.release()
    const second = await hold()
    assert.throws(() => lockDirectory(directory, about), inUse(second.pid))
  })
})
