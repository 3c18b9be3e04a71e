import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { recoverLedger } from '../../src/ledger/recovery.js'
import type { LedgerWriter } from '../../src/ledger/writer.js'
import { present } from '../../src/model/assert.js'
import { isStratalogError } from '../../src/model/errors.js'
import { lastEnsemble } from '../../src/model/ledger.js'
import {
  appendPayloads,
  type ClusterClient,
  createLedger,
  digestOfEntries,
  openCluster,
  readLedger,
} from '../helpers/cluster.js'
import { type JavaClient, startJava } from '../helpers/java.js'
import { type BookieServer, type Bookies, startBookies } from '../servers/bookkeeper.js'
import { skipWithout } from '../servers/cache.js'

const skip = (await skipWithout('bookkeeper')) || (await skipWithout('java-clients'))
const SIZE = 1000
const TOGETHER = 20

/** Invariant 1: what was acknowledged is there, whatever becomes of at most Qa − 1 bookies at a time. */
describe('bookies that die, hang and come back', { skip }, () => {
  let cluster: Bookies | undefined
  let client: JavaClient | undefined
  let opened: ClusterClient | undefined
  const java = (): JavaClient => present(client, 'Java')
  const ours = (): ClusterClient => present(opened, 'our client')
  const bookies = (): readonly BookieServer[] => present(cluster, 'cluster').bookies
  const bookie = (id: string | undefined): BookieServer =>
    present(
      bookies().find((one) => one.id === id),
      `bookie ${id}`,
    )
  before(async () => {
    // Without autorecovery: its workers take over ledgers whose bookies are away, and so from the writers of these tests.
    cluster = await startBookies({ count: 5, sessionMs: 4000 })
    client = await startJava({ zookeeper: cluster.zk.address })
    const settings = { connectTimeoutMs: 2000, addTimeoutMs: 2000, readTimeoutMs: 2000 }
    opened = await openCluster(cluster, { settings })
  })
  after(async () => {
    await opened?.close()
    await client?.close()
    await cluster?.stop()
  })

  const members = async (ledgerId: bigint): Promise<readonly string[]> =>
    lastEnsemble((await ours().context.metadata.read(ledgerId)).metadata).members

  /** Bookies that were killed or hung are there anew, and our client knows it. */
  const restart = async (...ids: readonly (string | undefined)[]): Promise<void> => {
    await present(cluster, 'cluster').restart(ids.map((id) => present(id, 'a bookie')))
    for (let tries = 0; ours().registry.writable().length < bookies().length; tries++) {
      assert.ok(tries < 400, 'our client sees every bookie again')
      await sleep(50)
    }
  }

  /** Java sees by itself, and some time later, that bookies are back. */
  const createdByJava = async (): Promise<{ readonly handle: string; readonly ledger: string }> => {
    for (let tries = 0; ; tries++) {
      try {
        return await java().call('ledger.create', {})
      } catch (error) {
        if (tries >= 60 || !String(error).includes('NotEnoughBookies')) throw error
        await sleep(500)
      }
    }
  }

  /** Appends until it is told to end; how many are acknowledged, which are those from 0 on. */
  const load = (writer: LedgerWriter): { acked(): number; end(): Promise<number> } => {
    let acked = 0
    let ended = false
    const running = (async () => {
      while (!ended) {
        await appendPayloads(writer, BigInt(acked), TOGETHER, SIZE)
        acked += TOGETHER
      }
    })()
    // Its failure is that of `end`.
    running.catch(() => undefined)
    const end = async (): Promise<number> => {
      ended = true
      await running
      return acked
    }
    return { acked: () => acked, end }
  }

  /** Something went on after this moment. */
  const progress = async (what: string, acked: () => number): Promise<void> => {
    const before = acked()
    for (let tries = 0; acked() < before + 3 * TOGETHER; tries++) {
      const said = ours().log.slice(-20).join('\n')
      assert.ok(tries < 400, `${what}: nothing is acknowledged any more after ${before}\n${said}`)
      await sleep(50)
    }
  }

  /** The writer dies without closing: Java finds what it acknowledged, and no less. */
  const recoveredByJava = async (writer: LedgerWriter, count: number): Promise<void> => {
    const { handle } = await java().call('ledger.open', { ledger: String(writer.ledgerId), recover: true })
    const found = await java().call('ledger.read', { handle })
    assert.deepEqual([found.count, found.digest], [count, digestOfEntries(count, SIZE)])
    const { metadata } = await ours().context.metadata.read(writer.ledgerId)
    assert.ok(metadata.ensembles.length >= 2, 'ensembles were changed')
  }

  test('ours writes on while a bookie is killed and another hangs; Java recovers all of it', async () => {
    const writer = await createLedger(ours())
    const { acked, end } = load(writer)
    await progress('all are there', acked)
    const [first, second] = (await members(writer.ledgerId)).map(bookie)
    await first?.kill()
    await progress('one was killed', acked)
    second?.pause()
    await progress('another hangs', acked)
    await restart(first?.id, second?.id)
    await progress('all are back', acked)
    await recoveredByJava(writer, await end())
  })

  test('two hang at once: Qa of three are left only once one of them is replaced', async () => {
    const writer = await createLedger(ours())
    const { acked, end } = load(writer)
    await progress('all are there', acked)
    const [first, second] = (await members(writer.ledgerId)).map(bookie)
    first?.pause()
    second?.pause()
    await progress('two hang', acked)
    await restart(first?.id, second?.id)
    await recoveredByJava(writer, await end())
  })

  test('ours recovers what Java wrote while bookies were killed', async () => {
    const { handle, ledger } = await createdByJava()
    let count = 0
    const add = async (): Promise<void> => {
      await java().call('ledger.add', { handle, first: String(count), count: 100, size: SIZE })
      count += 100
    }
    await add()
    const [first, second] = (await members(BigInt(ledger))).map(bookie)
    await first?.kill()
    await add()
    second?.pause()
    await add()
    const seal = await recoverLedger(ours().context, BigInt(ledger)).catch((error: unknown) => {
      // On a busy machine one more may be slow: with two away nothing is guessed, and it is recovered once one is back.
      if (!isStratalogError(error, 'ledger_recovering')) throw error
      second?.resume()
      return recoverLedger(ours().context, BigInt(ledger))
    })
    assert.equal(seal.lastEntryId, BigInt(count - 1))
    assert.equal((await readLedger(ours(), BigInt(ledger))).digest, digestOfEntries(count, SIZE))
    await restart(first?.id, second?.id)
  })

  test('while ZooKeeper is away what is open is written on, and closed when it is back', async () => {
    const writer = await createLedger(ours())
    await appendPayloads(writer, 0n, 10, SIZE)
    await present(cluster, 'cluster').zk.kill()
    await appendPayloads(writer, 10n, 10, SIZE)
    await present(cluster, 'cluster').zk.restart()
    await writer.close()
    assert.equal((await readLedger(ours(), writer.ledgerId)).digest, digestOfEntries(20, SIZE))
  })
})
