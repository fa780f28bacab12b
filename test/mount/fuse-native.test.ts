import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { PROJECT, Scratch, unavailable } from './fixture.js'

/** `lamina mount --transport fuse-native`: the overlay through libfuse 2.9; LAMINA_SUBJECTS=kernel,fuse-native has all of it. */

t.test('the overlay is served, and ends in order', { skip: unavailable('fuse-native') ?? false }, async t => {
  using scratch = new Scratch('fuse-native')
  const lower = scratch.mkdir('lower0')
  fs.writeFileSync(path.join(lower, 'kept'), 'kept')
  fs.writeFileSync(path.join(lower, 'changed'), 'before')
  fs.writeFileSync(path.join(lower, 'removed'), 'x')
  const mount = scratch.overlay('fuse-native')
  const at = (...names: string[]): string => path.join(mount.mountpoint, ...names)
  t.same(fs.readdirSync(mount.mountpoint).sort(), ['changed', 'kept', 'removed'])
  fs.appendFileSync(at('changed'), ', after')
  fs.rmSync(at('removed'))
  fs.mkdirSync(at('new'))
  fs.writeFileSync(at('new/file'), Buffer.alloc(3_000_000, 'n'))
  fs.renameSync(at('new/file'), at('moved'))
  fs.linkSync(at('moved'), at('new/again'))
  fs.symlinkSync('kept', at('link'))
  fs.truncateSync(at('moved'), 1_000_000)
  t.equal(fs.readFileSync(at('changed'), 'utf8'), 'before, after')
  t.equal(fs.readFileSync(at('link'), 'utf8'), 'kept')
  t.same([fs.statSync(at('new/again')).size, fs.statSync(at('new/again')).nlink], [1_000_000, 2])
  t.throws(() => fs.readFileSync(at('removed')), { code: 'ENOENT' })
  t.throws(() => fs.rmdirSync(at('new')), { code: 'ENOTEMPTY' })
  const open = fs.openSync(at('moved'), 'r+')
  fs.unlinkSync(at('moved'))
  fs.writeSync(open, 'still', 0)
  const back = Buffer.alloc(5)
  fs.readSync(open, back, 0, 5, 0)
  t.equal(back.toString(), 'still')
  fs.closeSync(open)
  const stats = mount.stats()
  t.equal(stats.faults, 0)
  t.ok((stats.requests['GETATTR'] ?? 0) > 10)
  // RELEASE is not waited for by close(2).
  let { inodes } = stats
  for (const end = Date.now() + 10_000; inodes > 1 && Date.now() < end;) inodes = mount.stats().inodes
  t.equal(inodes, 1, 'every reference was given back')
  mount.unmount()
  t.equal(fs.readFileSync(path.join(lower, 'changed'), 'utf8'), 'before')
  t.same(fs.readdirSync(scratch.path('upper')).sort(), ['changed', 'link', 'new', 'removed'])
})

t.test(
  'what is missing is said in one line, and nothing is left',
  { skip: process.geteuid?.() !== 0 && 'needs root' },
  async t => {
    using scratch = new Scratch('fuse-native-missing')
    const lower = scratch.mkdir('lower')
    const empty = scratch.mkdir('empty')
    const nothing = scratch.path('nothing')
    fs.writeFileSync(nothing, '')
    /** Mounts in a namespace where `hidden` is hidden. */
    const mount = (hide: string): { status: number | null; stderr: string } =>
      spawnSync(
        'unshare',
        [
          ...['-m', '--propagation', 'private', 'sh', '-c', `${hide}; exec "$@"`, 'sh', process.execPath],
          ...[path.join(PROJECT, 'bin/lamina.js'), 'mount', '--transport', 'fuse-native'],
          ...['-o', `lowerdir=${lower}`, scratch.mkdir('mnt')],
        ],
        { encoding: 'utf8' },
      )
    const modules = path.join(PROJECT, 'node_modules/fuse-native')
    if (fs.existsSync(modules)) {
      const none = mount(`mount --bind '${empty}' '${modules}'`)
      t.equal(none.status, 1)
      t.equal(
        none.stderr,
        'lamina: --transport fuse-native: the optional package fuse-native is not installed: npm install fuse-native; or leave --transport away\n',
      )
    }
    const library = '/lib/x86_64-linux-gnu/libfuse.so.2'
    if (unavailable('fuse-native') === undefined && fs.existsSync(library)) {
      const none = mount(`mount --bind '${nothing}' "$(readlink -f ${library})"`)
      t.equal(none.status, 1)
      t.match(
        none.stderr,
        /^lamina: --transport fuse-native: libfuse\.so\.2 is missing: .* apt-get install libfuse2\).*\n$/,
      )
    }
    t.same(fs.readdirSync(scratch.path('mnt')), [])
  },
)
