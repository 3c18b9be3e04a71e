import { markBytes } from './index-block.js'
import type { LogFile } from './log-file.js'

/** The room that the index block of a file needs if more frames come into it. A ledger may be counted once a frame. */
export class IndexRoom {
  readonly #file: LogFile
  #entries = 0
  #ledgers = 0
  #marksBytes = 0

  constructor(file: LogFile) {
    this.#file = file
  }

  /** Bytes of the block with this frame and those asked for before. */
  with(frame: { readonly kind: string; readonly ledgerId: bigint; readonly body: Uint8Array }): number {
    if (frame.kind === 'entry') this.#entries += 1
    else this.#marksBytes += markBytes(frame)
    if (!this.#file.ledgerIds.has(frame.ledgerId)) this.#ledgers += 1
    return this.#file.indexBytes(this.#entries, this.#ledgers, this.#marksBytes)
  }
}
