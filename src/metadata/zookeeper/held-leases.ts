import type { ZooKeeper } from '../../zookeeper/client.js'

/** Leases that are looked at side by side. */
const AT_ONCE = 64

/** Which of the leases below a node of `ZkCoordination` are held now, by whom: of those so called, at most `limit`. */
export async function heldLeases(
  zk: ZooKeeper,
  root: string,
  prefix: string,
  limit: number,
): Promise<{ readonly name: string; readonly holder: string }[]> {
  const begin = encodeURIComponent(prefix)
  const names = ((await zk.children(root))?.names ?? []).filter((name) => name.startsWith(begin)).sort()
  const held: { name: string; holder: string }[] = []
  const look = async (name: string): Promise<void> => {
    const members = (await zk.children(`${root}/${name}`))?.names ?? []
    // The number at the end says who came first.
    const [first] = [...members].sort((a, b) => Number(a.slice(-10)) - Number(b.slice(-10)))
    const node = first === undefined ? null : await zk.get(`${root}/${name}/${first}`)
    if (node !== null)
      held.push({ name: decodeURIComponent(name), holder: Buffer.from(node.data).toString('utf8') })
  }
  for (let at = 0; at < Math.min(names.length, limit); at += AT_ONCE)
    await Promise.all(names.slice(at, Math.min(at + AT_ONCE, limit)).map(look))
  return held
}
