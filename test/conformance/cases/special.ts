import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import * as sys from '../../../src/sys/index.js'
import {
  asUser,
  exists,
  facts,
  join,
  ls,
  mknod,
  open,
  outcome,
  python,
  read,
  readlink,
  rename,
  stat,
  symlink,
  text,
  unlink,
  write,
} from '../posix.js'
import type { Cases } from '../run.js'

export const special: Cases = {
  'devices, fifos and sockets are made with type, mode and number': c => {
    mknod(join(c.dir, 'char'), sys.S_IFCHR | 0o620, sys.makedev(4, 1))
    mknod(join(c.dir, 'block'), sys.S_IFBLK | 0o660, sys.makedev(259, 70_000))
    mknod(join(c.dir, 'biggest'), sys.S_IFCHR | 0o600, sys.makedev(4095, 1_048_575))
    mknod(join(c.dir, 'fifo'), sys.S_IFIFO | 0o640)
    mknod(join(c.dir, 'socket'), sys.S_IFSOCK | 0o700)
    mknod(join(c.dir, 'file'), sys.S_IFREG | 0o604)
    mknod(join(c.dir, 'no type'), 0o640)
    c.see('a directory', () => mknod(join(c.dir, 'dir'), sys.S_IFDIR | 0o700))
    c.see('over one that is there', () => mknod(join(c.dir, 'fifo'), sys.S_IFIFO | 0o640))
    for (const name of ls(c.dir)) c.note(name, facts(join(c.dir, name)))
  },

  'a device of the layers opens as that device': {
    alone: true,
    laminaOptions: ['dev'],
    lowers: [
      dir => (
        mknod(join(dir, 'null'), sys.S_IFCHR | 0o666, sys.makedev(1, 3)),
        mknod(join(dir, 'zero'), sys.S_IFCHR | 0o666, sys.makedev(1, 5))
      ),
    ],
    run: c => {
      write(join(c.dir, 'null'), 'swallowed')
      assert.equal(read(join(c.dir, 'null')).length, 0)
      using zero = open(join(c.dir, 'zero'), sys.O_RDONLY)
      const bytes = Buffer.alloc(10, 1)
      sys.preadSync(zero.n, bytes, 0, 10, -1)
      assert.deepEqual([...bytes], Array<number>(10).fill(0))
      assert.equal(stat(join(c.dir, 'null')).size, 0)
      if (c.upper !== '')
        assert.equal(
          outcome(() => text(join(c.upper, 'null'))),
          exists(join(c.upper, 'null')) ? '' : 'ENOENT',
        )
    },
  },

  'a fifo carries bytes between processes, lower and upper': {
    lowers: [dir => mknod(join(dir, 'lower'), sys.S_IFIFO | 0o600)],
    run: c => {
      mknod(join(c.dir, 'upper'), sys.S_IFIFO | 0o600)
      for (const name of ['lower', 'upper']) {
        const shell = spawnSync(
          'sh',
          ['-c', 'echo through > "$1" & cat "$1"; wait', 'sh', join(c.dir, name)],
          { encoding: 'utf8', timeout: 20_000 },
        )
        assert.equal(shell.stdout, 'through\n')
      }
    },
  },

  'a Unix socket listens in the view': c => {
    const seen = python(
      `
import socket
os.chdir(A[0])
s = socket.socket(socket.AF_UNIX); s.bind('sock'); s.listen()
k = socket.socket(socket.AF_UNIX); k.connect('sock'); k.sendall(b'hello')
p, _ = s.accept()
print(json.dumps([p.recv(5).decode(), stat.S_ISSOCK(os.lstat('sock').st_mode), oct(os.lstat('sock').st_mode & 0o777)]))`,
      c.dir,
    )
    assert.deepEqual((seen as unknown[]).slice(0, 2), ['hello', true])
    c.note('seen', seen)
    c.see('opened as a file', () => open(join(c.dir, 'sock'), sys.O_RDONLY).close())
  },

  'symlinks: short, of 4095 bytes, not UTF-8, empty, dangling, in a circle': {
    lowers: [
      dir => (
        symlink('t'.repeat(4095), join(dir, 'long')),
        symlink('\xff\xfe/\x80', join(dir, 'bytes')),
        symlink('loop2', join(dir, 'loop1')),
        symlink('loop1', join(dir, 'loop2'))
      ),
    ],
    run: c => {
      assert.equal(readlink(join(c.dir, 'long')), 't'.repeat(4095))
      assert.equal(readlink(join(c.dir, 'bytes')), '\xff\xfe/\x80')
      symlink('u'.repeat(4095), join(c.dir, 'long2'))
      symlink('\x80\xff', join(c.dir, 'bytes2'))
      assert.equal(readlink(join(c.dir, 'long2')), 'u'.repeat(4095))
      assert.equal(readlink(join(c.dir, 'bytes2')), '\x80\xff')
      assert.equal(stat(join(c.dir, 'long2')).size, 4095)
      c.see('too long', () => symlink('u'.repeat(4096), join(c.dir, 'x')))
      c.see('empty', () => symlink('', join(c.dir, 'x')))
      c.see('over another', () => symlink('x', join(c.dir, 'bytes')))
      c.see('circle', () => text(join(c.dir, 'loop1')))
      c.see('readlink of a file', () => {
        write(join(c.dir, 'f'), '')
        readlink(join(c.dir, 'f'))
      })
      c.see('readlink of a directory', () => readlink(c.dir))
      for (const name of ls(c.dir)) c.note(name, facts(join(c.dir, name)))
    },
  },

  'symlinks with absolute and climbing targets are followed from the view, not from a layer': {
    lowers: [
      dir => (
        write(join(dir, 'f'), 'lower'),
        symlink('../'.repeat(30) + 'proc/self/comm', join(dir, 'up')),
        symlink('/proc/self/comm', join(dir, 'abs'))
      ),
    ],
    run: c => {
      assert.equal(text(join(c.dir, 'up')), text('/proc/self/comm'))
      assert.equal(text(join(c.dir, 'abs')), text('/proc/self/comm'))
      symlink(join(c.dir, 'f'), join(c.dir, 'view'))
      write(join(c.dir, 'f'), 'upper')
      assert.equal(text(join(c.dir, 'view')), 'upper')
    },
  },

  'a symlink replaced by another, by rename, shows the new target at once': {
    lowers: [dir => symlink('old', join(dir, 'current'))],
    run: c => {
      for (let i = 0; i < 20; i++) {
        symlink(`target${i}`, join(c.dir, 'next'))
        rename(join(c.dir, 'next'), join(c.dir, 'current'))
        assert.equal(readlink(join(c.dir, 'current')), `target${i}`)
        assert.equal(stat(join(c.dir, 'current')).size, `target${i}`.length)
      }
      unlink(join(c.dir, 'current'))
      assert.equal(
        outcome(() => readlink(join(c.dir, 'current'))),
        'ENOENT',
      )
    },
  },

  'only root makes devices': c => {
    sys.chmodAt(sys.AT_FDCWD, c.dir, 0o777)
    asUser(1000, 1000, () => {
      c.see('char', () => mknod(join(c.dir, 'c'), sys.S_IFCHR | 0o600, sys.makedev(1, 3)))
      c.see('fifo', () => mknod(join(c.dir, 'f'), sys.S_IFIFO | 0o600))
      c.see('socket', () => mknod(join(c.dir, 's'), sys.S_IFSOCK | 0o600))
    })
    c.note('listing', ls(c.dir))
  },
}
