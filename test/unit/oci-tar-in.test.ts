import { execFileSync } from 'node:child_process'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import * as format from '../../src/format/index.js'
import {
  applyLayer,
  applyTar,
  digestOf,
  recordTarSplit,
  replayTarSplit,
  tarTree,
  type ApplyTarOptions,
} from '../../src/oci/index.js'
import * as sys from '../../src/sys/index.js'
import {
  chunked,
  collect,
  header,
  listTree,
  padded,
  pax,
  Place,
  sealed,
  tar,
  type RawEntry,
} from './oci-fixture.js'

const asRoot = process.geteuid?.() === 0
const overlay: ApplyTarOptions = { whiteouts: 'overlay' }

async function unpack(place: Place, data: Buffer, options: ApplyTarOptions = overlay, chunk = 65_536) {
  return applyTar(place.root.n, chunked(data, chunk), options)
}

function content(place: Place, path: string): string {
  using fd = sys.openat(place.root.n, path, sys.O_RDONLY)
  const buffer = Buffer.alloc(sys.statFd(fd.n).size)
  sys.preadSync(fd.n, buffer, 0, buffer.length, 0)
  return buffer.toString('latin1')
}

function stat(place: Place, path: string): sys.Stat {
  const result = sys.statAt(place.root.n, path)
  if (result === undefined) throw new Error(`no ${path}`)
  return result
}

function isOpaque(place: Place, path: string): boolean {
  using fd = sys.openat(place.root.n, path || '.', sys.O_RDONLY | sys.O_DIRECTORY)
  return format.opaquenessFromXattrs(fd.n, '', sys.listxattrAt(fd.n, '')).opaque
}

t.test('entries of every kind arrive with mode, times and content, however the stream is cut', async t => {
  const archive = tar(
    { name: './', type: '5', mode: 0o755 },
    { name: 'd/', type: '5', mode: 0o1750, mtime: 123 },
    { name: 'd/file', data: 'hello', mode: 0o4711, pax: { mtime: '-5.25' } },
    { name: 'd/hard', type: '1', linkName: './d/file', size: 999 },
    { name: 'd/soft', type: '2', linkName: '../../outside', mtime: 77 },
    { name: 'fifo', type: '6', mode: 0o622 },
    { name: 'old-style-dir/', type: '\0', magic: '\0' },
    { name: 'empty' },
  )
  for (const chunk of [1, 7, 511, 512, 513, 100_000]) {
    using place = new Place()
    const result = await unpack(place, archive, overlay, chunk)
    t.equal(result.diffId, digestOf(archive))
    t.equal(result.entries, 8)
    t.equal(content(place, 'd/file'), 'hello')
    t.equal(stat(place, 'd/file').mode & 0o7777, 0o4711)
    t.equal(stat(place, 'd/file').mtime, -6)
    t.equal(stat(place, 'd/file').mtimeNsec, 750_000_000)
    t.equal(stat(place, 'd/file').nlink, 2)
    t.equal(stat(place, 'd').mtime, 123, 'a directory keeps its time although files came after')
    t.equal(stat(place, 'd').mode & 0o7777, 0o1750)
    t.equal(sys.readlinkat(place.root.n, 'd/soft'), '../../outside', 'a symlink may point anywhere')
    t.equal(stat(place, 'd/soft').mtime, 77)
    t.ok(sys.S_ISFIFO(stat(place, 'fifo').mode))
    t.ok(sys.S_ISDIR(stat(place, 'old-style-dir').mode))
    t.equal(stat(place, 'empty').size, 0)
  }
})

t.test('names are bytes: not UTF-8, long, in ustar, pax and GNU form', async t => {
  using place = new Place()
  const long = `${'x'.repeat(200)}/${'\xe9'.repeat(200)}`
  const gnuLong = `${'y'.repeat(90)}/${'z'.repeat(90)}`
  const meta = (type: string, text: string) =>
    Buffer.concat([
      header({ name: '././@LongLink', type, size: text.length + 1, magic: 'ustar  \0' }),
      padded(Buffer.from(`${text}\0`, 'latin1')),
    ])
  await unpack(
    place,
    tar(
      { name: '\xff\xfe', data: '1' },
      { name: 'short', data: '2', pax: { path: long } },
      meta('L', gnuLong),
      { name: gnuLong.slice(0, 99), data: '3', magic: 'ustar  \0' },
      meta('K', gnuLong),
      { name: 'to-long', type: '2', linkName: 'cut', magic: 'ustar  \0' },
    ),
  )
  t.equal(content(place, '\xff\xfe'), '1')
  t.equal(content(place, long), '2')
  t.equal(content(place, gnuLong), '3')
  t.equal(sys.readlinkat(place.root.n, 'to-long'), gnuLong)
})

