// Checks the layers (.dependency-cruiser.cjs). Fails also when it saw too few modules: a checker that reads nothing
// finds nothing.
import { spawnSync } from 'node:child_process'
import process from 'node:process'

const MODULES_MIN = 60
const bin = new URL('../node_modules/dependency-cruiser/bin/dependency-cruise.mjs', import.meta.url)
const args = [
  bin.pathname,
  '--config',
  '.dependency-cruiser.cjs',
  '--output-type',
  'json',
  'src',
  'tiering',
  'archive',
]
const run = spawnSync(process.execPath, args, { encoding: 'utf8', maxBuffer: 256 * 1024 * 1024 })
const { summary } = JSON.parse(run.stdout)
for (const { rule, from, to } of summary.violations)
  process.stderr.write(`${rule.severity} ${rule.name}: ${from} → ${to}\n`)
if (summary.totalCruised < MODULES_MIN)
  process.stderr.write(`only ${summary.totalCruised} modules were seen\n`)
process.stderr.write(`layers: ${summary.totalCruised} modules, ${summary.violations.length} violations\n`)
process.exit(summary.violations.length > 0 || summary.totalCruised < MODULES_MIN ? 1 : 0)
