import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { E } from '../../src/base/errno.js'
import * as sys from '../../src/sys/index.js'
import { file, openFds, scratch } from './sys-scratch.js'
import { failure } from './sys-failure.js'

t.test('an empty directory has no batch', async t => {
  const { dir } = scratch(t)
  t.equal(sys.getdents(dir.n), undefined)
  t.same(sys.listDir(dir.n).names, [])
})

t.test('names, types and inode numbers go together', async t => {
  const { path, dir } = scratch(t)
  file(dir, 'file')
  mkdirSync(`${path}/dir`)
  symlinkSync('x', `${path}/link`)
  sys.mknodat(dir.n, 'fifo', sys.S_IFIFO | 0o600, 0)
  const { names, types, inos } = sys.listDir(dir.n)
  const byName = new Map(names.map((name, i) => [name, { type: types[i], ino: inos[i] }]))
  t.equal(byName.size, 4)
  t.equal(byName.get('file')?.type, sys.DT_REG)
  t.equal(byName.get('dir')?.type, sys.DT_DIR)
  t.equal(byName.get('link')?.type, sys.DT_LNK)
  t.equal(byName.get('fifo')?.type, sys.DT_FIFO)
  for (const [name, entry] of byName) t.equal(entry.ino, sys.statAt(dir.n, name)?.ino)
  t.same(sys.listDir(dir.n).names, names, 'listDir starts from the beginning again')
})

t.test('a batch is a copy: the next one does not change it', async t => {
  const { path, dir } = scratch(t)
  writeFileSync(`${path}/a`, '')
  const first = sys.listDir(dir.n)
  const { types, inos } = { types: [...first.types], inos: [...first.inos] }
  mkdirSync(`${path}/b`)
  sys.listDir(dir.n)
  t.same([...first.types], types)
  t.same([...first.inos], inos)
})

t.test('20,000 long names come once each, over many calls of getdents', async t => {
  const { dir } = scratch(t)
  const expected = new Set<string>()
  for (let i = 0; i < 20_000; i++) {
    const name = `${i}-`.padEnd(60 + (i % 100), '\xe9')
    expected.add(name)
    sys.mknodat(dir.n, name, sys.S_IFREG | 0o600, 0)
  }
  let batches = 0
  const seen = new Set<string>()
  let entries = 0
  for (let batch = sys.getdents(dir.n); batch !== undefined; batch = sys.getdents(dir.n)) {
    batches++
    t.equal(batch.names.length, batch.types.length)
    for (const name of batch.names) seen.add(name)
    entries += batch.names.length
  }
  t.ok(batches > 3)
  t.equal(entries, 20_000)
  t.same(seen, expected)
  t.equal(sys.listDir(dir.n).names.length, 20_000)
  t.equal(sys.listDir(dir.n).inos.length, 20_000)
})

t.test('what is no directory is refused', async t => {
  const { dir } = scratch(t)
  file(dir, 'f')
  const before = openFds()
  {
    using fd = sys.openat(dir.n, 'f', sys.O_RDONLY)
    t.match(
      failure(() => sys.getdents(fd.n)),
      { errno: E.ENOTDIR, syscall: 'getdents64' },
    )
    using opath = sys.openat(dir.n, '.', sys.O_PATH)
    t.match(
      failure(() => sys.getdents(opath.n)),
      { errno: E.EBADF },
    )
  }
  t.equal(openFds(), before)
})

t.test('whether a name begins so', async t => {
  const { path, dir } = scratch(t)
  const before = openFds()
  t.equal(sys.hasPrefix(dir.n, '.wh.'), false, 'empty')
  for (let i = 0; i < 3000; i++) writeFileSync(`${path}/some-longer-name-${i}`, '')
  t.equal(sys.hasPrefix(dir.n, '.wh.'), false)
  writeFileSync(`${path}/.wh.gone`, '')
  t.equal(sys.hasPrefix(dir.n, '.wh.'), true)
  for (let i = 3000; i < 5000; i++) writeFileSync(`${path}/some-longer-name-${i}`, '')
  t.not(sys.hasPrefix(dir.n, 'nothing'), false, 'too many to tell')
  t.equal(sys.hasPrefix(9999, '.wh.'), undefined, 'cannot be read')
  t.equal(openFds(), before)
})