t.test('large numbers: base-256 and pax', { skip: !asRoot && 'needs root' }, async t => {
  using place = new Place()
  const block = header({ name: 'big-ids' })
  block.fill(0, 108, 116)
  block[108] = 0x80
  block.writeUInt32BE(3_000_000_000, 112)
  block.fill(0xff, 136, 148) // mtime -1
  await unpack(place, tar(sealed(block), { name: 'pax-ids', pax: { uid: '4000000000', gid: '12' } }))
  t.equal(stat(place, 'big-ids').uid, 3_000_000_000)
  t.equal(stat(place, 'big-ids').mtime, -1)
  t.equal(stat(place, 'pax-ids').uid, 4_000_000_000)
  t.equal(stat(place, 'pax-ids').gid, 12)
})

t.test(
  'attributes are bytes, and those of overlays are escaped',
  { skip: !asRoot && 'needs root' },
  async t => {
    using place = new Place()
    const binary = Buffer.from([0, 1, 0xff, 0x0a, 0x3d])
    const result = await unpack(
      place,
      tar(
        {
          name: 'f',
          pax: {
            'SCHILY.xattr.user.bin': binary,
            'SCHILY.xattr.user.empty': '',
            'SCHILY.xattr.trusted.overlay.redirect': '/etc',
            'SCHILY.xattr.user.fuseoverlayfs.opaque': 'y',
          },
        },
        { name: 'd/', type: '5', pax: { 'SCHILY.xattr.trusted.overlay.opaque': 'y' } },
      ),
    )
    t.same(sys.getxattrAt(place.root.n, 'f', 'user.bin'), binary)
    t.same(sys.getxattrAt(place.root.n, 'f', 'user.empty'), Buffer.alloc(0))
    t.equal(sys.getxattrAt(place.root.n, 'f', 'trusted.overlay.redirect'), undefined)
    t.same(sys.getxattrAt(place.root.n, 'f', 'trusted.overlay.overlay.redirect'), Buffer.from('/etc'))
    t.equal(sys.getxattrAt(place.root.n, 'f', 'user.fuseoverlayfs.opaque'), undefined)
    t.equal(isOpaque(place, 'd'), false)
    t.equal(result.warnings.length, 1)
  },
)

t.test(
  'ACLs come as an attribute or as text, and do not spread to later files',
  { skip: !asRoot && 'needs root' },
  async t => {
    using place = new Place()
    await unpack(
      place,
      tar(
        {
          name: 'd/',
          type: '5',
          mode: 0o775,
          pax: {
            'SCHILY.acl.access': 'user::rwx,user:lisa:r-x:1234,group::r-x,mask::rwx,other::r-x',
            'SCHILY.acl.default': 'user::rwx\nuser:77:rw-\ngroup::---\nmask::rwx\nother::---\n',
          },
        },
        { name: 'd/f', mode: 0o644 },
      ),
    )
    t.equal(
      sys.getxattrAt(place.root.n, 'd', 'system.posix_acl_access')?.toString('hex'),
      '02000000' +
        '01000700ffffffff' +
        '02000500d2040000' +
        '04000500ffffffff' +
        '10000700ffffffff' +
        '20000500ffffffff',
    )
    t.ok(sys.getxattrAt(place.root.n, 'd', 'system.posix_acl_default'))
    t.same(sys.listxattrAt(place.root.n, 'd/f'), [], 'made after the directory, without its default ACL')
    t.equal(stat(place, 'd/f').mode & 0o777, 0o644)
  },
)

