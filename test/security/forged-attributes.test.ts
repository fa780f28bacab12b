import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { applyTar, tarTree } from '../../src/oci/index.js'
import * as sys from '../../src/sys/index.js'
import { asUser, getxattr, listxattr, setxattr } from '../conformance/posix.js'
import { Bench, isRoot } from '../manager/fixture.js'
import { Scratch } from '../mount/fixture.js'
import { chunked, tar } from '../unit/oci-fixture.js'

/**
 * Attributes that mean something to overlays, in what comes from elsewhere and in what goes out: archives, directories that become images,
 * volumes. Nobody gets another owner, mode, type or content by them.
 */

const skip = isRoot ? false : 'needs root'
const OWNER = 1000
/** cap_net_raw+ep, version 2. */
const CAPABILITY = Buffer.from('0100000200200000000000000000000000000000', 'hex')
const FORGED = {
  'user.containers.override_stat': '0:0:4755:block-8-0',
  'user.fuseoverlayfs.override_stat': '0:0:4755',
  'security.fuseoverlayfs.override_stat': '0:0:4755',
}
const MARKS = { 'trusted.overlay.redirect': '/etc', 'user.overlay.metacopy': '' }
const ALL = { ...FORGED, ...MARKS, 'security.capability': CAPABILITY, 'user.kept': 'yes' }

const schily = (attrs: Record<string, string | Buffer>): Record<string, string | Buffer> =>
  Object.fromEntries(Object.entries(attrs).map(([name, value]) => [`SCHILY.xattr.${name}`, value]))

for (const [what, options, expected] of [
  [
    'a layer',
    { whiteouts: 'overlay' },
    ['trusted.overlay.overlay.redirect', 'user.overlay.overlay.metacopy'],
  ],
  [
    'an upperdir',
    { whiteouts: 'literal', upper: true },
    ['trusted.overlay.overlay.redirect', 'user.overlay.overlay.metacopy'],
  ],
  ['a tree', { whiteouts: 'literal' }, ['trusted.overlay.redirect', 'user.overlay.metacopy']],
] as const) {
  t.test(`unpacked as ${what}, an archive says of no file who owns it by an attribute`, { skip }, async t => {
    using scratch = new Scratch('forged-tar')
    using root = sys.openat(sys.AT_FDCWD, scratch.mkdir('tree'), sys.O_RDONLY | sys.O_DIRECTORY)
    const archive = tar(
      { name: 'd/', type: '5', mode: 0o755, pax: schily(ALL) },
      { name: 'f', data: 'x', mode: 0o755, pax: schily(ALL) },
    )
    const { warnings } = await applyTar(root.n, chunked(archive), options)
    for (const name of ['d', 'f'])
      t.strictSame(
        listxattr(scratch.path('tree', name)).sort(),
        ['security.capability', ...expected, 'user.kept'].sort(),
        name,
      )
    t.ok(
      warnings.some(line => line.includes('user.containers.override_stat')),
      'it is said',
    )
    t.equal(
      getxattr(scratch.path('tree/f'), 'security.capability'),
      CAPABILITY.toString('latin1'),
      'capabilities stay',
    )
  })
}

for (const contents of ['layer', 'plain'] as const) {
  t.test(`a tree packed as ${contents}: owner, mode and type are the real ones`, { skip }, async t => {
    using scratch = new Scratch('forged-tree')
    using root = sys.openat(sys.AT_FDCWD, scratch.mkdir('tree'), sys.O_RDONLY | sys.O_DIRECTORY)
    const file = scratch.path('tree/f')
    fs.writeFileSync(file, 'content', { mode: 0o755 })
    fs.chownSync(file, OWNER, OWNER)
    for (const [name, value] of Object.entries({
      ...FORGED,
      'user.overlay.metacopy': '',
      'user.overlay.redirect': '/x',
    }))
      setxattr(file, name, value)
    const parts: Buffer[] = []
    for await (const part of tarTree(root.n, { contents })) parts.push(Buffer.from(part))
    const bytes = Buffer.concat(parts)
    using again = sys.openat(sys.AT_FDCWD, scratch.mkdir('again'), sys.O_RDONLY | sys.O_DIRECTORY)
    await applyTar(again.n, chunked(bytes), { whiteouts: 'literal' })
    const stat = fs.lstatSync(scratch.path('again/f'))
    t.strictSame([stat.isFile(), stat.uid, stat.mode & 0o7777], [true, OWNER, 0o755])
    t.equal(
      fs.readFileSync(scratch.path('again/f'), 'utf8'),
      'content',
      'its content, whatever it says of itself',
    )
    t.notMatch(bytes.toString('latin1'), 'override_stat')
  })
}

