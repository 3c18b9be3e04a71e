/** Imported for its effect: what the example does happens in a temporary directory, which is removed at the end. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import process from 'node:process'

const home = process.cwd()
const directory = mkdtempSync(join(tmpdir(), 'stratalog-example-'))
process.chdir(directory)
process.on('exit', () => {
  process.chdir(home)
  rmSync(directory, { recursive: true, force: true })
})