t.test('sparse files: old GNU, pax 0.0, 0.1 and 1.0', async t => {
  using place = new Place()
  const expected = Buffer.alloc(100_000)
  expected.write('AAAA', 0)
  expected.write('BBBB', 50_000)
  const data = 'AAAABBBB'
  const gnu = header({ name: 'gnu', type: 'S', size: 8, magic: 'ustar  \0' })
  const put = (block: Buffer, at: number, value: number) =>
    block.write(`${value.toString(8).padStart(11, '0')}\0`, at, 'latin1')
  ;[0, 4, 50_000, 4, 100_000, 0].forEach((value, i) => put(gnu, 386 + 12 * i, value))
  put(gnu, 483, 100_000)
  // the same with an extension block
  const extended = header({ name: 'gnu-ext', type: 'S', size: 8, magic: 'ustar  \0' })
  put(extended, 386, 0)
  put(extended, 398, 4)
  extended[482] = 1
  put(extended, 483, 100_000)
  const extension = Buffer.alloc(512)
  put(extension, 0, 50_000)
  put(extension, 12, 4)
  const map = padded(Buffer.from('2\n0\n4\n50000\n4\n'))
  const archive = tar(
    sealed(gnu),
    padded(Buffer.from(data)),
    Buffer.concat([sealed(extended), extension]),
    padded(Buffer.from(data)),
    {
      name: 'x',
      data,
      pax: { 'GNU.sparse.size': '100000', 'GNU.sparse.map': '0,4,50000,4', 'GNU.sparse.name': 'p01' },
    },
    {
      name: 'x',
      data: Buffer.concat([map, Buffer.from(data)]),
      pax: {
        'GNU.sparse.major': '1',
        'GNU.sparse.minor': '0',
        'GNU.sparse.realsize': '100000',
        'GNU.sparse.name': 'p10',
      },
    },
    { name: 'hole', pax: { 'GNU.sparse.size': '70000', 'GNU.sparse.map': '' } },
  )
  using split = place.open('split')
  for (const chunk of [513, 1 << 20]) {
    using other = new Place()
    await unpack(
      other,
      archive,
      { ...overlay, record: chunk === 513 ? recordTarSplit(split.n) : undefined },
      chunk,
    )
    for (const name of ['gnu', 'gnu-ext', 'p01', 'p10']) {
      t.equal(content(other, name), expected.toString('latin1'), name)
      t.ok(stat(other, name).blocks * 512 < 100_000, `${name} has its hole`)
    }
    t.equal(stat(other, 'hole').size, 70_000)
    if (chunk === 513)
      t.same(await collect(replayTarSplit(split.n, other.root.n)), archive, 'goes out as it came')
  }
})

t.test('whiteouts become those of the dialect', { skip: !asRoot && 'needs root' }, async t => {
  const archive = tar(
    { name: 'd/', type: '5' },
    { name: 'd/.wh..wh..opq' },
    { name: 'd/new', data: 'n' },
    { name: '.wh.gone' },
    { name: 'e/.wh.deep' },
    { name: '.wh..wh.plnk/1.2', data: 'aufs' },
  )
  await t.test('char', async t => {
    using place = new Place()
    const result = await unpack(place, archive)
    t.equal(result.counts.whiteouts, 3)
    t.ok(format.isCharWhiteout(stat(place, 'gone')))
    t.ok(format.isCharWhiteout(stat(place, 'e/deep')))
    t.ok(isOpaque(place, 'd'))
    t.equal(content(place, 'd/new'), 'n')
    t.notOk(isOpaque(place, 'e'))
  })
  await t.test('xattr', async t => {
    using place = new Place()
    await unpack(place, archive, { whiteouts: 'overlay', dialect: 'xattr', xattrPrefix: 'user.overlay.' })
    t.ok(format.hasWhiteoutXattr(place.root.n, 'gone'))
    t.same(sys.getxattrAt(place.root.n, '', 'user.overlay.opaque'), Buffer.from('x'))
    t.ok(isOpaque(place, 'd'))
  })
  await t.test('file', async t => {
    using place = new Place()
    await unpack(place, archive, { whiteouts: 'overlay', dialect: 'file' })
    t.ok(sys.S_ISREG(stat(place, '.wh.gone').mode))
    t.ok(stat(place, 'd/.wh..wh..opq'))
  })
  await t.test('literal', async t => {
    using place = new Place()
    await unpack(place, archive, { whiteouts: 'literal' })
    t.ok(stat(place, '.wh.gone'))
    t.equal(content(place, '.wh..wh.plnk/1.2'), 'aufs')
  })
  await t.test('apply: what was there goes, what the archive brought stays', async t => {
    using place = new Place()
    const before = tar(
      { name: 'gone/x', data: '1' },
      { name: 'd/old', data: '1' },
      { name: 'd/sub/old' },
      { name: 'keep' },
      { name: 'e/deep' },
    )
    await unpack(place, before, { whiteouts: 'literal' })
    await unpack(
      place,
      tar(
        { name: 'd/sub/mine' },
        { name: 'd/new', data: 'n' },
        { name: 'd/.wh..wh..opq' },
        { name: '.wh.gone' },
        { name: 'e/.wh.deep' },
      ),
      { whiteouts: 'apply' },
    )
    t.same(
      listTree(place.root.n).map(line => line.split(' ')[0]),
      ['d', 'd/new', 'd/sub', 'd/sub/mine', 'e', 'keep'],
    )
  })
})

