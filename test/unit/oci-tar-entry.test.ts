/** What an entry is, with everything that stands before its header: by name, size, link and holes as they are resolved. */
import t from 'tap'
import { applyTar, recordTarSplit, replayTarSplit, TarReader, type TarHandler } from '../../src/oci/index.js'
import { chunked, collect, header, padded, pax, Place, sealed, tar, type RawEntry } from './oci-fixture.js'

const utf8 = (text: string): string => Buffer.from(text).toString('latin1')
const gnuMagic = 'ustar  \0'

/** A GNU long name ('L') or link ('K'). */
function long(type: 'L' | 'K', text: string): Buffer {
  const data = Buffer.from(`${text}\0`, 'latin1')
  return Buffer.concat([
    header({ name: '././@LongLink', type, size: data.length, magic: gnuMagic }),
    padded(data),
  ])
}

/** One line an entry: type, path, size, link target, time and the data that came with it. */
function read(archive: Buffer): string[] {
  const lines: string[] = []
  let data = ''
  const handler: TarHandler = {
    entry(entry) {
      data = ''
      const { type, path, size, linkPath, mtime, mtimeNsec } = entry
      const time = mtime === 1_000_000_000 && mtimeNsec === 0 ? '' : ` @${mtime}.${mtimeNsec}`
      lines.push(`${type} ${path} ${size}${linkPath === '' ? '' : ` -> ${linkPath}`}${time}`)
      return 'store'
    },
    data(chunk) {
      data += chunk.toString('latin1')
    },
    entryEnd() {
      if (data !== '') lines.push(`${lines.pop() ?? ''} ${JSON.stringify(data)}`)
    },
  }
  const reader = new TarReader(handler)
  reader.write(archive)
  reader.finish()
  return lines
}

/** Pax records in order, also the same one again. */
function records(list: readonly [string, string][]): Buffer {
  const lines = list.map(([key, value]) => {
    const rest = ` ${key}=${value}\n`
    let length = rest.length + 1
    while (String(length).length + rest.length !== length) length++
    return `${length}${rest}`
  })
  const data = Buffer.from(lines.join(''), 'latin1')
  return Buffer.concat([header({ name: 'PaxHeader', type: 'x', size: data.length }), padded(data)])
}

/** A header with what the fixture has no field for. */
function patched(raw: RawEntry, at: number, text: string, trailer = ''): Buffer {
  const block = header(raw)
  block.write(text, at, 'latin1')
  block.write(trailer, 508, 'latin1')
  return sealed(block)
}

const oldGo = patched({ name: 'f', magic: gnuMagic }, 345, 'some/deep')
// An access time stands behind it.
const star = patched({ name: 'f' }, 345, `${'p'.repeat(130)}\0${'7'.repeat(11)} ${'7'.repeat(11)} `, 'tar\0')

const last = { name: 'last', data: 'z' }
const map = padded(Buffer.from('1\n0\n3\n'))
const sparse10 = { 'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.realsize': '5' }

