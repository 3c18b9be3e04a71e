import { realClock } from '../../src/system/clock.js'
import { segmentStoreContract } from '../contract/segment-store.js'
import { MemoryReplica, MemoryStore } from '../helpers/memory-store.js'

segmentStoreContract('memory (test helper)', async () => {
  const replica = new MemoryReplica()
  let store = new MemoryStore('memory-a', realClock(), replica)
  return {
    store,
    async reopen() {
      await store.close()
      store = new MemoryStore('memory-a', realClock(), replica)
      return store
    },
    async cleanup() {
      await store.close()
    },
  }
})