t.test('a whiteout hides only what is below its own layer', { skip: !asRoot && 'needs root' }, async t => {
  using place = new Place()
  await unpack(
    place,
    tar(
      { name: 'first/', type: '5' },
      { name: 'first/x' },
      { name: '.wh.first' }, // after the directory
      { name: '.wh.second' }, // before it
      { name: 'second/', type: '5' },
      { name: '.wh.third' },
      { name: 'third/file', data: '3' }, // the directory is not listed
      { name: 'f', data: 'f' },
      { name: '.wh.f' },
      { name: '.wh.g' },
      { name: 'g', data: 'g' },
    ),
  )
  for (const name of ['first', 'second', 'third']) t.ok(isOpaque(place, name), name)
  t.ok(stat(place, 'first/x'))
  t.equal(content(place, 'third/file'), '3')
  t.equal(content(place, 'f'), 'f')
  t.equal(content(place, 'g'), 'g')
})

t.test(
  'the last of several entries wins, whatever their types, and the archive still goes out as it came',
  async t => {
    using place = new Place()
    using split = place.open('split')
    const big = Buffer.alloc(3_000_000, 'b')
    const archive = tar(
      { name: 'f', data: 'one' },
      { name: 'f', data: 'two!' },
      { name: 'f', data: big },
      { name: 'f', data: 'last' },
      { name: 'd/', type: '5', mode: 0o700 },
      { name: 'd/x', data: 'lost' },
      { name: 'd', data: 'a file now' },
      { name: 'g', data: 'file' },
      { name: 'g/', type: '5' },
      { name: 'g/h', data: 'in it' },
      { name: 's', type: '2', linkName: '/nowhere' },
      { name: 's', data: 'was a link' },
      { name: 'l', data: 'linked' },
      { name: 'm', type: '1', linkName: 'l' },
      { name: 'l', data: 'other' },
      { name: 'm', type: '1', linkName: 'm2', size: 0, pax: { linkpath: 'l' } },
      { name: 'dd/', type: '5', mode: 0o700, mtime: 5 },
      { name: 'dd/k' },
      { name: 'dd/', type: '5', mode: 0o755, mtime: 6 },
    )
    await unpack(place, archive, { ...overlay, record: recordTarSplit(split.n) })
    t.equal(content(place, 'f'), 'last')
    t.equal(content(place, 'd'), 'a file now')
    t.equal(content(place, 'g/h'), 'in it')
    t.equal(content(place, 's'), 'was a link')
    t.equal(content(place, 'l'), 'other')
    t.equal(content(place, 'm'), 'other')
    t.equal(stat(place, 'dd').mode & 0o777, 0o755)
    t.equal(stat(place, 'dd').mtime, 6)
    t.ok(stat(place, 'dd/k'))
    t.ok((await collect(replayTarSplit(split.n, place.root.n))).equals(archive))
  },
)

t.test('a replay of a changed layer ends in an error', async t => {
  for (const change of ['longer', 'shorter', 'other', 'gone', 'fifo']) {
    using place = new Place()
    using split = place.open('split')
    await unpack(place, tar({ name: 'd/f', data: 'content' }), {
      ...overlay,
      record: recordTarSplit(split.n),
    })
    sys.unlinkat(place.root.n, 'd/f')
    if (change === 'fifo') sys.mknodat(place.root.n, 'd/f', sys.S_IFIFO | 0o600, 0)
    else if (change !== 'gone') {
      using fd = sys.openat(place.root.n, 'd/f', sys.O_WRONLY | sys.O_CREAT, 0o644)
      const text = { longer: 'content and more', shorter: 'con', other: 'CONTENT' }[change] ?? ''
      sys.pwriteSync(fd.n, Buffer.from(text), 0, text.length, 0)
    }
    const replayed = collect(replayTarSplit(split.n, place.root.n))
    // bytes beyond the recorded length are not read: the tar is still the one that came
    if (change === 'longer') await t.resolves(replayed, change)
    else await t.rejects(replayed, change)
  }
})

