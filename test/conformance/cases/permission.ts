import assert from 'node:assert/strict'
import * as sys from '../../../src/sys/index.js'
import {
  append,
  asUser,
  chmod,
  chown,
  facts,
  getxattr,
  join,
  ls,
  mkdir,
  mknod,
  open,
  outcome,
  overwrite,
  python,
  rename,
  rmdir,
  setxattr,
  stat,
  symlink,
  text,
  truncate,
  unlink,
  utimens,
  withUmask,
  write,
  writeAt,
  type Json,
} from '../posix.js'
import type { Cases } from '../run.js'

const mode = (path: string): string => (stat(path).mode & 0o7777).toString(8)
/** cap_net_raw+ep, version 2. */
const CAPABILITY = Buffer.from('0100000200200000000000000000000000000000', 'hex')
const NOW = { sec: 0, nsec: sys.UTIME_NOW }

/** Everything a user may try on one directory. */
function attempts(dir: string): Record<string, Json> {
  const results: Record<string, Json> = {}
  const attempt = (label: string, fn: () => Json | void): void => {
    results[label] = outcome(fn)
  }
  attempt('list', () => ls(dir))
  attempt('read', () => text(join(dir, 'f')))
  attempt('write', () => overwrite(join(dir, 'f'), 'y'))
  attempt('truncate', () => truncate(join(dir, 'f'), 1))
  attempt('chmod', () => chmod(join(dir, 'f'), 0o777))
  attempt('chown', () => chown(join(dir, 'f'), 1000, -1))
  attempt('utimes now', () => utimens(join(dir, 'f'), NOW, NOW))
  attempt('utimes', () => utimens(join(dir, 'f'), { sec: 1, nsec: 0 }, { sec: 1, nsec: 0 }))
  attempt('create', () => write(join(dir, 'new'), ''))
  attempt('mkdir', () => mkdir(join(dir, 'newdir')))
  attempt('symlink', () => symlink('x', join(dir, 'newlink')))
  attempt('fifo', () => mknod(join(dir, 'newfifo'), sys.S_IFIFO | 0o600))
  attempt('device', () => mknod(join(dir, 'newdev'), sys.S_IFCHR | 0o600, sys.makedev(1, 3)))
  attempt('rename', () => rename(join(dir, 'f'), join(dir, 'g')))
  attempt('unlink', () => unlink(join(dir, 'f')))
  attempt('rmdir', () => rmdir(join(dir, 'sub')))
  return results
}

const MODES = [0o777, 0o755, 0o700, 0o775, 0o771, 0o1777, 0o2775, 0o733]

