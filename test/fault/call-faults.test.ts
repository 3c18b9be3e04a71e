import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bytesAsked } from '../helpers/call-faults.js'

/*
 * libuv goes on behind what it was told to be written. A made-up count above what was asked for sends it behind its
 * own buffers: the process dies of a fault that no system has.
 */

test('what a write asked for is read from the line that strace writes', () => {
  const line = '12 pwrite64(31</a/.tmp/x>, "S, 9, 12) = 5\\0\\0"..., 87, 519) = 260 (INJECTED)'
  assert.equal(bytesAsked({ name: 'pwrite64', line }), 87)
  const some =
    'pwritev(31</a>, [{iov_base="x"..., iov_len=10}, {iov_base="y", iov_len=1}], 2, 0) = 11 (INJECTED)'
  assert.equal(bytesAsked({ name: 'pwritev', line: some }), 11)
  assert.equal(bytesAsked({ name: 'pwritev', line: some.replaceAll('1', '2') }), 22)
})

test('of other calls any result may be', () => {
  const line = 'openat(AT_FDCWD</>, "/a/b", O_RDONLY) = 31</a/b>'
  assert.equal(bytesAsked({ name: 'openat', line }), Number.POSITIVE_INFINITY)
})
