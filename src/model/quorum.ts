import { assert } from './assert.js'
import { StratalogError } from './errors.js'
import type { Policy } from './policy.js'

/** Most stores a ledger is striped over. */
export const ENSEMBLE_MAX: number = 31

/** How many stores hold a ledger and how many must answer. E ≥ copies (Qw) ≥ min ≥ ack (Qa) ≥ 1. */
export interface Quorum {
  /** E: stores a ledger is striped over. */
  readonly ensemble: number
  /** Qw: copies of each entry. */
  readonly copies: number
  /** Qa: copies that must be durable before an entry is acknowledged. */
  readonly ack: number
  /** minWriteQuorum: with fewer writable stores than `copies` the log goes on down to this many copies. */
  readonly min: number
  /** The isolation group of stores that hold it; absent: any may. */
  readonly group?: string
}

/** Fills and checks a quorum for `stores` stores. Throws `config_invalid`. */
export function quorumOf(
  asked: { ensemble?: number; copies: number; ack: number; min?: number },
  stores: number,
): Quorum {
  const quorum = {
    ensemble: asked.ensemble ?? asked.copies,
    copies: asked.copies,
    ack: asked.ack,
    min: asked.min ?? asked.ack,
  }
  const bad = (why: string) =>
    new StratalogError('config_invalid', `a quorum of ${quorumText(quorum)} does not fit: ${why}`, {
      found: quorum,
    })
  for (const [key, value] of Object.entries(quorum)) {
    if (!Number.isInteger(value) || value < 1) throw bad(`${key} must be a whole number of at least 1`)
  }
  if (quorum.ack > quorum.copies) throw bad('ack must not be above copies')
  if (quorum.copies > quorum.ensemble) throw bad('copies must not be above ensemble')
  if (quorum.min < quorum.ack || quorum.min > quorum.copies) throw bad('min must lie between ack and copies')
  if (quorum.ensemble > ENSEMBLE_MAX) throw bad(`ensemble must be at most ${ENSEMBLE_MAX}`)
  if (quorum.ensemble > stores) {
    throw bad(
      `it needs ${quorum.ensemble} stores and there ${stores === 1 ? 'is' : 'are'} ${stores}: name more under "stores" or lower quorum.copies`,
    )
  }
  return quorum
}

/** `3 copies, 2 to acknowledge`; what follows from those two is left out. */
function quorumText({ ensemble, copies, ack, min }: Quorum): string {
  const spread = ensemble === copies ? '' : ` over ${ensemble} stores`
  const least = min === ack ? '' : `, ${min} at least`
  return `${copies} ${copies === 1 ? 'copy' : 'copies'}${spread}, ${ack} to acknowledge${least}`
}

/** The quorum a policy asks for, checked against the stores there are. Throws `config_invalid`. */
export function policyQuorum(policy: Pick<Policy, 'quorum'>, stores: number): Quorum {
  const { ensemble, copies, ack, min, group = null } = policy.quorum
  const quorum = quorumOf(
    { copies, ack, ...(ensemble === null ? {} : { ensemble }), ...(min === null ? {} : { min }) },
    stores,
  )
  return group === null ? quorum : { ...quorum, group }
}

/** Ensemble indexes that hold entry `entryId`: round-robin striping (FORMATS.md §4.1). */
export function writeSet(entryId: bigint, ensemble: number, copies: number): number[] {
  assert(copies <= ensemble, 'write quorum above ensemble')
  assert(entryId >= 0n, `no store holds entry ${entryId}`)
  const first = Number(entryId % BigInt(ensemble))
  return Array.from({ length: copies }, (_, i) => (first + i) % ensemble)
}