export const permission: Cases = {
  'what users may do, by mode and owner of the directory': {
    lowers: [
      dir => {
        for (const bits of MODES)
          for (const owner of ['root', 'own', 'group']) {
            const d = join(dir, `${bits.toString(8)}-${owner}`)
            mkdir(d)
            write(join(d, 'f'), 'content', 0o644)
            mkdir(join(d, 'sub'))
            if (owner !== 'root') {
              chown(d, owner === 'own' ? 1000 : 0, 1000)
              chown(join(d, 'f'), owner === 'own' ? 1000 : 0, 1000)
            }
            chmod(d, bits)
          }
      },
    ],
    run: c => {
      for (const name of ls(c.dir)) {
        asUser(1000, 1000, () => c.note(name, attempts(join(c.dir, name))))
        c.note(
          `${name} after`,
          ls(join(c.dir, name)).map(inner => ({ name: inner, ...facts(join(c.dir, name, inner)) })),
        )
      }
    },
  },

  'modes of files, by owner, group and others': {
    lowers: [
      dir => {
        for (const bits of [0, 0o400, 0o200, 0o040, 0o020, 0o004, 0o002, 0o066, 0o606, 0o660])
          for (const uid of [0, 1000]) {
            const path = join(dir, `${bits.toString(8)}-${uid}`)
            write(path, 'x')
            chown(path, uid, 2000)
            chmod(path, bits)
          }
      },
    ],
    run: c => {
      for (const [who, uid, gid, groups] of [
        ['owner', 1000, 1000, []],
        ['group', 1001, 2000, []],
        ['supplementary', 1001, 1001, [2000]],
        ['other', 1002, 1002, []],
      ] as const)
        asUser(
          uid,
          gid,
          () => {
            for (const name of ls(c.dir)) {
              c.see(`${who} reads ${name}`, () => text(join(c.dir, name)))
              c.see(`${who} writes ${name}`, () => overwrite(join(c.dir, name), 'y'))
            }
          },
          [...groups],
        )
    },
  },

  'new files belong to who made them, with the umask taken off': {
    lowers: [dir => (mkdir(join(dir, 'open')), chmod(join(dir, 'open'), 0o777))],
    run: c => {
      for (const mask of [0, 0o022, 0o077, 0o777])
        withUmask(mask, () =>
          asUser(1234, 5678, () => {
            const at = (name: string): string => join(c.dir, 'open', `${name}${mask.toString(8)}`)
            open(at('file'), sys.O_CREAT | sys.O_WRONLY, 0o6777).close()
            mkdir(at('dir'), 0o1777)
            mknod(at('fifo'), sys.S_IFIFO | 0o666)
            mknod(at('socket'), sys.S_IFSOCK | 0o777)
            symlink('x', at('symlink'))
          }),
        )
      for (const name of ls(join(c.dir, 'open'))) c.note(name, facts(join(c.dir, 'open', name)))
    },
  },

  'setgid directories give their group, and directories the bit': {
    lowers: [dir => (mkdir(join(dir, 'd')), chown(join(dir, 'd'), 0, 4000), chmod(join(dir, 'd'), 0o2777))],
    run: c => {
      mkdir(join(c.dir, 'up'))
      chown(join(c.dir, 'up'), 0, 4000)
      chmod(join(c.dir, 'up'), 0o2777)
      for (const dir of ['d', 'up'])
        withUmask(0o022, () =>
          asUser(1000, 1000, () => {
            const at = (name: string): string => join(c.dir, dir, name)
            write(at('file'), '', 0o666)
            open(at('sgid'), sys.O_CREAT | sys.O_WRONLY, 0o2775).close()
            mkdir(at('sub'), 0o777)
            mkdir(at('sub/sub'), 0o777)
            mknod(at('fifo'), sys.S_IFIFO | 0o666)
            symlink('x', at('symlink'))
          }),
        )
      for (const dir of ['d', 'up', 'd/sub'])
        for (const name of ls(join(c.dir, dir))) c.note(`${dir}/${name}`, facts(join(c.dir, dir, name)))
    },
  },

  'setuid and setgid are cleared by a write, a truncate and a chown of a user, not of root': {
    lowers: [
      dir => {
        for (const bits of ['6755', '6644', '4755', '2755', '2745'])
          for (const act of ['write', 'truncate', 'chown', 'append', 'chmod', 'fallocate', 'open-trunc']) {
            write(join(dir, `${bits}-${act}`), 'content')
            chown(join(dir, `${bits}-${act}`), 1000, 1000)
            chmod(join(dir, `${bits}-${act}`), parseInt(bits, 8))
          }
        chmod(dir, 0o777)
      },
    ],
    run: c => {
      const act = (path: string): void => {
        const kind = path.slice(path.lastIndexOf('/') + 6)
        if (kind === 'write') overwrite(path, 'x')
        if (kind === 'append') append(path, 'x')
        if (kind === 'truncate') truncate(path, 2)
        if (kind === 'chown') chown(path, -1, 1000)
        if (kind === 'chmod') chmod(path, 0o6755)
        if (kind === 'open-trunc') open(path, sys.O_WRONLY | sys.O_TRUNC).close()
        if (kind === 'fallocate') {
          using fd = open(path, sys.O_RDWR)
          sys.fallocateSync(fd.n, 0, 0, 100)
        }
      }
      for (const name of ls(c.dir)) {
        const path = join(c.dir, name)
        asUser(1000, 1000, () => c.see(`${name} by the owner`, () => act(path)))
        c.note(`${name} after`, mode(path))
      }
    },
  },

  'setgid without group execution falls when who is not in the group writes': {
    lowers: [
      dir => {
        for (const bits of ['2666', '6666', '2676', '2667'])
          for (const act of [
            'write',
            'truncate',
            'fallocate',
            'open-trunc',
            'copy',
            'write-by-member',
            'chgrp-by-root',
          ]) {
            const path = join(dir, `${bits}-${act}`)
            write(path, 'content')
            chown(path, 1000, 1000)
            chmod(path, parseInt(bits, 8))
          }
        write(join(dir, 'source'), 'data')
        chmod(dir, 0o777)
      },
    ],
    run: c => {
      const act = (path: string, kind: string): void => {
        if (kind.startsWith('write')) overwrite(path, 'x')
        if (kind === 'truncate') truncate(path, 2)
        if (kind === 'chgrp-by-root') chown(path, -1, 3000)
        if (kind === 'open-trunc') open(path, sys.O_WRONLY | sys.O_TRUNC).close()
        if (kind === 'fallocate') {
          using fd = open(path, sys.O_RDWR)
          sys.fallocateSync(fd.n, 0, 0, 100)
        }
        if (kind === 'copy') {
          python(
            `i = os.open(A[0], os.O_RDONLY); o = os.open(A[1], os.O_WRONLY); print(json.dumps(os.copy_file_range(i, o, 4)))`,
            join(c.dir, 'source'),
            path,
          )
        }
      }
      // Twice: the second time it is upper's, and native code's.
      for (const turn of [1, 2])
        for (const name of ls(c.dir).filter(name => name !== 'source')) {
          const [bits = '', kind = ''] = [name.slice(0, 4), name.slice(5)]
          const path = join(c.dir, name)
          chmod(path, parseInt(bits, 8))
          const groups = kind === 'write-by-member' ? [1000] : []
          if (kind === 'chgrp-by-root') act(path, kind)
          else asUser(2000, 2000, () => c.see(`${name} ${turn}`, () => act(path, kind)), groups)
          c.note(`${name} after ${turn}`, mode(path))
        }
    },
  },

  "root's write to a file with a capability and setuid takes the one and leaves the other; through a mapping it takes none":
    {
      lowers: [
        dir => {
          for (const name of ['write', 'truncate', 'mapped', 'append']) {
            write(join(dir, name), 'content', 0o755)
            chmod(join(dir, name), 0o6755)
            setxattr(join(dir, name), 'security.capability', CAPABILITY)
          }
        },
      ],
      run: c => {
        for (const turn of [1, 2]) {
          for (const name of ls(c.dir)) {
            const path = join(c.dir, name)
            chmod(path, 0o6755)
            setxattr(path, 'security.capability', CAPABILITY)
            if (name === 'write') overwrite(path, 'x')
            else if (name === 'append') append(path, 'x')
            else if (name === 'truncate') truncate(path, 3)
            else {
              python(
                `f = os.open(A[0], os.O_RDWR); m = mmap.mmap(f, 7); m[0:1] = b'X'; m.flush(); m.close(); os.fsync(f); print(1)`,
                path,
              )
            }
            c.note(`${name} ${turn}`, [mode(path), getxattr(path, 'security.capability') ?? 'none'])
          }
        }
      },
    },

  'the same by root': {
    lowers: [
      dir => {
        for (const act of ['write', 'truncate', 'chown', 'chgrp', 'fallocate', 'chown to nobody', 'fifo']) {
          if (act === 'fifo') mknod(join(dir, act), sys.S_IFIFO | 0o600)
          else write(join(dir, act), 'content')
          chmod(join(dir, act), 0o6755)
        }
      },
    ],
    run: c => {
      overwrite(join(c.dir, 'write'), 'x')
      truncate(join(c.dir, 'truncate'), 2)
      chown(join(c.dir, 'chown'), 1000, 1000)
      chown(join(c.dir, 'chgrp'), -1, 1000)
      // Takes setuid and setgid, though it changes no owner.
      chown(join(c.dir, 'chown to nobody'), -1, -1)
      chown(join(c.dir, 'fifo'), -1, -1)
      {
        using fd = open(join(c.dir, 'fallocate'), sys.O_RDWR)
        sys.fallocateSync(fd.n, 0, 0, 100)
      }
      for (const name of ls(c.dir)) c.note(name, facts(join(c.dir, name)))
    },
  },

  'chmod by the owner and not by others; setgid only for one of the own groups': {
    lowers: [
      dir => (
        write(join(dir, 'own'), ''),
        chown(join(dir, 'own'), 1000, 3000),
        write(join(dir, 'other'), ''),
        mkdir(join(dir, 'd')),
        chown(join(dir, 'd'), 1000, 3000)
      ),
    ],
    run: c => {
      asUser(1000, 1000, () => {
        c.see('my own', () => chmod(join(c.dir, 'own'), 0o2755))
        c.see('of another', () => chmod(join(c.dir, 'other'), 0o777))
        c.see('own directory', () => chmod(join(c.dir, 'd'), 0o2755))
        c.see('sticky file', () => chmod(join(c.dir, 'own'), 0o1644))
        c.see('give away', () => chown(join(c.dir, 'own'), 1001, -1))
        c.see('to a group not mine', () => chown(join(c.dir, 'own'), -1, 4000))
        c.see('to my group', () => chown(join(c.dir, 'own'), -1, 1000))
      })
      for (const name of ls(c.dir)) c.note(name, facts(join(c.dir, name)))
    },
  },

  'fchmod, fchown and ftruncate work through descriptors opened earlier': {
    lowers: [dir => write(join(dir, 'f'), 'content')],
    run: c => {
      using reader = open(join(c.dir, 'f'), sys.O_RDONLY)
      sys.fchmod(reader.n, 0o4711)
      sys.fchown(reader.n, 9, 9)
      assert.equal(mode(join(c.dir, 'f')), '711')
      using writer = open(join(c.dir, 'f'), sys.O_WRONLY)
      chmod(join(c.dir, 'f'), 0)
      sys.truncateFd(writer.n, 3)
      writeAt(writer, 'X', 3)
      c.note('facts', facts(join(c.dir, 'f')))
      c.note('content', text(join(c.dir, 'f')))
    },
  },

  'a file of mode 0444 made for writing, as tar and cp do': c => {
    asUser(0, 0, () => {})
    chmod(c.dir, 0o777)
    asUser(1000, 1000, () => {
      using fd = open(join(c.dir, 'f'), sys.O_CREAT | sys.O_EXCL | sys.O_WRONLY, 0o444)
      writeAt(fd, 'x'.repeat(100_000), 0)
      sys.fchmod(fd.n, 0o400)
      sys.truncateFd(fd.n, 50_000)
    })
    c.note('facts', facts(join(c.dir, 'f')))
  },

  'the sticky bit, setuid and setgid are kept as given by root': {
    lowers: [dir => (write(join(dir, 'f'), ''), mkdir(join(dir, 'd')))],
    run: c => {
      for (const bits of [0o7777, 0o4000, 0o2000, 0o1000, 0o6755, 0]) {
        chmod(join(c.dir, 'f'), bits)
        chmod(join(c.dir, 'd'), bits)
        assert.equal(mode(join(c.dir, 'f')), bits.toString(8))
        assert.equal(mode(join(c.dir, 'd')), bits.toString(8))
      }
      c.see('chmod of a symlink', () => {
        symlink('f', join(c.dir, 'l'))
        chmod(join(c.dir, 'l'), 0o600)
      })
    },
  },

  'large owner ids': {
    lowers: [dir => (write(join(dir, 'f'), ''), chown(join(dir, 'f'), 4_294_967_294, 2_147_483_648))],
    run: c => {
      c.note('lower', facts(join(c.dir, 'f')))
      chown(join(c.dir, 'f'), 2_147_483_649, 4_294_967_293)
      c.note('upper', facts(join(c.dir, 'f')))
      chown(join(c.dir, 'f'), -1, 5)
      c.note('one only', facts(join(c.dir, 'f')))
    },
  },
}
