// Writes config/stratalog.schema.json from src/config/schema.ts. Build first.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import process from 'node:process'
import { pathToFileURL } from 'node:url'

const root = join(import.meta.dirname, '..')
const built = process.argv[2] ?? join(root, 'dist')
const { schemaText } = await import(pathToFileURL(join(built, 'src/config/schema.js')).href)
writeFileSync(join(root, 'config/stratalog.schema.json'), schemaText())
