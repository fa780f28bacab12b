/**
 * Archives that want to write, remove or reveal something outside of where they are unpacked. More of them: "hostile" in
 * test/unit/oci-tar-in.test.ts; damaged ones: test/fuzz/tar-fuzz.ts.
 */
import { spawnSync } from 'node:child_process'
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { t } from 'tap'
import { applyTar, type ApplyTarOptions } from '../../src/oci/index.js'
import * as sys from '../../src/sys/index.js'
import { isRoot } from '../manager/fixture.js'
import { chunked, header, padded, Place, tar, type RawEntry } from '../unit/oci-fixture.js'

type Entries = readonly (RawEntry | Buffer)[]

const MODES: readonly ApplyTarOptions[] = ['overlay', 'apply', 'literal'].map(whiteouts => ({
  whiteouts: whiteouts as ApplyTarOptions['whiteouts'],
}))

/** A place with a directory `outside` beside the root, which holds a file and must stay as it is. */
function guarded(): Place {
  const place = new Place()
  mkdirSync(place.file('outside'))
  writeFileSync(place.file('outside/secret'), 'secret', { mode: 0o600 })
  return place
}

function outsideOf(place: Place): string[] {
  const around = readdirSync(place.path).filter(name => name !== 'root')
  const evil = ['/lamina-evil', '/etc/lamina-evil', '/tmp/lamina-evil'].filter(path => existsSync(path))
  return [
    ...around,
    ...readdirSync(place.file('outside')),
    readFileSync(place.file('outside/secret'), 'utf8'),
    ...evil,
  ]
}

const untouched = ['outside', 'secret', 'secret']

/** Refused with this code, or unpacked: either way nothing outside has changed. @returns the code */
async function attempt(place: Place, entries: Entries, options: ApplyTarOptions): Promise<string> {
  return await applyTar(place.root.n, chunked(tar(...entries), 1000), options).then(
    () => 'unpacked',
    (error: unknown) => String((error as { code?: unknown }).code),
  )
}

const dir = (name: string): RawEntry => ({ name, type: '5', mode: 0o755 })
const file = (name: string, data = 'evil'): RawEntry => ({ name, data })
const symlink = (name: string, linkName: string): RawEntry => ({ name, type: '2', linkName })
const link = (name: string, linkName: string): RawEntry => ({ name, type: '1', linkName })

const attacks: [what: string, entries: Entries, outcome: string][] = [
  // node-tar kept a list of directories that it had made, and did not look again.
  [
    'CVE-2021-32803: a directory, then a symlink of its name, then a file in it',
    [dir('d/'), symlink('d', '../outside'), file('d/secret')],
    'unsafe',
  ],
  [
    'CVE-2021-32803: the same by a name with a slash at its end',
    [dir('d'), symlink('d/', '../outside'), file('d/secret')],
    'unsafe',
  ],
  [
    'CVE-2021-32803: twice to and fro',
    [
      dir('d/'),
      file('d/a'),
      symlink('d', '..'),
      dir('d/'),
      file('d/b'),
      symlink('d', '../outside'),
      file('d/secret'),
    ],
    'unsafe',
  ],
  [
    'CVE-2021-32804: absolute paths, with roots one behind the other',
    [file('////etc/lamina-evil'), file('/./outside/secret'), symlink('///s', '/'), file('//s/lamina-evil')],
    'unsafe',
  ],
  [
    'CVE-2021-37701: a backslash in the name of a directory that becomes a symlink',
    [dir('d\\x/'), symlink('d\\x', '../outside'), file('d\\x/secret')],
    'unsafe',
  ],
  [
    'CVE-2021-37701: names that one filesystem takes for the same',
    [dir('FOO/'), symlink('foo', '../outside'), file('FOO/secret')],
    'unpacked',
  ],
  [
    'CVE-2021-37712: and in composed and decomposed letters',
    [dir('caf\xc3\xa9/'), symlink('cafe\xcc\x81', '../outside'), file('caf\xc3\xa9/secret')],
    'unpacked',
  ],
  [
    'CVE-2021-37713: a path relative to a drive',
    [file('C:../outside/secret'), file('c:..\\outside\\secret')],
    'unpacked',
  ],
  [
    'a symlink with .. behind a directory that is none',
    [symlink('a', 'b'), symlink('b', '..'), file('a/outside/secret')],
    'unsafe',
  ],
  [
    'a symlink to itself through /proc',
    [symlink('s', '/proc/self/root/tmp'), file('s/lamina-evil')],
    'unsafe',
  ],
  [
    'a hard link to a symlink, then data for its name',
    [symlink('s', '../outside/secret'), link('h', 's'), file('h')],
    'unpacked',
  ],
  [
    'a hard link of a symlink that leads out, then a file below it',
    [symlink('s', '../outside'), link('h', 's'), file('h/secret')],
    'unsafe',
  ],
  ['a hard link by an absolute name', [link('h', '/../outside/secret')], 'unsafe'],
  [
    'a hard link through a symlink that was a directory',
    [dir('d/'), file('d/secret'), symlink('d', '../outside'), link('h', 'd/secret')],
    'unsafe',
  ],
  [
    'a symlink in place of the parent of a later hard link',
    [dir('d/'), file('f'), symlink('d', '../outside'), link('d/secret', 'f')],
    'unsafe',
  ],
  ['.wh... hides the parent', [dir('d/'), { name: 'd/.wh...' }], 'unsafe'],
  ['.wh.. hides the directory itself', [dir('d/'), { name: 'd/.wh..' }], 'unsafe'],
  ['.wh. hides nothing', [dir('d/'), { name: 'd/.wh.' }], 'unpacked'],
  ['a path behind a whiteout of aufs', [{ name: '.wh..wh.x/../../outside' }], 'unsafe'],
  [
    'a whiteout below a whiteout',
    [{ name: '.wh.a' }, { name: '.wh.a/.wh.b' }, { name: 'a/../../outside/.wh.secret' }],
    'unsafe',
  ],
  ['a whiteout through a symlink', [symlink('s', '../outside'), { name: 's/.wh.secret' }], 'unsafe'],
  ['an opaque marker through a symlink', [symlink('s', '../outside'), { name: 's/.wh..wh..opq' }], 'unsafe'],
  ['an opaque marker through an absolute symlink', [symlink('s', '/'), { name: 's/.wh..wh..opq' }], 'unsafe'],
  [
    'a marker with a path in a pax record',
    [
      { name: 'x', pax: { path: 's/.wh..wh..opq' } },
      symlink('s', '..'),
      { name: 'x', pax: { path: 's/.wh.outside' } },
    ],
    'unsafe',
  ],
  [
    'a name in a pax record that leads out',
    [{ name: 'fine', data: 'x', pax: { path: '../outside/secret' } }],
    'unsafe',
  ],
  [
    'a link target in a pax record that does',
    [{ name: 'fine', type: '1', linkName: 'fine2', pax: { linkpath: '../outside/secret' } }],
    'unsafe',
  ],
  [
    'GNU.sparse.name that does',
    [
      {
        name: 'x',
        data: 'abc',
        pax: { 'GNU.sparse.name': '../outside/secret', 'GNU.sparse.size': '3', 'GNU.sparse.map': '0,3' },
      },
    ],
    'unsafe',
  ],
  [
    'a GNU long name that does',
    [
      header({ name: '././@LongLink', type: 'L', size: 17, magic: 'ustar  \0' }),
      padded(Buffer.from('../outside/secret')),
      file('x'),
    ],
    'unsafe',
  ],
  ['a ustar prefix that does', [prefixed('..', 'outside/secret')], 'unsafe'],
]