t.test('a damaged side file ends in an error', async t => {
  using place = new Place()
  using split = place.open('split')
  await unpack(place, tar({ name: 'f', data: 'content' }), { ...overlay, record: recordTarSplit(split.n) })
  const size = sys.statFd(split.n).size
  const original = Buffer.alloc(size)
  sys.preadSync(split.n, original, 0, size, 0)
  for (let at = 0; at < size; at++) {
    const bad = Buffer.from(original)
    bad[at] = (bad[at] as number) ^ 0x41
    using other = place.open('bad')
    sys.pwriteSync(other.n, bad, 0, size, 0)
    const result = await collect(replayTarSplit(other.n, place.root.n)).catch((error: unknown) => error)
    // gzip's own header has a few bytes that mean nothing (time, operating system)
    if (Buffer.isBuffer(result))
      t.equal(digestOf(result), digestOf(tar({ name: 'f', data: 'content' })), `byte ${at}`)
  }
  for (let length = 0; length < size; length += 7) {
    using other = place.open('short')
    sys.pwriteSync(other.n, original, 0, length, 0)
    await t.rejects(collect(replayTarSplit(other.n, place.root.n)), { name: 'OciError' }, `cut at ${length}`)
  }
})

t.test('parents that are not listed are made: root’s, 0755', async t => {
  using place = new Place()
  await unpack(place, tar({ name: 'a/b/c', data: 'x', mtime: 42 }))
  t.equal(stat(place, 'a/b').mode & 0o7777, 0o755)
  t.equal(stat(place, 'a/b').mtime, 42, 'the same archive makes the same tree')
})

t.test('an archive may go through a symlink that stays inside, as images with lib -> usr/lib do', async t => {
  using place = new Place()
  await unpack(
    place,
    tar(
      { name: 'usr/lib/', type: '5' },
      { name: 'lib', type: '2', linkName: 'usr/lib' },
      { name: 'lib/x', data: 'x' },
    ),
  )
  t.equal(content(place, 'usr/lib/x'), 'x')
  t.ok(sys.S_ISLNK(stat(place, 'lib').mode))
})

const outside = 'ends in one clear error and writes nothing outside'
const hostile: [string, RawEntry[], string][] = [
  ['..', [{ name: '../evil', data: 'x' }], 'unsafe'],
  ['.. in the middle', [{ name: 'a/../../evil', data: 'x' }], 'unsafe'],
  ['.. as a directory', [{ name: '..', type: '5' }], 'unsafe'],
  [
    'a symlink out, then a file through it',
    [
      { name: 's', type: '2', linkName: '..' },
      { name: 's/evil', data: 'x' },
    ],
    'unsafe',
  ],
  [
    'an absolute symlink, then a file through it',
    [
      { name: 's', type: '2', linkName: '/tmp' },
      { name: 's/evil', data: 'x' },
    ],
    'unsafe',
  ],
  [
    'a chain of symlinks',
    [
      { name: 'a/b/', type: '5' },
      { name: 's', type: '2', linkName: 'a/b/../../..' },
      { name: 's/evil', data: 'x' },
    ],
    'unsafe',
  ],
  [
    'a symlink loop',
    [
      { name: 's', type: '2', linkName: 's' },
      { name: 's/evil', data: 'x' },
    ],
    'unsafe',
  ],
  [
    'a directory through a symlink',
    [
      { name: 's', type: '2', linkName: '..' },
      { name: 's/evil/', type: '5' },
    ],
    'unsafe',
  ],
  [
    'a whiteout through a symlink',
    [{ name: 's', type: '2', linkName: '..' }, { name: 's/.wh.root' }],
    'unsafe',
  ],
  ['a hard link out', [{ name: 'l', type: '1', linkName: '../outside' }], 'unsafe'],
  [
    'a hard link through a symlink',
    [
      { name: 's', type: '2', linkName: '..' },
      { name: 'l', type: '1', linkName: 's/outside' },
    ],
    'unsafe',
  ],
  ['a hard link to nothing', [{ name: 'l', type: '1', linkName: 'nothing' }], 'malformed'],
  [
    'a hard link to itself',
    [
      { name: 'l', data: 'x' },
      { name: 'l', type: '1', linkName: './l' },
    ],
    'malformed',
  ],
  [
    'a hard link to a directory',
    [
      { name: 'd/', type: '5' },
      { name: 'l', type: '1', linkName: 'd' },
    ],
    'unsafe',
  ],
  ['a hard link to a whiteout', [{ name: '.wh.w' }, { name: 'l', type: '1', linkName: 'w' }], 'unsafe'],
  [
    'a hard link to a whiteout by its marker',
    [{ name: '.wh.w' }, { name: 'l', type: '1', linkName: '.wh.w' }],
    'unsafe',
  ],
  ['a whiteout of ..', [{ name: '.wh...' }], 'unsafe'],
  ['a whiteout of .', [{ name: 'd/.wh..' }], 'unsafe'],
  ['a file in place of the root', [{ name: './', type: '2', linkName: '/tmp' }], 'unsafe'],
  ['a NUL in a name', [{ name: 'x', pax: { path: 'a\0b' } }], 'malformed'],
  ['a name of 5000 bytes', [{ name: 'x', pax: { path: 'a/'.repeat(2500) } }], 'limit'],
  ['an empty symlink', [{ name: 's', type: '2' }], 'malformed'],
  ['an unknown type', [{ name: 'q', type: 'Q' }], 'unsupported'],
  ['a size beyond all bounds', [{ name: 'x', pax: { size: '99999999999999999999' } }], 'malformed'],
  ['a negative size', [{ name: 'x', pax: { size: '-1' } }], 'malformed'],
  ['a uid that is none', [{ name: 'x', pax: { uid: '-1' } }], 'malformed'],
  [
    'a sparse map beyond the end',
    [{ name: 'x', data: 'abcd', pax: { 'GNU.sparse.size': '10', 'GNU.sparse.map': '8,4' } }],
    'malformed',
  ],
  [
    'a sparse map out of order',
    [{ name: 'x', data: 'abcd', pax: { 'GNU.sparse.size': '10', 'GNU.sparse.map': '4,2,0,2' } }],
    'malformed',
  ],
  ['a damaged ACL', [{ name: 'x', pax: { 'SCHILY.xattr.system.posix_acl_access': 'junk' } }], 'malformed'],
]
for (const [name, entries, code] of hostile) {
  t.test(`${name}: ${outside}`, async t => {
    using place = new Place()
    sys.openat(sys.AT_FDCWD, place.file('outside'), sys.O_WRONLY | sys.O_CREAT, 0o600).close()
    const error = await unpack(place, tar({ name: 'fine', data: 'ok' }, ...entries)).then(
      () => undefined,
      (error: unknown) => error,
    )
    t.match(error, { name: 'OciError', code })
    t.notMatch((error as Error).message, /\n/, 'one line')
    using around = sys.openat(sys.AT_FDCWD, place.path, sys.O_RDONLY | sys.O_DIRECTORY)
    t.same(sys.listDir(around.n).names.sort(), ['outside', 'root'])
    t.equal(sys.statAt(around.n, 'outside')?.nlink, 1)
  })
}