t.test(
  "a directory of an ordinary user's imported by root makes no setuid root and no device",
  { skip },
  t => {
    const bench = new Bench(t)
    const tree = bench.path('tree')
    fs.chmodSync(bench.dir, 0o711)
    fs.mkdirSync(tree)
    fs.chownSync(tree, OWNER, OWNER)
    asUser(OWNER, OWNER, () => {
      fs.writeFileSync(path.join(tree, 'sh'), 'x', { mode: 0o755 })
      setxattr(path.join(tree, 'sh'), 'user.containers.override_stat', '0:0:4755')
      fs.writeFileSync(path.join(tree, 'disk'), '')
      setxattr(path.join(tree, 'disk'), 'user.containers.override_stat', '1000:1000:0666:block-8-0')
    })
    const made = bench.lamina('image', 'import', tree, 'forged')
    t.equal(made.status, 0, made.stderr)
    const layer = fs.readdirSync(path.join(bench.root, 'layers'))[0] ?? ''
    const at = (name: string): string => path.join(bench.root, 'layers', layer, 'diff', name)
    t.equal(fs.lstatSync(at('sh')).mode & 0o7777, 0o755)
    t.equal(fs.lstatSync(at('sh')).uid, OWNER)
    t.ok(fs.lstatSync(at('disk')).isFile())
    t.strictSame(listxattr(at('sh')), [])
    t.end()
  },
)

t.test('a volume: backup and restore carry no override_stat, and no marks into an upperdir', { skip }, t => {
  const bench = new Bench(t)
  const run = (...args: string[]): string => {
    const done = bench.lamina(...args)
    if (done.status !== 0) throw new Error(`${args.join(' ')}: ${done.stderr}`)
    return done.stdout
  }
  run('volume', 'create', 'vol')
  const volumes = path.join(bench.root, 'volumes')
  const data = path.join(volumes, fs.readdirSync(volumes)[0] ?? '', '_data')
  fs.mkdirSync(path.join(data, 'd'))
  fs.writeFileSync(path.join(data, 'f'), 'x')
  for (const name of ['d', 'f'])
    for (const [attr, value] of Object.entries({
      'user.containers.override_stat': '0:0:4755',
      'trusted.overlay.opaque': 'y',
      'user.kept': 'yes',
    }))
      setxattr(path.join(data, name), attr, value)
  const file = bench.path('v.tar.zst')
  run('volume', 'backup', '-o', file, 'vol')
  const before = new Set(fs.readdirSync(volumes))
  run('volume', 'restore', file, 'plain')
  const plain = fs.readdirSync(volumes).find(name => !before.has(name)) ?? ''
  t.strictSame(listxattr(path.join(volumes, plain, '_data/f')).sort(), [
    'trusted.overlay.opaque',
    'user.kept',
  ])
  before.add(plain)
  run('volume', 'restore', '--size', '8m', file, 'sized')
  const sized = fs.readdirSync(volumes).find(name => !before.has(name)) ?? ''
  t.strictSame(listxattr(path.join(volumes, sized, 'data/d')).sort(), [
    'trusted.overlay.overlay.opaque',
    'user.kept',
  ])
  t.end()
})
