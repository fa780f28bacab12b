import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import * as sys from '../../src/sys/index.js'
import { Scratch, unavailable } from './fixture.js'

/** A metacopy file whose attribute nobody looks for is a file of holes; kill -9 found these ways to get one. */

const skip = unavailable('lamina') ?? false
const OPTIONS = ['metacopy=on', 'redirect_dir=on']

t.test(
  'a metacopy file keeps its data when it moves into a new directory after a remount',
  { skip },
  async t => {
    using scratch = new Scratch('metacopy-move')
    const data = randomBytes(20_000)
    fs.writeFileSync(path.join(scratch.mkdir('lower0'), 'f'), data)
    let mount = scratch.overlay('lamina', 1, OPTIONS)
    const at = (name: string): string => path.join(mount.mountpoint, name)
    fs.chmodSync(at('f'), 0o600)
    const attr = sys.getxattrAt(sys.AT_FDCWD, scratch.path('upper', 'f'), 'trusted.overlay.metacopy')
    t.ok(attr !== undefined, 'no data was copied')
    mount = mount.remount()
    fs.mkdirSync(at('new'))
    fs.renameSync(at('f'), at('new/g'))
    mount = mount.remount()
    t.strictSame(fs.readFileSync(at('new/g')), data, 'after rename')
    fs.mkdirSync(at('other'))
    fs.linkSync(at('new/g'), at('other/h'))
    mount = mount.remount()
    t.strictSame(fs.readFileSync(at('other/h')), data, 'after link')
    mount.unmount()
  },
)

t.test(
  "a metacopy file of a lower hard link that the kernel's overlayfs moved into a new directory",
  {
    skip: skip === false ? (unavailable('kernel') ?? false) : skip,
  },
  async t => {
    using scratch = new Scratch('metacopy-kernel')
    const data = randomBytes(20_000)
    fs.writeFileSync(path.join(scratch.mkdir('lower0'), 'f'), data)
    fs.linkSync(scratch.path('lower0', 'f'), scratch.path('lower0', 'f2'))
    const theirs = scratch.overlay('kernel', 1, [...OPTIONS, 'index=off'])
    fs.chmodSync(path.join(theirs.mountpoint, 'f'), 0o600)
    fs.mkdirSync(path.join(theirs.mountpoint, 'new'))
    fs.renameSync(path.join(theirs.mountpoint, 'f'), path.join(theirs.mountpoint, 'new/f'))
    theirs.unmount()
    const impure = sys.getxattrAt(sys.AT_FDCWD, scratch.path('upper', 'new'), 'trusted.overlay.impure')
    t.equal(impure, undefined, 'the directory is not marked')
    for (const options of [[...OPTIONS, 'index=off'], ['metacopy=off']]) {
      const ours = scratch.overlay('lamina', 1, options)
      t.strictSame(fs.readFileSync(path.join(ours.mountpoint, 'new/f')), data, options.join())
      ours.unmount()
    }
  },
)