// [what, what is before `last`, what it is]
const cases: [string, (RawEntry | Buffer)[], string[]][] = [
  [
    'a name without ASCII, as Docker and BuildKit write it, is the file’s of the pax record',
    [{ name: 'docs/', data: 'hi\n', pax: { path: utf8('docs/目录') } }],
    [`file ${utf8('docs/目录')} 3 "hi\\n"`],
  ],
  [
    'an empty file too',
    [{ name: 'docs/', pax: { path: utf8('docs/目录') } }],
    [`file ${utf8('docs/目录')} 0`],
  ],
  [
    'and one of V7’s type',
    [{ name: 'docs/', type: '\0', data: 'x', pax: { path: 'docs/x' } }],
    ['file docs/x 1 "x"'],
  ],
  [
    'with a GNU long name',
    [long('L', 'docs/x'), { name: 'docs/', data: 'x', magic: gnuMagic }],
    ['file docs/x 1 "x"'],
  ],
  [
    'with GNU.sparse.name',
    [
      {
        name: 'GNUSparseFile.0/',
        data: Buffer.concat([map, Buffer.from('abc')]),
        pax: { ...sparse10, 'GNU.sparse.name': 'sp' },
      },
    ],
    ['file sp 5 "abc"'],
  ],
  [
    'a pax path that ends in a slash is a directory’s',
    [{ name: 'd', pax: { path: 'd/x/' } }],
    ['directory d/x/ 0'],
  ],
  [
    'a GNU long name that does, too',
    [long('L', 'd/x/'), { name: 'd/x', type: '\0', magic: gnuMagic }],
    ['directory d/x/ 0'],
  ],
  [
    'data behind such a name is a file’s',
    [{ name: 'd', data: 'abc', pax: { path: 'd/x/' } }],
    ['file d/x/ 3 "abc"'],
  ],
  ['the size of a directory is noise', [{ name: 'd/', type: '5', size: 512 }], ['directory d/ 0']],
  ['and that of V7’s', [{ name: 'd/', type: '\0', magic: '\0', size: 512 }], ['directory d/ 0']],
  [
    'the pax size counts where the header has none',
    [{ name: 'f', size: 0, data: 'abc', pax: { size: '3' } }],
    ['file f 3 "abc"'],
  ],
  [
    'and where the header has another',
    [{ name: 'f', size: 4096, data: 'abc', pax: { size: '3' } }],
    ['file f 3 "abc"'],
  ],
  [
    'an archive in a file is its data (pax size, header 0)',
    [{ name: 'f', size: 0, data: tar({ name: 'inner' }).subarray(0, 512), pax: { size: '512' } }],
    [`file f 512 ${JSON.stringify(header({ name: 'inner' }).toString('latin1'))}`],
  ],
  [
    'a long name counts before a pax path, as in Go',
    [pax({ path: 'pax' }), long('L', 'gnu'), { name: 'raw', data: 'x' }],
    ['file gnu 1 "x"'],
  ],
  ['an empty long name is none', [long('L', ''), { name: 'f', data: 'x' }], ['file f 1 "x"']],
  [
    'the last of two records counts',
    [pax({ path: 'one' }), pax({ path: 'two' }), { name: 'f' }],
    ['file two 0'],
  ],
  [
    'linkpath',
    [{ name: 's', type: '2', pax: { linkpath: utf8('目标') } }],
    [`symlink s 0 -> ${utf8('目标')}`],
  ],
  [
    'linkpath of a hard link',
    [{ name: 'l', type: '1', size: 77, linkName: 'cut', pax: { linkpath: 'n'.repeat(300) } }],
    [`link l 0 -> ${'n'.repeat(300)}`],
  ],
  [
    'a GNU long link',
    [long('K', 'm'.repeat(300)), { name: 's', type: '2', linkName: 'm' }],
    [`symlink s 0 -> ${'m'.repeat(300)}`],
  ],
  [
    'global records, and local ones over them',
    [
      pax({ mtime: '5', path: 'all' }, 'g'),
      { name: 'f' },
      { name: 'f', pax: { path: 'own', mtime: '7.5' } },
      { name: 'f', pax: { path: '' } },
      pax({ path: '', mtime: '' }, 'g'),
    ],
    ['file all 0 @5.0', 'file own 0 @7.500000000', 'file f 0 @5.0'],
  ],
  ['a Solaris X header', [pax({ path: 'sol' }, 'X'), { name: 'f' }], ['file sol 0']],
  [
    'hdrcharset changes nothing: names are bytes',
    [{ name: 'f', pax: { hdrcharset: 'BINARY', path: '\xff\xfe' } }],
    ['file \xff\xfe 0'],
  ],
  [
    'times before 1970 and of parts of a second',
    [
      { name: 'f', pax: { mtime: '-1.25' } },
      { name: 'g', pax: { mtime: '-0.000000001' } },
    ],
    ['file f 0 @-2.750000000', 'file g 0 @-1.999999999'],
  ],
  [
    'a time beyond all bounds is the last there is',
    [{ name: 'f', pax: { mtime: '99999999999999999999' } }],
    [`file f 0 @${Number.MAX_SAFE_INTEGER}.0`],
  ],
  [
    'GNU.sparse.size with a 1.0 map, and realsize with an older one',
    [
      {
        name: 'x',
        data: Buffer.concat([map, Buffer.from('abc')]),
        pax: { 'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.size': '9' },
      },
      { name: 'y', data: 'abc', pax: { 'GNU.sparse.realsize': '9', 'GNU.sparse.map': '0,3' } },
    ],
    ['file x 9 "abc"', 'file y 9 "abc"'],
  ],
  [
    'pax 0.0: the same two records for each part',
    [
      records([
        ['GNU.sparse.size', '10'],
        ['GNU.sparse.offset', '0'],
        ['GNU.sparse.numbytes', '2'],
        ['GNU.sparse.offset', '8'],
        ['GNU.sparse.numbytes', '1'],
      ]),
      { name: 'f', data: 'abc' },
    ],
    ['file f 10 "abc"'],
  ],
  ['a prefix in a GNU header, as Go before 1.8 wrote it', [oldGo], ['file some/deep/f 0']],
  ['star’s prefix has 131 bytes', [star], [`file ${'p'.repeat(130)}/f 0`]],
]

