import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { assert } from '../model/assert.js'

/** Directory of this package: the nearest one upwards with a package.json. */
export function packageRoot(): string {
  let directory = import.meta.dirname
  while (!existsSync(join(directory, 'package.json'))) {
    assert(dirname(directory) !== directory, 'the package has no package.json')
    directory = dirname(directory)
  }
  return directory
}

/** Version of this package. */
export function packageVersion(): string {
  const { version } = JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as {
    version?: unknown
  }
  return String(version)
}