t.test('an absolute name stays below the root, as tar, docker and podman take it', async t => {
  using place = new Place()
  const name = `lamina-absolute-${process.pid}`
  await unpack(
    place,
    tar({ name: `/tmp/${name}`, data: 'x' }, { name: 'l', type: '1', linkName: `/tmp/${name}` }),
  )
  t.equal(content(place, `tmp/${name}`), 'x')
  t.equal(content(place, 'l'), 'x')
  t.equal(sys.statAt(sys.AT_FDCWD, `/tmp/${name}`), undefined)
})

t.test('a truncated archive is an error wherever it is cut inside an entry', async t => {
  const archive = tar({ name: 'f', data: 'x'.repeat(700), pax: { path: 'longer' } }, { name: 'g' })
  const ends = new Set([0, 512 * 5, 512 * 6, 512 * 7, 512 * 8])
  for (let cut = 0; cut <= archive.length; cut += 64) {
    using place = new Place()
    const result = unpack(place, archive.subarray(0, cut))
    // between entries nothing tells; a digest does
    if (ends.has(cut)) await t.resolves(result, `${cut}`)
    else await t.rejects(result, { code: 'truncated' }, `${cut}`)
  }
})

t.test('damaged headers and pax records are errors', async t => {
  using place = new Place()
  const bad = header({ name: 'f' })
  bad[0] = 0x7a
  await t.rejects(unpack(place, tar(bad)), { code: 'malformed' })
  await t.rejects(unpack(place, Buffer.alloc(2048, 'no tar at all ')), { code: 'malformed' })
  const record = (text: string) =>
    tar(header({ name: 'p', type: 'x', size: text.length }), padded(Buffer.from(text)), { name: 'f' })
  for (const text of [
    '5 x\n',
    '99 path=a\n',
    'x path=a\n',
    '10 path=abcdef\n',
    '9 nothing\n',
    '-1 a=b\n',
    '0 a=b\n',
  ]) {
    await t.rejects(unpack(place, record(text)), { code: 'malformed' }, text)
  }
  const huge = header({ name: 'p', type: 'x', size: 1 << 30 })
  await t.rejects(unpack(place, tar(huge)), { code: 'limit' })
})

