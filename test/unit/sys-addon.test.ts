import { closeSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { addon } from '../../src/sys/addon.js'
import * as sys from '../../src/sys/index.js'
import { openFds, scratch } from './sys-scratch.js'

t.test('the constants are those that the addon was compiled with', async t => {
  const compiled = Object.entries(addon.constants())
  t.ok(compiled.length > 150)
  for (const [name, value] of compiled) {
    const ours = (sys as Record<string, unknown>)[name]
    t.type(ours, 'number', name)
    t.equal(Number(ours) >>> 0, value >>> 0, name)
  }
})

t.test('the ABI tells the size of every struct and the place of every field', async t => {
  const layouts = sys.abi()
  t.same(layouts['fuse_in_header'], {
    size: 40,
    fields: {
      len: [0, 4],
      opcode: [4, 4],
      unique: [8, 8],
      nodeid: [16, 8],
      uid: [24, 4],
      gid: [28, 4],
      pid: [32, 4],
      total_extlen: [36, 2],
      padding: [38, 2],
    },
  })
  for (const [name, { size, fields }] of Object.entries(layouts)) {
    let end = 0
    for (const [offset, length] of Object.values(fields)) {
      t.ok(offset >= end, name)
      end = offset + length
    }
    t.equal(end, size, `${name} has no hole at its end`)
  }
})

/** Values that no syscall takes for a number, a name, a buffer or a list. */
const garbage: unknown[] = [
  undefined,
  null,
  {},
  [],
  Symbol('x'),
  1n,
  NaN,
  Infinity,
  1.5,
  2 ** 60,
  -(2 ** 60),
  '',
  'a\0b',
  '\u012f',
  '\ud83d',
  'x'.repeat(100_000),
  () => 0,
  Buffer.alloc(0),
  new Float64Array(1),
  new Proxy({}, {}),
]

/** Functions that act on the process or block, whatever they are given; their arguments are checked by the same code. */
const left = new Set([
  'umask',
  'setrlimit',
  'becomeCreator',
  'close',
  'features',
  'unshare',
  'setns',
  'fchdir',
  'flock',
  'stopJobs',
  'exitNow',
  'pidfdSelf',
  'signalsOfOthers',
  'watchOpen', // what it opens stays as long as the environment
])

/** Functions that open something whatever they are given. */
const opening = new Set(['pipe', 'memoryFile', 'sealedCopy'])

function closeOpened(fd: unknown): void {
  if (typeof fd === 'number' && fd > 2) closeSync(fd)
}

t.test('garbage in any place is a TypeError or an errno, never a crash', async t => {
  const before = openFds()
  const jobs: unknown[] = []
  let calls = 0
  for (const [name, value] of Object.entries(addon)) {
    if (typeof value !== 'function' || left.has(name)) continue
    if (/^[A-Z]/.test(name)) continue // classes have tests of their own
    const call = value as (...args: unknown[]) => unknown
    const attempt = (args: unknown[]) => {
      calls++
      try {
        const result = call(...args)
        if (result instanceof Promise) jobs.push(result)
        else if (opening.has(name)) for (const fd of [result].flat()) closeOpened(fd)
      } catch (error) {
        if (!(error instanceof TypeError)) t.fail(`${name}: ${String(error)}`)
      }
    }
    for (const bad of garbage) {
      for (let at = 0; at < 6; at++) {
        // A closed descriptor everywhere else: nothing real is touched.
        const numbers: unknown[] = [9999, 9999, 9999, 9999, 9999, 9999]
        const names: unknown[] = [9999, 'n', 9999, 'n', 0, 0]
        numbers[at] = bad
        names[at] = bad
        attempt(numbers)
        attempt(names)
      }
      attempt([bad, bad, bad, bad, bad, bad, bad, bad, bad, bad])
    }
    attempt([])
  }
  await Promise.all(jobs)
  t.ok(calls > 5000)
  t.equal(openFds(), before)
})

t.test('a char above 0xff is refused, and not cut to a byte', async t => {
  const { dir } = scratch(t)
  // U+012F cut to its low byte would be a slash.
  t.throws(() => sys.mkdirat(dir.n, 'a\u012fb', 0o755), TypeError)
  t.throws(() => sys.symlinkat('\u65e5', dir.n, 'x'), TypeError)
  t.throws(() => sys.statAt(dir.n, 'a\0b'), TypeError)
  t.throws(() => sys.statAt(NaN, 'a'), TypeError)
  t.same(sys.listDir(dir.n).names, [])
})

const index = JSON.stringify(new URL('../../src/sys/index.js', import.meta.url).href)

function startWorker(script: string): Worker {
  return new Worker(
    `const { parentPort, workerData } = require('node:worker_threads')
     import(${index}).then(async sys => { ${script} }).catch(error => parentPort.postMessage(String(error)))`,
    { eval: true },
  )
}

function firstMessage(worker: Worker): Promise<unknown> {
  return new Promise((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
}

t.test('every worker thread has an addon of its own', async t => {
  const { path, dir } = scratch(t)
  const before = openFds()
  const workers = Array.from({ length: 4 }, (_, i) =>
    startWorker(`
      const dir = sys.openat(sys.AT_FDCWD, ${JSON.stringify(path)}, sys.O_RDONLY | sys.O_DIRECTORY)
      for (let n = 0; n < 500; n++) {
        sys.mkdirat(dir.n, 'w${i}-' + n, 0o755)
        const stat = sys.statAt(dir.n, 'w${i}-' + n)
        if (stat === undefined || stat.nlink < 1) throw new Error('wrong stat')
      }
      await sys.fsync(dir.n)
      const count = sys.listDir(dir.n).names.filter(name => name.startsWith('w${i}-')).length
      dir.close()
      parentPort.postMessage(count)
    `),
  )
  t.same(await Promise.all(workers.map(firstMessage)), [500, 500, 500, 500])
  await Promise.all(workers.map(worker => worker.terminate()))
  t.equal(sys.listDir(dir.n).names.length, 2000)
  t.ok(openFds() <= before + 8, 'no descriptor of the workers is left')
})

t.test('a worker that ends with jobs pending takes nobody along', async t => {
  const { path, dir } = scratch(t)
  {
    using src = sys.openat(dir.n, 'src', sys.O_CREAT | sys.O_RDWR, 0o600)
    await sys.fallocate(src.n, 0, 0, 512 * 1024 * 1024)
    // Unwritten extents are holes to SEEK_DATA; some real data makes the copy take a while.
    const block = Buffer.alloc(1024 * 1024, 'x')
    for (let at = 0; at < 128; at++) sys.pwriteSync(src.n, block, 0, block.length, at * block.length)
  }
  for (let i = 0; i < 5; i++) {
    const worker = startWorker(`
      const dir = sys.openat(sys.AT_FDCWD, ${JSON.stringify(path)}, sys.O_RDONLY | sys.O_DIRECTORY)
      const src = sys.openat(dir.n, 'src', sys.O_RDONLY)
      for (let n = 0; n < 8; n++) {
        const dst = sys.openat(dir.n, 'dst' + n, sys.O_CREAT | sys.O_RDWR | sys.O_TRUNC, 0o600)
        sys.copyData(src.n, dst.n, 128 * 1024 * 1024, { reflink: false }).catch(() => undefined)
        sys.fsync(dst.n).catch(() => undefined)
      }
      parentPort.postMessage('started')
    `)
    t.equal(await firstMessage(worker), 'started')
    await worker.terminate()
  }
  t.equal((await sys.fsync(dir.n)) ?? 'still alive', 'still alive')
})
