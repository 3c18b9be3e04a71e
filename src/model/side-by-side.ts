/**
 * Does `work` for each item, at most `atOnce` of them at a time; the results are in the order of the items. After a
 * failure nothing further is begun; it rejects with the first one once what had begun is over, so nothing goes on
 * behind the back of who asked.
 */
export async function sideBySide<Item, Result>(
  items: readonly Item[],
  atOnce: number,
  work: (item: Item) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = []
  const waiting = items.entries()
  let failure: { readonly error: unknown } | null = null
  const takeTurns = async (): Promise<void> => {
    for (const [at, item] of waiting) {
      try {
        results[at] = await work(item)
      } catch (error) {
        failure ??= { error }
      }
      if (failure !== null) return
    }
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, takeTurns))
  if (failure !== null) throw (failure as { readonly error: unknown }).error
  return results
}