t.test('limits: bytes, entries, and bombs in gzip', async t => {
  using place = new Place()
  const archive = tar(...Array.from({ length: 50 }, (_, i) => ({ name: `f${i}`, data: 'x' })))
  await t.rejects(unpack(place, archive, { ...overlay, limits: { entries: 10 } }, 4096), { code: 'limit' })
  await t.rejects(unpack(place, archive, { ...overlay, limits: { bytes: 10_000 } }, 4096), { code: 'limit' })
  const zeros = tar({ name: 'zeros', data: Buffer.alloc(20 << 20) })
  const bomb = gzipSync(zeros)
  t.ok(bomb.length < 40_000)
  await t.rejects(
    applyLayer(place.root.n, chunked(bomb), { ...overlay, expansion: { ratio: 250, free: 1 << 20 } }),
    { code: 'limit', message: /bomb/ },
  )
  await t.resolves(applyLayer(place.root.n, chunked(bomb), overlay), 'small ones are let through')
})

t.test('wrong digests, on either side of the compression', async t => {
  const archive = tar({ name: 'f', data: 'x' })
  const packed = gzipSync(archive)
  const right = digestOf(archive)
  const wrong = digestOf('other')
  const run = async (data: Buffer, options: Parameters<typeof applyLayer>[2]) => {
    using place = new Place()
    return await applyLayer(place.root.n, chunked(data, 100), options)
  }
  await t.rejects(run(archive, { ...overlay, diffId: wrong }), { code: 'digest' })
  await t.rejects(run(packed, { ...overlay, diffId: wrong }), { code: 'digest' })
  await t.rejects(run(packed, { ...overlay, blob: { digest: right } }), { code: 'digest' })
  await t.rejects(run(archive, { ...overlay, blob: { digest: wrong } }), { code: 'digest' })
  await t.rejects(run(packed, { ...overlay, blob: { digest: digestOf(packed), size: packed.length + 1 } }), {
    code: 'size',
  })
  await t.rejects(run(packed, { ...overlay, blob: { digest: digestOf(packed), size: packed.length - 1 } }), {
    code: 'size',
  })
  const junk = Buffer.concat([packed, Buffer.from('junk after the end')])
  await t.rejects(run(junk, { ...overlay, blob: { digest: digestOf(packed) } }), { name: 'OciError' })
  const half = 700
  const members = Buffer.concat([gzipSync(archive.subarray(0, half)), gzipSync(archive.subarray(half))])
  const blob = { digest: digestOf(members), size: members.length }
  const result = await run(members, { ...overlay, diffId: right, blob })
  t.same([result.compression, result.blobSize, result.blobDigest], ['gzip', blob.size, blob.digest])
  const plain = await run(archive, {
    ...overlay,
    diffId: right,
    blob: { digest: right, size: archive.length },
  })
  t.same([plain.compression, plain.blobSize, plain.blobDigest], ['plain', archive.length, right])
})

t.test('ids are mapped, and one without a place is an error', { skip: !asRoot && 'needs root' }, async t => {
  using place = new Place()
  const ranges = [
    { container: 0, host: 1000, size: 1 },
    { container: 1, host: 200_000, size: 100 },
  ]
  const ids = { uid: ranges, gid: ranges }
  await unpack(place, tar({ name: 'a', uid: 0, gid: 5 }, { name: 'p/q' }), { ...overlay, ids })
  t.same([stat(place, 'a').uid, stat(place, 'a').gid], [1000, 200_004])
  t.equal(stat(place, 'p').uid, 1000)
  const out = await collect(tarTree(place.root.n, { contents: 'layer', ids }))
  using again = new Place()
  await unpack(again, out)
  t.same([stat(again, 'a').uid, stat(again, 'a').gid], [0, 5], 'and back')
  await t.rejects(unpack(place, tar({ name: 'b', uid: 101 }), { ...overlay, ids }), {
    code: 'unsupported',
    message: /subuid/,
  })
})

