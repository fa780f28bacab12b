import * as sys from '../../src/sys/index.js'
import { acl } from './acl.js'
import {
  append,
  chmod,
  chown,
  join,
  link,
  ls,
  mkdir,
  mknod,
  open,
  overwrite,
  removexattr,
  rename,
  rmdir,
  setxattr,
  symlink,
  truncate,
  unlink,
  utimens,
  write,
  writeAt,
} from './posix.js'

const OLD = { sec: 987_654_321, nsec: 123_456_789 }

/** Three lower layers, top first, with whiteouts and an opaque directory between them. */
/**
 * What both can do. Debian's fuse-overlayfs 1.10 hangs at mount over a fifo in upperdir, cannot copy fifos and devices up, and
 * takes no names longer than 251 bytes.
 */
export interface Extent {
  special: boolean
  longest: number
}

export function fillLowers(dirs: readonly string[]): void {
  const [top, middle, bottom] = dirs as [string, string, string]
  for (const dir of dirs) {
    mkdir(join(dir, 'merged'))
    mkdir(join(dir, 'merged', 'deep'))
  }
  for (let i = 0; i < 45; i++) {
    const dir = [top, middle, bottom][i % 3]!
    write(join(dir, `file${i}`), `content of ${i}\n`.repeat(i * 10))
    chown(join(dir, `file${i}`), i, i + 1)
    chmod(join(dir, `file${i}`), 0o600 + (i % 64))
    setxattr(join(dir, `file${i}`), 'user.number', `${i}`)
    utimens(join(dir, `file${i}`), OLD, { sec: OLD.sec + i, nsec: i })
    write(join(dir, 'merged', `in${i}`), `${i}`)
    write(join(dir, 'merged', 'deep', `in${i}`), `${i}`)
  }
  mknod(join(top, 'file1'), sys.S_IFCHR, 0)
  mknod(join(middle, 'merged', 'in2'), sys.S_IFCHR, 0)
  mkdir(join(middle, 'opaque'))
  setxattr(join(middle, 'opaque'), 'trusted.overlay.opaque', 'y')
  write(join(middle, 'opaque', 'seen'), '')
  mkdir(join(bottom, 'opaque'))
  write(join(bottom, 'opaque', 'hidden'), '')
  for (const name of ['removed', 'emptied', 'remade', 'listed']) {
    mkdir(join(bottom, name))
    for (let i = 0; i < 5; i++) write(join(bottom, name, `${i}`), `${i}`)
  }
  symlink('file3', join(bottom, 'symlink'))
  symlink('n'.repeat(500), join(bottom, 'long symlink'))
  mknod(join(bottom, 'fifo'), sys.S_IFIFO | 0o640)
  mknod(join(bottom, 'device'), sys.S_IFCHR | 0o620, sys.makedev(1, 3))
  write(join(bottom, 'linked'), 'linked')
  link(join(bottom, 'linked'), join(bottom, 'linked too'))
  write(join(bottom, '\xff\xfe not utf-8'), 'bytes')
  for (const length of [251, 255]) write(join(bottom, 'n'.repeat(length)), 'long')
  mkdir(join(bottom, 'default acl'))
  setxattr(
    join(bottom, 'default acl'),
    'system.posix_acl_default',
    acl('u::rwx,u:1000:rwx,g::r-x,m::rwx,o::---'),
  )
  write(join(bottom, 'sparse'), '')
  truncate(join(bottom, 'sparse'), 8 << 20)
  overwrite(join(bottom, 'sparse'), 'middle', 4 << 20)
}

/** A mix of every kind of change. `round` makes a second run over the result of the first do other things. */
export function change(view: string, round: number, extent: Extent): void {
  const at = (...names: string[]): string => join(view, ...names)
  const n = (i: number): string => at(`file${i + 20 * round}`)
  overwrite(n(3), 'overwritten', 5)
  append(n(4), 'appended')
  truncate(n(5), 3)
  truncate(n(6), 10_000)
  chmod(n(7), 0o4711)
  chown(n(8), 4000 + round, 5000)
  utimens(n(9), OLD, { sec: -5, nsec: 999_999_999 })
  setxattr(n(10), 'user.set', `in round ${round}`)
  removexattr(n(12), 'user.number')
  setxattr(n(13), 'trusted.set', Buffer.from([0, 1, 255]))
  setxattr(n(14), 'system.posix_acl_access', acl('u::rw-,u:1000:rw-,g::r--,m::rw-,o::---'))
  unlink(n(15))
  unlink(n(16))
  write(n(16), 'made again over the whiteout')
  rename(n(17), at(`renamed ${round}`))
  rename(n(18), n(19))
  link(n(20), at(`link ${round}`))
  write(at('merged', `new ${round}`), 'new', 0o640)
  write(at('merged', 'deep', `new ${round}`), 'new')
  unlink(at('merged', `in${20 + round}`))
  chmod(at('merged', 'deep'), 0o2750)
  setxattr(at('merged'), 'user.merged', `${round}`)
  mkdir(at(`dir ${round}`), 0o700)
  mkdir(at(`dir ${round}`, 'sub'))
  write(at(`dir ${round}`, 'sub', 'f'), 'f')
  rename(at(`dir ${round}`), at(`moved dir ${round}`))
  symlink('target', at(`new symlink ${round}`))
  if (extent.special) {
    mknod(at(`new fifo ${round}`), sys.S_IFIFO | 0o600)
    mknod(at(`new device ${round}`), sys.S_IFBLK | 0o600, sys.makedev(7, 200_000))
    mknod(at(`new socket ${round}`), sys.S_IFSOCK | 0o600)
  }
  write(at('default acl', `new ${round}`), 'x', 0o666)
  mkdir(at('default acl', `newdir ${round}`), 0o777)
  write(at(`\xfd\x80 new ${round}`), 'bytes')
  {
    using fd = open(at(`holes ${round}`), sys.O_CREAT | sys.O_RDWR, 0o600)
    sys.truncateFd(fd.n, 4 << 20)
    writeAt(fd, 'end', (4 << 20) - 3)
  }
  if (round === 0) {
    remove(at('removed'))
    for (const name of ls(at('emptied'))) unlink(at('emptied', name))
    remove(at('remade'))
    mkdir(at('remade'))
    write(at('remade', '2'), 'other')
    chown(at('symlink'), 7, 7)
    utimens(at('long symlink'), OLD, OLD)
    if (extent.special) {
      chmod(at('fifo'), 0o600)
      chown(at('device'), 9, 9)
    }
    overwrite(at('linked'), 'LINKED')
    chmod(at('\xff\xfe not utf-8'), 0o600)
    rename(at('n'.repeat(extent.longest)), at('m'.repeat(extent.longest)))
    overwrite(at('sparse'), 'start')
    write(at('opaque', 'new'), 'new')
  } else {
    mkdir(at('removed'))
    write(at('removed', '1'), 'anew')
    unlink(at('remade', '2'))
    rmdir(at('emptied'))
    rename(at('moved dir 0'), at('emptied'))
    unlink(at('link 0'))
    unlink(at('symlink'))
    rename(at('m'.repeat(extent.longest)), at('n'.repeat(extent.longest)))
  }
}

function remove(dir: string): void {
  for (const name of ls(dir)) unlink(join(dir, name))
  rmdir(dir)
}
