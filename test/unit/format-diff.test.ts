import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { Fd } from '../../src/base/fd.js'
import { diffUpper } from '../../src/format/diff.js'

const isRoot = process.geteuid?.() === 0

/** `A /path` lines of an upper directory. */
function diff(directory: string): string[] {
  using root = new Fd(fs.openSync(directory, 'r'))
  return Array.from(
    diffUpper(root),
    change => `${change.kind} ${change.path}${change.opaque === true ? ' opaque' : ''}`,
  )
}

function xattr(file: string, name: string, value: string): void {
  execFileSync('setfattr', ['-h', '-n', name, '-v', value, file])
}

t.test('an empty upperdir changes nothing', async t => {
  t.strictSame(diff(t.testdir()), [])
})

t.test('what carries an origin was changed, what does not was added', async t => {
  const upper = t.testdir({
    copied: '',
    fuse: '',
    fresh: '',
    link: t.fixture('symlink', 'fresh'),
    etc: { passwd: '' },
    new: { file: '' },
  })
  xattr(path.join(upper, 'copied'), 'user.overlay.origin', '0x00fb1d00')
  xattr(path.join(upper, 'fuse'), 'user.fuseoverlayfs.origin', 'some/path')
  xattr(path.join(upper, 'etc'), 'user.overlay.origin', '0x00')
  xattr(path.join(upper, 'etc/passwd'), 'user.overlay.origin', '0x00')
  t.strictSame(diff(upper), [
    'C /copied',
    'C /etc',
    'C /etc/passwd',
    'A /fresh',
    'C /fuse',
    'A /link',
    'A /new',
    'A /new/file',
  ])
})

t.test('an impure directory was there before', async t => {
  const upper = t.testdir({ dir: { in: '' } })
  xattr(path.join(upper, 'dir'), 'user.overlay.impure', 'y')
  t.strictSame(diff(upper), ['C /dir', 'A /dir/in'])
})

t.test('every dialect of whiteouts is a deletion', { skip: !isRoot && 'needs root for mknod' }, async t => {
  const upper = t.testdir({ '.wh.marker': '', sub: { xattr: '', empty: '', '.wh.deep': '' } })
  execFileSync('mknod', [path.join(upper, 'device'), 'c', '0', '0'])
  execFileSync('mknod', [path.join(upper, 'null'), 'c', '1', '3'])
  xattr(path.join(upper, 'sub'), 'user.overlay.opaque', 'x')
  xattr(path.join(upper, 'sub/xattr'), 'user.overlay.whiteout', 'y')
  t.strictSame(diff(upper), [
    'D /device',
    'D /marker',
    'A /null',
    'A /sub',
    'D /sub/deep',
    'A /sub/empty',
    'D /sub/xattr',
  ])
})

t.test('an opaque directory was made anew, whichever way it says so', async t => {
  const upper = t.testdir({ a: { x: '' }, b: {}, c: { '.wh..wh..opq': '' } })
  xattr(path.join(upper, 'a'), 'user.overlay.opaque', 'y')
  xattr(path.join(upper, 'a'), 'user.overlay.origin', '0x00')
  xattr(path.join(upper, 'b'), 'user.fuseoverlayfs.opaque', 'y')
  t.strictSame(diff(upper), ['A /a opaque', 'A /a/x', 'A /b opaque', 'A /c opaque'])
})

t.test('a marker beside the name itself does not delete it', async t => {
  t.strictSame(diff(t.testdir({ '.wh.name': '', name: '' })), ['A /name'])
})

t.test('a redirected directory is a new name', async t => {
  const upper = t.testdir({ moved: {} })
  xattr(path.join(upper, 'moved'), 'user.overlay.origin', '0x00')
  xattr(path.join(upper, 'moved'), 'user.overlay.redirect', '/old')
  t.strictSame(diff(upper), ['A /moved'])
})

t.test('a directory stands before what is in it, names in order of their bytes', async t => {
  const upper = t.testdir({ 'a-b': '', a: { z: '' }, 'a.b': '' })
  t.strictSame(diff(upper), ['A /a', 'A /a/z', 'A /a-b', 'A /a.b'])
})