t.test('owners and devices as attributes, for a user without ids', async t => {
  using place = new Place()
  const archive = tar(
    { name: 'f', data: 'x', mode: 0o4555, uid: 33, gid: 44 },
    { name: 'd/', type: '5', mode: 0o500, uid: 1 },
    { name: 'd/null', type: '3', major: 1, minor: 3, mode: 0o666 },
    { name: 's', type: '2', linkName: 'f' },
  )
  await unpack(place, archive, { ...overlay, ownership: 'xattr' })
  t.equal(stat(place, 'f').uid, process.geteuid?.())
  t.equal(sys.getxattrAt(place.root.n, 'f', 'user.containers.override_stat')?.toString(), '33:44:4555')
  t.ok(sys.S_ISREG(stat(place, 'd/null').mode))
  const out = await collect(tarTree(place.root.n, { contents: 'layer', overrideStat: true }))
  t.match(out.toString('latin1'), 'd/null')
  if (asRoot) {
    using again = new Place()
    await unpack(again, out)
    t.same([stat(again, 'f').uid, stat(again, 'f').gid, stat(again, 'f').mode & 0o7777], [33, 44, 0o4555])
    t.equal(stat(again, 'd/null').rdev, sys.makedev(1, 3))
    t.equal(stat(again, 'd').mode & 0o777, 0o500)
  }
})

t.test(
  'an ordinary user: a device node is one clear error, or left out when asked',
  { skip: !asRoot && 'needs root' },
  async t => {
    using place = new Place()
    sys.fchown(place.root.n, 65534, 65534)
    sys.chmodAt(sys.AT_FDCWD, place.path, 0o755)
    const script = `
    import { applyTar } from ${JSON.stringify(new URL('../../src/oci/index.js', import.meta.url).href)}
    import * as sys from ${JSON.stringify(new URL('../../src/sys/index.js', import.meta.url).href)}
    import { tar, chunked } from ${JSON.stringify(new URL('./oci-fixture.js', import.meta.url).href)}
    process.setgroups([]); process.setegid(65534); process.seteuid(65534)
    const root = sys.openat(sys.AT_FDCWD, ${JSON.stringify(place.rootPath)}, sys.O_RDONLY | sys.O_DIRECTORY)
    const archive = tar({ name: 'locked/', type: '5', mode: 0o555 }, { name: 'locked/f', mode: 0o444, data: 'x' }, { name: 'null', type: '3', major: 1, minor: 3 })
    const options = { whiteouts: 'overlay', ownership: 'ignore' }
    try { await applyTar(root.n, chunked(archive), options); console.log('no error') } catch (error) { console.log(error.code, error.message) }
    const { warnings } = await applyTar(root.n, chunked(archive), { ...options, devices: 'skip' })
    console.log(warnings.length)
    process.seteuid(0)
  `
    const output = execFileSync(process.execPath, ['--input-type=module', '-e', script], {
      encoding: 'utf8',
      env: { PATH: process.env['PATH'] },
    })
    t.match(output, /^unsafe .*device node 'null' \(1:3\).*\n1\n$/)
    t.equal(content(place, 'locked/f'), 'x', 'files below a directory without write permission')
  },
)

t.test('an abort ends it', async t => {
  using place = new Place()
  const controller = new AbortController()
  async function* source() {
    yield* chunked(tar({ name: 'f', data: 'x' }), 100)
    controller.abort(new Error('enough'))
    yield Buffer.alloc(512)
  }
  await t.rejects(applyTar(place.root.n, source(), { ...overlay, signal: controller.signal }), {
    message: 'enough',
  })
})

t.test('no descriptor is left after success or failure', async t => {
  using fds = sys.openat(sys.AT_FDCWD, '/proc/self/fd', sys.O_RDONLY | sys.O_DIRECTORY)
  const count = () => sys.listDir(fds.n).names.length
  const before = count()
  for (const entries of [[{ name: 'a/b/c', data: 'x' }], [{ name: 'a/b', data: 'x' }, { name: '../x' }]]) {
    using place = new Place()
    await unpack(place, tar(...entries), overlay, 100).catch(() => undefined)
    await unpack(place, tar(...entries).subarray(0, 700)).catch(() => undefined)
  }
  t.equal(count(), before)
})

t.test('pax headers apply to one entry, global ones to all that follow', async t => {
  using place = new Place()
  await unpack(
    place,
    tar(
      pax({ comment: 'x', mtime: '11' }, 'g'),
      { name: 'a' },
      { name: 'b', pax: { mtime: '22.5' } },
      { name: 'c' },
    ),
  )
  t.equal(stat(place, 'a').mtime, 11)
  t.equal(stat(place, 'b').mtime, 22)
  t.equal(stat(place, 'c').mtime, 11)
})
