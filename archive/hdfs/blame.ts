import type { Logger } from '../../src/ports/logger.js'
import { type UnderDeadline, withDeadline } from '../engine/deadline.js'
import type { BlockHolder, DataNodes } from './datanodes.js'
import type { RedirectRule } from './hosts.js'
import { type Answered, type Cluster, jsonAnswer, type NameNodes } from './namenodes.js'

/** A DataNode that says nothing to a question for so long is not answering. */
const ANSWER_MS = 2_000
/** The list of live nodes that a NameNode shows; some thousand of them are a few megabytes. */
const LIVE_NODES = '/jmx?qry=Hadoop:service=NameNode,name=NameNodeInfo'

/** What finding somebody to blame takes. */
export interface BlameParts {
  readonly cluster: Cluster
  readonly namenodes: NameNodes
  readonly redirects: RedirectRule
  readonly logger: Logger
  readonly datanodes: DataNodes
}

interface Located {
  readonly LocatedBlocks?: {
    readonly locatedBlocks?: readonly Block[]
    /** The one that is being written. */
    readonly lastLocatedBlock?: Block | null
  }
}

interface Block {
  readonly locations?: readonly BlockHolder[]
}

/**
 * Which DataNode to leave out after a transfer failed. The one that was asked may be innocent: it passes a write on to
 * those who keep the other copies, and waits a minute for one of them that stands still. So all of them are asked a word,
 * and whoever says nothing is left out; only where all of them answer it is the one that was asked.
 */
export class Blame {
  readonly #parts: BlameParts

  constructor(parts: BlameParts) {
    this.#parts = parts
  }

  /** A transfer of the file at `path` failed at `url`. Never fails, unless the caller gave up. */
  async after(url: URL, path: string, signal: AbortSignal | undefined): Promise<void> {
    const { logger, cluster, datanodes } = this.#parts
    let silent: readonly URL[] = []
    try {
      silent = await this.#silent(path, signal)
      if (silent.length === 0 && !datanodes.knows(url)) await this.#learnLive(signal)
    } catch (error) {
      signal?.throwIfAborted()
      // Not knowing whom to leave out is no reason to fail: the next try may be sent to another one by chance.
      logger.debug({ error, location: cluster.place.location }, 'the ports of the DataNodes are not told')
    }
    for (const node of silent.length === 0 ? [url] : silent) {
      const left = datanodes.suspect(node)
      logger.warn({ node: node.host, left }, 'a DataNode failed and is left out for a while')
    }
  }

  /** Holders of the file's blocks, the one under way included, that do not answer. */
  async #silent(path: string, signal: AbortSignal | undefined): Promise<URL[]> {
    const operation = { method: 'GET', op: 'GET_BLOCK_LOCATIONS', path } as const
    const { namenodes, datanodes } = this.#parts
    const answer = await namenodes.once('asking where blocks are', signal, (node, under) =>
      namenodes.askOne(node, operation, under),
    )
    const { locatedBlocks = [], lastLocatedBlock } = jsonAnswer<Located>(answer).LocatedBlocks ?? {}
    const holders = [...locatedBlocks, lastLocatedBlock ?? {}].flatMap(({ locations }) => locations ?? [])
    for (const holder of holders) datanodes.learnHolder(holder)
    const urls = new Map(
      holders.map((holder) => [`${holder.ipAddr}:${holder.xferPort}`, this.#webOf(holder)]),
    )
    const asked = await Promise.all(
      [...urls.values()].map(async (url) => ((await this.#answers(url, answer, signal)) ? [] : [url])),
    )
    return asked.flat()
  }

  #webOf({ ipAddr, infoPort, infoSecurePort }: BlockHolder): URL {
    const { https } = this.#parts.cluster.place
    const host = ipAddr.includes(':') ? `[${ipAddr}]` : ipAddr
    return new URL(`${https ? 'https' : 'http'}://${host}:${https ? infoSecurePort : infoPort}/webhdfs/v1/`)
  }

  /** Whether it says anything at all: what it thinks of the question does not matter. */
  async #answers(url: URL, told: Answered, signal: AbortSignal | undefined): Promise<boolean> {
    const { cluster, redirects } = this.#parts
    const { clock, http, place } = cluster
    // Whoever may not be sent data is not asked either.
    redirects.check(url.href, told.peer, told.url)
    const totalMs = Math.min(ANSWER_MS, place.settings.readTimeoutMs ?? ANSWER_MS)
    const deadline = { doing: `${url.host}: asking whether it is there`, totalMs }
    const ask = (under: UnderDeadline) => http.ask({ method: 'GET', url, keep: false }, under)
    try {
      await withDeadline(clock, deadline, [signal, cluster.signal], ask)
      return true
    } catch {
      signal?.throwIfAborted()
      cluster.signal.throwIfAborted()
      return false
    }
  }

  /** Which web address belongs to which transfer address, of every live node. */
  async #learnLive(signal: AbortSignal | undefined): Promise<void> {
    const { namenodes, datanodes } = this.#parts
    const info = await namenodes.figures(LIVE_NODES, signal)
    const live = typeof info?.LiveNodes === 'string' ? JSON.parse(info.LiveNodes) : {}
    for (const [name, node] of Object.entries(live as Record<string, object>)) {
      datanodes.learnLive(name, node)
    }
  }
}