function prefixed(prefix: string, name: string): Buffer {
  const block = header({ name })
  block.write(prefix, 345, 'latin1')
  block.fill(' ', 148, 156)
  const sum = block.reduce((total, byte) => total + byte, 0)
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 8, 'latin1')
  return block
}

/** Markers mean nothing to `literal`: they are files. */
const literally = /^\.wh|whiteout|marker/

for (const [what, entries, outcome] of attacks) {
  t.test(what, { skip: isRoot ? false : 'needs root' }, async t => {
    for (const options of MODES) {
      using place = guarded()
      const code = await attempt(place, entries, options)
      t.same(outsideOf(place), untouched, options.whiteouts)
      if (options.whiteouts !== 'literal' || !literally.test(what)) t.equal(code, outcome, options.whiteouts)
    }
  })
}

t.test(
  'a layer laid over others removes and writes nothing through their symlinks',
  { skip: isRoot ? false : 'needs root' },
  async t => {
    const below: [name: string, target: string][] = [
      ['out', '../outside'],
      ['abs', '/'],
      ['up', 'deep/../..'],
    ]
    for (const [name, target] of below) {
      for (const entry of [
        `${name}/.wh.secret`,
        `${name}/.wh..wh..opq`,
        `${name}/.wh.outside`,
        `${name}/secret`,
      ]) {
        using place = guarded()
        mkdirSync(join(place.rootPath, 'deep'))
        symlinkSync(target, join(place.rootPath, name))
        t.equal(
          await attempt(place, [{ name: entry, data: entry.includes('.wh.') ? '' : 'evil' }], {
            whiteouts: 'apply',
          }),
          'unsafe',
          `${entry} through ${target}`,
        )
        t.same(outsideOf(place), untouched)
      }
    }
  },
)

t.test(
  'on a filesystem that folds case a symlink is not taken for the directory that it replaced',
  { skip: isRoot ? false : 'needs root' },
  async t => {
    using place = guarded()
    const image = place.file('image')
    const fd = openSync(image, 'w')
    ftruncateSync(fd, 16 << 20)
    closeSync(fd)
    const made = spawnSync('mkfs.ext4', ['-q', '-O', 'casefold', '-E', 'encoding=utf8', image])
    const mounted = made.status === 0 ? spawnSync('mount', ['-o', 'loop', image, place.rootPath]) : made
    if (mounted.status !== 0) {
      t.pass('this kernel, or mkfs.ext4, has no such filesystem')
      return
    }
    try {
      const folded = join(place.rootPath, 'folded')
      mkdirSync(folded)
      if (spawnSync('chattr', ['+F', folded]).status !== 0) return
      using root = sys.openat(sys.AT_FDCWD, folded, sys.O_RDONLY | sys.O_DIRECTORY)
      const entries = [dir('FOO/'), file('FOO/a'), symlink('foo', '../../outside'), file('FOO/secret')]
      const error = await applyTar(root.n, chunked(tar(...entries)), { whiteouts: 'literal' }).then(
        () => undefined,
        (error: unknown) => error as Error,
      )
      t.ok(error, 'refused')
      t.equal(readFileSync(place.file('outside/secret'), 'utf8'), 'secret')
    } finally {
      spawnSync('umount', ['-l', place.rootPath])
    }
  },
)
