import { hdfsArchive } from '../../../archive/hdfs/engine.js'
import { archiveContract } from '../../contract/archive-store.js'
import { networkContext } from '../engines/network-context.js'
import { FakeHdfs } from './fake-hdfs.js'

archiveContract(
  async () => {
    const fake = await FakeHdfs.start()
    fake.gateway = true
    const engine = hdfsArchive(`hdfs://${fake.host}/archive`, { gateway: true, user: 'tester' })
    const store = await engine.open(networkContext())
    return { store, cleanup: () => fake.close() }
  },
  'HDFS behind an HttpFS gateway, as its answers go',
  { names: 120 },
)
