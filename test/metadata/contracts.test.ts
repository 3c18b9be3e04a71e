import { coordinationContract } from '../contract/coordination.js'
import { ledgerMetadataContract } from '../contract/ledger-metadata.js'
import { segmentIndexContract } from '../contract/segment-index.js'
import { opener } from './helpers.js'

segmentIndexContract(
  'sqlite',
  opener((metadata) => metadata.index),
)
ledgerMetadataContract(
  'sqlite',
  opener((metadata) => metadata.ledgers),
)
coordinationContract(
  'sqlite',
  opener((metadata) => metadata.coordination),
)
