import assert from 'node:assert/strict'
import * as sys from '../../../src/sys/index.js'
import {
  append,
  chmod,
  exists,
  getxattr,
  join,
  link,
  ls,
  mkdir,
  open,
  outcome,
  overwrite,
  python,
  read,
  readAt,
  rename,
  rmdir,
  setxattr,
  stat,
  text,
  truncate,
  unlink,
  write,
  writeAt,
} from '../posix.js'
import type { Cases } from '../run.js'

const LOWER = 'the lower content'
const lower = (dir: string): void => write(join(dir, 'f'), LOWER)
/** Coherence over copy-up is what a plain directory has and the kernel's overlayfs does not. */
const COHERENT = ['plain', 'lamina'] as const

export const openFiles: Cases = {
  'unlinked while open: read, written, statted, changed': {
    lowers: [lower],
    run: c => {
      write(join(c.dir, 'up'), 'upper')
      for (const name of ['f', 'up']) {
        using fd = open(join(c.dir, name), sys.O_RDWR)
        unlink(join(c.dir, name))
        assert.equal(exists(join(c.dir, name)), false)
        const before = readAt(fd, 100, 0).toString()
        assert.equal(before, name === 'f' ? LOWER : 'upper')
        writeAt(fd, 'more', before.length)
        assert.equal(readAt(fd, 100, 0).toString(), `${before}more`)
        c.note(`${name} nlink`, sys.statFd(fd.n).nlink)
        assert.equal(sys.statFd(fd.n).size, before.length + 4)
        sys.fchmod(fd.n, 0o611)
        sys.truncateFd(fd.n, 2)
        sys.fsyncSync(fd.n)
        sys.fsetxattr(fd.n, 'user.x', Buffer.from('y'))
        assert.equal(sys.fgetxattr(fd.n, 'user.x')?.toString(), 'y')
        assert.equal(sys.statFd(fd.n).mode & 0o777, 0o611)
        assert.equal(sys.statFd(fd.n).size, 2)
        write(join(c.dir, name), 'another')
        assert.equal(readAt(fd, 100, 0).toString(), before.slice(0, 2))
        assert.equal(text(join(c.dir, name)), 'another')
      }
    },
  },

  'a lower file unlinked while open read-only': {
    lowers: [lower],
    run: c => {
      using fd = open(join(c.dir, 'f'), sys.O_RDONLY)
      unlink(join(c.dir, 'f'))
      assert.equal(readAt(fd, 100, 0).toString(), LOWER)
      assert.equal(sys.statFd(fd.n).size, LOWER.length)
      assert.equal(readAt(fd, 5, 4).toString(), 'lower')
    },
  },

  'nlink of a lower file unlinked while open read-only': {
    on: COHERENT,
    lowers: [lower],
    run: c => {
      using fd = open(join(c.dir, 'f'), sys.O_RDONLY)
      unlink(join(c.dir, 'f'))
      assert.equal(sys.statFd(fd.n).nlink, 0)
    },
  },

  'fchmod, fchown and futimens of a lower file that was unlinked while open read-only': {
    lowers: [lower],
    on: ['plain', 'kernel', 'lamina'],
    run: c => {
      using fd = open(join(c.dir, 'f'), sys.O_RDONLY)
      unlink(join(c.dir, 'f'))
      c.see('fchmod', () => sys.fchmod(fd.n, 0o600))
      c.see('fchown', () => sys.fchown(fd.n, 3, 3))
      assert.equal(readAt(fd, 100, 0).toString(), LOWER)
      assert.equal(exists(join(c.dir, 'f')), false)
    },
    differs:
      'kernel overlayfs copies an unlinked lower file up only for some of these; ours does as a local file',
  },

  'replaced by rename while open': {
    lowers: [dir => (lower(dir), write(join(dir, 'g'), 'g'))],
    run: c => {
      using fd = open(join(c.dir, 'f'), sys.O_RDWR)
      rename(join(c.dir, 'g'), join(c.dir, 'f'))
      writeAt(fd, 'X', 0)
      assert.equal(readAt(fd, 3, 0).toString(), 'Xhe')
      assert.equal(text(join(c.dir, 'f')), 'g')
    },
  },

  'a directory removed while open': {
    lowers: [dir => mkdir(join(dir, 'd'))],
    run: c => {
      mkdir(join(c.dir, 'u'))
      for (const name of ['d', 'u']) {
        using fd = open(join(c.dir, name), sys.O_RDONLY | sys.O_DIRECTORY)
        rmdir(join(c.dir, name))
        c.see(`listing of ${name}`, () => sys.listDir(fd.n).names)
        assert.equal(
          outcome(() => sys.openat(fd.n, 'x', sys.O_CREAT | sys.O_WRONLY, 0o600).close()),
          'ENOENT',
        )
        assert.equal(
          outcome(() => sys.mkdirat(fd.n, 'x', 0o700)),
          'ENOENT',
        )
        assert.equal(sys.statAt(fd.n, 'x'), undefined)
        mkdir(join(c.dir, name))
        write(join(c.dir, name, 'new'), '')
        assert.equal(sys.statAt(fd.n, 'new'), undefined)
      }
    },
  },

  'a descriptor opened before copy-up sees what is written after it': {
    on: COHERENT,
    lowers: [lower],
    run: c => {
      using early = open(join(c.dir, 'f'), sys.O_RDONLY)
      assert.equal(readAt(early, 100, 0).toString(), LOWER)
      overwrite(join(c.dir, 'f'), 'THE')
      assert.equal(readAt(early, 100, 0).toString(), 'THE lower content')
      append(join(c.dir, 'f'), ' and more')
      assert.equal(sys.statFd(early.n).size, LOWER.length + 9)
      assert.equal(readAt(early, 100, 0).toString(), 'THE lower content and more')
      truncate(join(c.dir, 'f'), 3)
      assert.equal(readAt(early, 100, 0).toString(), 'THE')
      chmod(join(c.dir, 'f'), 0o600)
      assert.equal(sys.statFd(early.n).mode & 0o777, 0o600)
      setxattr(join(c.dir, 'f'), 'user.x', 'y')
      assert.equal(sys.fgetxattr(early.n, 'user.x')?.toString(), 'y')
    },
  },

  'a descriptor opened before copy-up, then the name removed, replaced and linked': {
    on: COHERENT,
    lowers: [lower],
    run: c => {
      using early = open(join(c.dir, 'f'), sys.O_RDONLY)
      link(join(c.dir, 'f'), join(c.dir, 'g'))
      unlink(join(c.dir, 'f'))
      overwrite(join(c.dir, 'g'), 'G')
      assert.equal(readAt(early, 3, 0).toString(), 'Ghe')
      unlink(join(c.dir, 'g'))
      assert.equal(readAt(early, 3, 0).toString(), 'Ghe')
      assert.equal(sys.statFd(early.n).nlink, 0)
    },
  },

  'a shared mapping made before copy-up sees what is written after it': {
    on: COHERENT,
    lowers: [dir => write(join(dir, 'f'), Buffer.alloc(3 * 4096, 'l'))],
    run: c => {
      const seen = python(
        `
fd = os.open(A[0], os.O_RDONLY)
m = mmap.mmap(fd, 12288, mmap.MAP_SHARED, mmap.PROT_READ)
first = m[0:1].decode() + m[4096:4097].decode()
w = os.open(A[0], os.O_RDWR)
os.pwrite(w, b'W', 0)
os.pwrite(w, b'W', 8192)
wm = mmap.mmap(w, 12288, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
wm[4096:4097] = b'M'
wm.flush()
print(json.dumps([first, m[0:1].decode() + m[4096:4097].decode() + m[8192:8193].decode(), os.pread(fd, 1, 4096).decode()]))
`,
        join(c.dir, 'f'),
      )
      assert.deepEqual(seen, ['ll', 'WMW', 'M'])
    },
  },

  'mappings: private changes stay private, shared ones reach the file': {
    lowers: [dir => write(join(dir, 'f'), Buffer.alloc(8192, 'l'))],
    run: c => {
      const seen = python(
        `
fd = os.open(A[0], os.O_RDWR)
p = mmap.mmap(fd, 8192, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
p[0:1] = b'P'
s = mmap.mmap(fd, 8192, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
s[4096:4097] = b'S'
s.flush()
os.close(fd)
os.unlink(A[0])
print(json.dumps([s[0:1].decode() + s[4096:4097].decode(), p[0:1].decode() + p[4096:4097].decode()]))
`,
        join(c.dir, 'f'),
      )
      assert.deepEqual(seen, ['lS', 'PS'])
    },
  },

  'O_EXCL, O_CREAT, O_DIRECTORY, O_NOFOLLOW, O_PATH': {
    lowers: [
      dir => (
        lower(dir),
        mkdir(join(dir, 'd')),
        sys.symlinkat('f', sys.AT_FDCWD, join(dir, 'l')),
        sys.symlinkat('none', sys.AT_FDCWD, join(dir, 'dangling'))
      ),
    ],
    run: c => {
      const attempt = (label: string, name: string, flags: number) =>
        c.see(label, () => open(join(c.dir, name), flags, 0o600).close())
      attempt('excl over lower', 'f', sys.O_CREAT | sys.O_EXCL | sys.O_RDWR)
      attempt('excl over dir', 'd', sys.O_CREAT | sys.O_EXCL | sys.O_RDWR)
      attempt('excl over symlink', 'dangling', sys.O_CREAT | sys.O_EXCL | sys.O_RDWR)
      attempt('creat on a directory', 'd', sys.O_CREAT | sys.O_RDWR)
      attempt('directory for writing', 'd', sys.O_RDWR)
      attempt('directory flag on a file', 'f', sys.O_DIRECTORY)
      attempt('nofollow on a symlink', 'l', sys.O_NOFOLLOW)
      attempt('nofollow on a file', 'f', sys.O_NOFOLLOW)
      attempt('path of a symlink', 'l', sys.O_PATH | sys.O_NOFOLLOW)
      attempt('a missing file', 'none', sys.O_RDONLY)
      attempt('create through a dangling symlink', 'dangling', sys.O_CREAT | sys.O_WRONLY)
      attempt('truncate a directory', 'd', sys.O_RDONLY | sys.O_TRUNC | sys.O_DIRECTORY)
      c.note('listing', ls(c.dir))
      using fd = open(join(c.dir, 'f'), sys.O_PATH)
      assert.equal(sys.statAt(fd.n, '')?.size, LOWER.length)
      assert.equal(
        outcome(() => readAt(fd, 1, 0).length),
        'EBADF',
      )
    },
  },

  'access modes hold': {
    lowers: [lower],
    run: c => {
      using reader = open(join(c.dir, 'f'), sys.O_RDONLY)
      using writer = open(join(c.dir, 'f'), sys.O_WRONLY)
      assert.equal(
        outcome(() => writeAt(reader, 'x', 0)),
        'EBADF',
      )
      assert.equal(
        outcome(() => readAt(writer, 1, 0).length),
        'EBADF',
      )
      c.see('ftruncate of a reader', () => sys.truncateFd(reader.n, 0))
      c.see('fallocate of a reader', () => sys.fallocateSync(reader.n, 0, 0, 10))
    },
  },

  'O_APPEND writes at the end whatever the offset, from two descriptors in turn': {
    lowers: [lower],
    run: c => {
      using a = open(join(c.dir, 'f'), sys.O_WRONLY | sys.O_APPEND)
      using b = open(join(c.dir, 'f'), sys.O_WRONLY | sys.O_APPEND)
      for (const [fd, byte] of [
        [a, '1'],
        [b, '2'],
        [a, '3'],
      ] as const)
        sys.pwriteSync(fd.n, Buffer.from(byte), 0, 1, -1)
      assert.equal(text(join(c.dir, 'f')), `${LOWER}123`)
    },
  },

  'O_TRUNC empties a lower and an upper file, and an open descriptor sees it': {
    lowers: [lower],
    run: c => {
      using writer = open(join(c.dir, 'f'), sys.O_RDWR)
      open(join(c.dir, 'f'), sys.O_WRONLY | sys.O_TRUNC).close()
      assert.equal(sys.statFd(writer.n).size, 0)
      assert.equal(readAt(writer, 10, 0).length, 0)
      writeAt(writer, 'again', 0)
      open(join(c.dir, 'f'), sys.O_RDWR | sys.O_TRUNC).close()
      assert.equal(text(join(c.dir, 'f')), '')
    },
  },

  'many descriptors of one file, each with its own offset': {
    lowers: [dir => write(join(dir, 'f'), '0123456789')],
    run: c => {
      const fds = Array.from({ length: 100 }, () => open(join(c.dir, 'f'), sys.O_RDWR))
      const byte = Buffer.alloc(1)
      fds.forEach((fd, i) => {
        for (let n = 0; n <= i % 10; n++) sys.preadSync(fd.n, byte, 0, 1, -1)
        assert.equal(byte.toString(), String(i % 10))
      })
      writeAt(fds[0]!, 'X', 5)
      for (const fd of fds) {
        assert.equal(readAt(fd, 1, 5).toString(), 'X')
        fd.close()
      }
    },
  },

  'opened without permission to read what was created 0200': c => {
    using fd = open(join(c.dir, 'f'), sys.O_CREAT | sys.O_EXCL | sys.O_RDWR, 0)
    writeAt(fd, 'secret', 0)
    assert.equal(readAt(fd, 10, 0).toString(), 'secret')
    assert.equal(stat(join(c.dir, 'f')).mode & 0o7777, 0)
    assert.equal(read(join(c.dir, 'f')).toString(), 'secret')
  },

  'ETXTBSY: a running program is not opened for writing': {
    lowers: [dir => write(join(dir, 'sleep'), readProgram(), 0o755)],
    run: c => {
      const seen = python(
        `
import subprocess
p = subprocess.Popen([A[0], '60'])
try:
    # exec has happened when the link says so
    while os.readlink('/proc/%d/exe' % p.pid).endswith('python3.11') or 'python' in os.readlink('/proc/%d/exe' % p.pid): pass
    print(json.dumps([E(lambda: os.close(os.open(A[0], os.O_WRONLY))), E(lambda: os.close(os.open(A[0], os.O_RDONLY)))]))
finally:
    p.kill(); p.wait()
`,
        join(c.dir, 'sleep'),
      )
      c.note('write, read', seen)
    },
  },

  'what is written is there for exec and for a script': {
    lowers: [dir => write(join(dir, 'true'), readProgram('/bin/true'), 0o755)],
    run: c => {
      const program = `
import subprocess
print(json.dumps([subprocess.call([A[0]]), subprocess.run([A[1]], capture_output=True).stdout.decode()]))
`
      write(join(c.dir, 'script'), '#!/bin/sh\necho from the view\n', 0o755)
      assert.deepEqual(python(program, join(c.dir, 'true'), join(c.dir, 'script')), [0, 'from the view\n'])
      chmod(join(c.dir, 'true'), 0o700)
      assert.deepEqual(python(program, join(c.dir, 'true'), join(c.dir, 'script')), [0, 'from the view\n'])
    },
  },

  'xattr and mode read through a descriptor after the file was copied up by another': {
    on: COHERENT,
    lowers: [dir => (lower(dir), setxattr(join(dir, 'f'), 'user.a', '1'))],
    run: c => {
      using early = open(join(c.dir, 'f'), sys.O_RDONLY)
      setxattr(join(c.dir, 'f'), 'user.a', '2')
      assert.equal(sys.fgetxattr(early.n, 'user.a')?.toString(), '2')
      assert.equal(getxattr(join(c.dir, 'f'), 'user.a'), '2')
      sys.fsetxattr(early.n, 'user.b', Buffer.from('3'))
      assert.deepEqual(sys.flistxattr(early.n).sort(), ['user.a', 'user.b'])
    },
  },
}

function readProgram(path = '/bin/sleep'): Buffer {
  return read(path)
}
