import { segmentStoreContract } from '../contract/segment-store.js'
import { openStore, TempDirectories } from '../helpers/store.js'

for (const fileBytes of [2 << 20, 8 << 20]) {
  segmentStoreContract(`local, files of ${fileBytes} bytes`, async () => {
    const temporary = new TempDirectories()
    const directory = await temporary.make()
    let store = await openStore(directory, { fileBytes, idleMarkMs: 20 })
    return {
      store,
      reopen: async () => {
        await store.close()
        store = await openStore(directory, { fileBytes, idleMarkMs: 20 })
        return store
      },
      cleanup: async () => {
        await store.close()
        await temporary.removeAll()
      },
    }
  })
}
