import { segmentIndexContract } from '../contract/segment-index.js'
import { World } from './helpers.js'

segmentIndexContract("DistributedLog's tree", async () => {
  const world = new World()
  await world.bind()
  let process = await world.process()
  return {
    subject: process.index,
    async reopen() {
      await process.stop()
      process = await world.process({}, process.file)
      return process.index
    },
    cleanup: () => world.remove(),
  }
})
