import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { archiveLocation } from '../../src/open/archive-location.js'

describe('archiveLocation', () => {
  test('spellings of one place are one location: bindings, moves and marks know it by that', () => {
    const same = (...spellings: string[]) =>
      assert.deepEqual([...new Set(spellings.map((one) => archiveLocation(one, '/logs')))], [spellings[0]])
    same('/logs/a', './a', 'a/', 'a//', '../logs/a', '/logs/./a/')
    same('s3://bucket/prefix', 's3://bucket/prefix/', 's3://bucket//prefix//')
    same('s3://bucket', 's3://bucket/')
    same('hdfs://nn:9870/p/q', 'hdfs://NN:9870/p/q/', 'hdfs://nn:9870//p//q')
    same('hdfs://nn1:9870,nn2:9870/p', 'hdfs://NN1:9870,nn2:9870/p/')
  })

  test('what differs stays two, and what is no address is left for whoever refuses it', () => {
    const as = (value: string) => assert.equal(archiveLocation(value, '/logs'), value)
    as('s3://Bucket/Prefix')
    as('hdfs://nn:9870/Path')
    as('s3://key:secret@bucket/prefix/')
    as('s3://bucket/prefix/?x')
    as('gcs://Bucket/p/')
    assert.equal(archiveLocation('a:b/', '/logs'), '/logs/a:b')
  })
})
