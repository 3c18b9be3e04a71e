import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as stratalog from 'stratalog'
import * as archive from 'stratalog/archive'
import * as testing from 'stratalog/testing'

// Public names are a promise: taking one away is a new major version.
test('stratalog exports what it promises', () => {
  assert.deepEqual(Object.keys(stratalog).sort(), [
    'Dlsn',
    'ERROR_CODES',
    'PAYLOAD_BYTES_MAX',
    'StratalogError',
    'bytes',
    'isStratalogError',
    'json',
    'openArchive',
    'openLog',
    'parsePosition',
    'planRestore',
    'restoreArchive',
    'text',
  ])
})

test('stratalog/testing has a suite for each port of an engine', () => {
  const suites = Object.entries(testing).filter(([, value]) => typeof value === 'function')
  assert.deepEqual(suites.map(([name]) => name).sort(), [
    'archiveContract',
    'coordinationContract',
    'ledgerMetadataContract',
    'segmentIndexContract',
    'segmentStoreContract',
  ])
})

test('an error of one entry point is an error of the other', () => {
  assert.equal(archive.StratalogError, stratalog.StratalogError)
})