for (const [what, parts, expected] of cases) {
  t.test(what, async t => {
    const archive = tar(...parts, last)
    t.same(read(archive), [...expected, 'file last 1 "z"'])
    // and out again as it came
    using place = new Place()
    using split = place.open('split')
    const unpacked = await applyTar(place.root.n, chunked(archive, 700), {
      whiteouts: 'overlay',
      record: recordTarSplit(split.n),
    }).catch((error: unknown) => error)
    // A link to nothing is in some of them.
    if (unpacked instanceof Error) t.match(unpacked.message, /which is not in the archive|File name too long/)
    else t.ok((await collect(replayTarSplit(split.n, place.root.n))).equals(archive), 'the same bytes')
  })
}

t.test('base-256 numbers of GNU, also beyond what is kept exactly', async t => {
  const block = header({ name: 'f', magic: gnuMagic })
  const with256 = (first: number, rest: number): Buffer => {
    const copy = Buffer.from(block)
    copy.fill(rest, 137, 148)
    copy[136] = first
    return sealed(copy)
  }
  const max = Number.MAX_SAFE_INTEGER
  t.same(read(tar(with256(0xff, 0xff))), ['file f 0 @-1.0'])
  t.same(read(tar(with256(0x80, 0x7f))), [`file f 0 @${max}.0`])
  t.same(read(tar(with256(0xc0, 0))), [`file f 0 @${-max}.0`])
  const size = Buffer.from(block)
  size.fill(0, 124, 136)
  size[124] = 0x80
  size[135] = 3
  t.same(read(Buffer.concat([sealed(size), padded(Buffer.from('abc')), tar(last)])), [
    'file f 3 "abc"',
    'file last 1 "z"',
  ])
  size.fill(0x7f, 125, 136)
  t.throws(() => read(tar(sealed(size))), { code: 'malformed', message: /size is out of range/ })
  size.fill(0xff, 124, 136)
  t.throws(() => read(tar(sealed(size))), { code: 'malformed', message: /negative size/ })
})

t.test('attributes: SCHILY over LIBARCHIVE, empty ones stay', async t => {
  const seen: Record<string, string>[] = []
  const reader = new TarReader({
    entry({ xattrs }) {
      seen.push(
        Object.fromEntries([...(xattrs ?? [])].map(([key, value]) => [key, value.toString('latin1')])),
      )
      return 'skip'
    },
    data() {
      throw new Error('no data here')
    },
    entryEnd() {
      // nothing
    },
  })
  reader.write(
    tar({
      name: 'f',
      pax: {
        'LIBARCHIVE.xattr.user.a%3Db': Buffer.from('\0\xff', 'latin1').toString('base64'),
        'LIBARCHIVE.xattr.user.empty': '',
        'LIBARCHIVE.xattr.user.both': 'bm90',
        'SCHILY.xattr.user.both': 'this',
        'SCHILY.xattr.user.none': '',
      },
    }),
  )
  reader.finish()
  t.same(seen, [{ 'user.a=b': '\0\xff', 'user.empty': '', 'user.both': 'this', 'user.none': '' }])
})

const wrong: [string, (RawEntry | Buffer)[], string, RegExp][] = [
  [
    'a sparse map of a fifo',
    [{ name: 'p', type: '6', pax: { 'GNU.sparse.size': '3', 'GNU.sparse.map': '0,3' } }],
    'malformed',
    /no file/,
  ],
  [
    'records of a 0.0 map out of order',
    [
      records([
        ['GNU.sparse.size', '10'],
        ['GNU.sparse.offset', '0'],
        ['GNU.sparse.offset', '2'],
        ['GNU.sparse.numbytes', '2'],
        ['GNU.sparse.numbytes', '1'],
      ]),
      { name: 'f', data: 'abc' },
    ],
    'malformed',
    /map of a sparse file/,
  ],
  [
    'a 1.0 map without room for one',
    [{ name: 'f', data: 'abc', pax: sparse10 }],
    'malformed',
    /without a map/,
  ],
  ['a NUL in a name', [{ name: 'f', pax: { path: 'a\0b' } }], 'malformed', /NUL/],
  ['a negative pax size', [{ name: 'f', pax: { size: '-5' } }], 'malformed', /negative/],
  [
    'an unknown type, by its resolved name',
    [{ name: 'raw', type: 'Q', pax: { path: 'shown' } }],
    'unsupported',
    /'shown'/,
  ],
  [
    'global records without end',
    Array.from({ length: 3 }, (_, n) =>
      pax(Object.fromEntries(Array.from({ length: 400 }, (_, i) => [`k${n}.${i}`, 'v'])), 'g'),
    ),
    'limit',
    /too many global/,
  ],
  [
    'large ones',
    Array.from({ length: 5 }, (_, n) => pax({ [`k${n}`]: Buffer.alloc(1 << 20) }, 'g')),
    'limit',
    /too many global/,
  ],
]
for (const [what, parts, code, message] of wrong) {
  t.test(`${what} is an error`, async t => {
    t.throws(() => read(tar(...parts, last)), { code, message })
  })
}
