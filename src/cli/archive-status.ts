import type { ColdScrubDto } from '../model/control-archive.js'
import { formatCount, printable } from './render.js'

/** Alarms that `tier status` names. */
const SHOWN_MAX = 5

/** `         cold 41 % of pass, mended 2, alarms 0`, and what nobody but an operator can mend. */
export function coldScrubLines(scrub: ColdScrubDto | null): string[] {
  if (scrub === null) return []
  const pass = scrub.percent === null ? 'not begun yet' : `${scrub.percent} % of pass`
  const lines = [
    `         cold ${pass}, mended ${formatCount(scrub.repaired)}, alarms ${formatCount(scrub.alarms.length)}`,
  ]
  for (const { stream, segment, problem, why } of scrub.alarms.slice(0, SHOWN_MAX)) {
    lines.push(`         ${problem}: ${printable(stream)} seg ${segment}  ${printable(why)}`)
  }
  const left = scrub.alarms.length - SHOWN_MAX
  if (left > 0)
    lines.push(`         and ${formatCount(left)} more: "stratalog archive verify --deep" names them`)
  return lines
}
