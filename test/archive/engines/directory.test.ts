import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { directoryArchive } from '../../../archive/directory/store.js'
import { realDisk } from '../../../src/system/disk.js'
import { archiveContract } from '../../contract/archive-store.js'
import { archiveContext } from '../../helpers/archive.js'
import { MemoryDisk } from '../../helpers/memory-disk.js'

archiveContract(async () => {
  const path = await mkdtemp(join(tmpdir(), 'stratalog-archive-'))
  const store = await directoryArchive(join(path, 'archive')).open(archiveContext(realDisk()))
  return { store, cleanup: () => rm(path, { recursive: true, force: true }) }
}, 'directory on the real disk')

archiveContract(
  async () => {
    const disk = new MemoryDisk()
    await disk.makeDirectory('/disk')
    return {
      store: await directoryArchive('/disk/archive').open(archiveContext(disk)),
      cleanup: async () => {},
    }
  },
  'directory in memory',
  { names: 1000 },
)
