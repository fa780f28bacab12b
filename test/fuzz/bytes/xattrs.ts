import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Again } from '../../../src/fuse/filesystem.js'
import { SysError } from '../../../src/base/sys-error.js'
import * as sys from '../../../src/sys/index.js'
import { Succession } from '../../unit/recovery-fixture.js'
import type { Target } from './target.js'

const ATTRIBUTES = ['redirect', 'opaque', 'origin', 'metacopy', 'upper', 'impure', 'nlink', 'whiteout']
const PREFIXES = ['trusted.overlay.', 'user.overlay.']
const OTHERS = [
  'user.fuseoverlayfs.opaque',
  'user.containers.override_stat',
  'security.fuseoverlayfs.override_stat',
]
const NAMES = [...PREFIXES.flatMap(prefix => ATTRIBUTES.map(each => prefix + each)), ...OTHERS]

/**
 * Attributes of a hostile upper: first which one and of what, then its value. Looking at the object ends well, or with an errno, and never
 * with another object's data from outside of the layers.
 */
export function xattrs(): Target {
  const it = new Succession(false, { redirectDir: 'on', metacopy: true })
  for (const layer of ['lower', 'upper']) {
    for (const dir of ['d', 'd/inner', 'e']) mkdirSync(join(it.root, layer, dir), { recursive: true })
    for (const file of ['f', 'd/f', 'd/inner/f', 'e/f']) writeFileSync(join(it.root, layer, file), file)
  }
  const upper = sys.openat(sys.AT_FDCWD, join(it.root, 'upper'), sys.O_RDONLY | sys.O_DIRECTORY)
  const value = (name: string, target: number, text: string | Buffer): Buffer =>
    Buffer.concat([Buffer.from([NAMES.indexOf(name), target]), Buffer.from(text)])
  const origin = Buffer.alloc(29)
  origin.set([0, 0xfb, origin.length, 0, 1])
  return {
    seeds: [
      value('trusted.overlay.redirect', 0, '/e/inner'),
      value('trusted.overlay.redirect', 1, 'e'),
      value('trusted.overlay.opaque', 0, 'y'),
      value('trusted.overlay.opaque', 0, 'x'),
      value('trusted.overlay.origin', 1, origin),
      value('trusted.overlay.metacopy', 1, Buffer.from([0, 8, 0, 1, 1, 2, 3, 4])),
      value('user.containers.override_stat', 1, '0:0:0644:block-8-1'),
      value('user.fuseoverlayfs.opaque', 0, 'y'),
      value('trusted.overlay.nlink', 1, 'L+1'),
    ],
    covers: ['/src/overlay/', '/src/format/'],
    run(input) {
      const attribute = NAMES[(input[0] ?? 0) % NAMES.length] ?? ''
      const object = (input[1] ?? 0) % 2 === 0 ? 'd' : 'f'
      try {
        sys.setxattrAt(upper.n, object, attribute, input.subarray(2))
      } catch (error) {
        // No filesystem takes a value of that size: nothing can be read either.
        if (error instanceof SysError) return
        throw error
      }
      try {
        it.takeOver()
        for (const path of [['d', 'inner', 'f'], ['d', 'f'], ['f']]) look(it, path)
      } finally {
        sys.removexattrAt(upper.n, object, attribute)
        it.bury()
      }
    },
    close() {
      upper.close()
      it[Symbol.dispose]()
      rmSync(it.root, { recursive: true, force: true })
    },
  }
}

function look(it: Succession, path: readonly string[]): void {
  let nodeid = 1
  const given: number[] = []
  try {
    for (const name of path) {
      nodeid = it.overlay.lookup(nodeid, name).nodeid
      if (nodeid === 0) break
      given.push(nodeid)
      it.overlay.getattr(nodeid)
      it.overlay.listxattr(nodeid, { uid: 0, gid: 0, pid: 1 })
    }
    if (nodeid !== 0) it.overlay.prepareIo(nodeid, false)
  } catch (error) {
    if (!(error instanceof SysError) && !(error instanceof Again)) throw error
  }
  for (const each of given) it.overlay.forget(each, 1)
}
