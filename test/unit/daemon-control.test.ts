import fs from 'node:fs'
import { connect } from 'node:net'
import path from 'node:path'
import t, { type Test } from 'tap'
import { E } from '../../src/base/errno.js'
import { SysError } from '../../src/base/sys-error.js'
import { ask } from '../../src/daemon/control-client.js'
import * as sys from '../../src/sys/index.js'
import { serveControl, type Controlled } from '../../src/daemon/control-server.js'
import { mountAt, parseMountinfo } from '../../src/daemon/mountinfo.js'
import {
  isAlive,
  pidNamespace,
  readRecords,
  runDirectory,
  startTimeOf,
  writeRecord,
  type MountRecord,
} from '../../src/daemon/run-dir.js'

/** A socket's path has 107 bytes at most, so tap's own test directories will not do. */
function shortDirectory(t: Test): string {
  const directory = fs.mkdtempSync('/tmp/lamina-unit-')
  t.teardown(() => fs.rmSync(directory, { recursive: true, force: true }))
  return directory
}

function record(changes: Partial<MountRecord> = {}): MountRecord {
  return {
    id: `${process.pid}`,
    pid: process.pid,
    pidNamespace: pidNamespace(),
    startTime: startTimeOf(process.pid) ?? 0,
    mountpoint: '/m\xff',
    device: '0:99',
    source: 'lamina',
    subtype: 'lamina',
    lower: ['/l'],
    dataOnly: [],
    readOnly: true,
    io: 'cached',
    since: '2026-01-01T00:00:00.000Z',
    ...changes,
  }
}

function controlled(changes: Partial<Controlled> = {}): Controlled {
  return {
    info: () => record(),
    stats: () => {
      throw new Error('no figures')
    },
    restart: () => {
      throw new Error('no keeper')
    },
    yield: () => Promise.resolve({}),
    umount: () => Promise.reject(new SysError(E.EBUSY, 'umount2', '/m')),
    ...changes,
  }
}

t.test('requests are answered in order, errors keep their errno', async t => {
  const directory = shortDirectory(t)
  const server = serveControl(sys.listenAt(path.join(directory, '1.sock')), controlled())
  const found = { directory, record: record({ id: '1' }) }
  t.strictSame(await ask(found, { cmd: 'info' }), record())
  await t.rejects(ask(found, { cmd: 'stats' }), { message: 'no figures' })
  await t.rejects(ask(found, { cmd: 'umount', how: 'plain' }), { message: /resource busy/, code: 'EBUSY' })
  server.close()
})

t.test('a daemon that says nothing, ends or is not there is not waited for without end', async t => {
  const directory = shortDirectory(t)
  let release = (): void => undefined
  const stuck = controlled({ umount: () => new Promise(resolve => (release = resolve)) })
  const server = serveControl(sys.listenAt(path.join(directory, '1.sock')), stuck)
  const found = { directory, record: record({ id: '1' }) }
  await t.rejects(ask(found, { cmd: 'umount', how: 'plain' }, 50), /no answer/)
  release()
  server.close()
  await t.rejects(ask({ directory, record: record({ id: '2' }) }, { cmd: 'info' }), /does not answer/)
})

t.test('more than a short line is cut off', async t => {
  const directory = shortDirectory(t)
  const server = serveControl(sys.listenAt(path.join(directory, '1.sock')), controlled())
  const socket = connect(path.join(directory, '1.sock'))
  socket.on('error', () => undefined)
  socket.write('{"cmd":"info"'.padEnd(10_000))
  await new Promise(resolve => socket.on('close', resolve))
  t.equal(socket.bytesRead, 0)
  server.close()
})

t.test('records are kept in a directory of the user alone, and swept when their process is gone', async t => {
  const directory = path.join(shortDirectory(t), 'run')
  const before = process.env['LAMINA_RUN']
  process.env['LAMINA_RUN'] = directory
  t.teardown(() => {
    if (before === undefined) delete process.env['LAMINA_RUN']
    else process.env['LAMINA_RUN'] = before
  })
  t.strictSame(readRecords(), [])
  t.equal(runDirectory(), directory)
  t.equal(fs.statSync(directory).mode & 0o777, 0o700)
  writeRecord(directory, record())
  writeRecord(directory, record({ id: '77', pid: 77, startTime: 1 }))
  writeRecord(directory, record({ id: 'reused', startTime: 1 }))
  fs.writeFileSync(path.join(directory, 'torn.json'), '{"pid"')
  t.strictSame(
    readRecords().map(found => found.record),
    [record()],
  )
  t.strictSame(fs.readdirSync(directory).sort(), [`${process.pid}.json`, 'torn.json'])
  fs.chmodSync(directory, 0o777)
  t.strictSame(readRecords(), [], 'others could have written there')
  t.throws(() => {
    fs.rmSync(directory, { recursive: true })
    fs.writeFileSync(directory, '')
    runDirectory()
  }, /LAMINA_RUN/)
  process.env['LAMINA_RUN'] = `/tmp/${'x'.repeat(100)}`
  t.throws(runDirectory, /too long for a socket/)
})

t.test('a process is known by its pid and its start', async t => {
  t.ok(isAlive({ pid: process.pid, startTime: startTimeOf(process.pid) ?? 0 }))
  t.notOk(isAlive({ pid: process.pid, startTime: 1 }))
  t.equal(startTimeOf(2 ** 22 + 1), undefined)
})

t.test('mountinfo is read with its escapes; the last mount on a mountpoint counts', async t => {
  const entries = parseMountinfo(
    [
      '36 35 98:0 / /mnt/a\\040b rw,noatime shared:1 master:2 - ext4 /dev/sda rw,errors=continue',
      '37 36 0:50 / /mnt/a\\040b ro - fuse.lamina la\\054mina rw,user_id=0',
      'nonsense',
      '',
    ].join('\n'),
  )
  t.equal(entries.length, 2)
  t.match(mountAt('/mnt/a b', entries), { device: '0:50', type: 'fuse.lamina', source: 'la,mina' })
  t.equal(mountAt('/mnt', entries), undefined)
})
