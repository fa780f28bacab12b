/** Files that whoever made an image chose, and that are read of it: the kind of CVE-2024-9676 of containers/storage. */
import { spawn } from 'node:child_process'
import { mkdirSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { t } from 'tap'
import { resolveUser } from '../../src/manager/container-user.js'
import { readInRoot } from '../../src/manager/read-in-root.js'
import * as sys from '../../src/sys/index.js'
import { isRoot } from '../manager/fixture.js'
import { Place } from '../unit/oci-fixture.js'

const skip = isRoot ? false : 'needs root'
const line = 'evil:x:1234:1234::/:/bin/sh\n'

/** Puts something at /etc/passwd of an image; beside the image lies a file that it must not reach. */
const tricks: [what: string, make: (passwd: string) => void][] = [
  ['a relative symlink out', passwd => symlinkSync('../../../../../../outside', passwd)],
  ['a symlink with as many .. as it takes', passwd => symlinkSync('../../outside', passwd)],
  ['a symlink through /proc', passwd => symlinkSync('/proc/self/cwd/outside', passwd)],
  ['a symlink to itself', passwd => symlinkSync('passwd', passwd)],
  ['a directory', passwd => mkdirSync(passwd)],
  [
    'a device without end',
    passwd => sys.mknodat(sys.AT_FDCWD, passwd, sys.S_IFCHR | 0o644, sys.makedev(1, 5)),
  ],
  [
    'a device that waits',
    passwd => sys.mknodat(sys.AT_FDCWD, passwd, sys.S_IFCHR | 0o644, sys.makedev(5, 0)),
  ],
  ['a block device', passwd => sys.mknodat(sys.AT_FDCWD, passwd, sys.S_IFBLK | 0o644, sys.makedev(7, 200))],
  [
    'a file of a terabyte',
    passwd => {
      writeFileSync(passwd, line)
      truncateSync(passwd, 2 ** 40)
    },
  ],
]
for (const [what, make] of tricks) {
  t.test(`/etc/passwd of an image is ${what}`, { skip }, async t => {
    using place = new Place()
    writeFileSync(place.file('outside'), line)
    mkdirSync(join(place.rootPath, 'etc'))
    make(join(place.rootPath, 'etc/passwd'))
    t.throws(() => resolveUser(place.root.n, 'evil'), { code: 'not-found' })
    t.equal(resolveUser(place.root.n, '0').uid, 0, 'a number needs no file')
    t.not(readInRoot(place.root.n, 'etc/passwd', 1 << 20).kind, 'file')
  })
}

t.test('an absolute symlink, and one with .., lead to places in the image', { skip }, async t => {
  using place = new Place()
  mkdirSync(join(place.rootPath, 'etc'))
  mkdirSync(join(place.rootPath, 'usr'))
  writeFileSync(join(place.rootPath, 'usr/passwd'), line)
  for (const target of ['/usr/passwd', '../../../usr/passwd']) {
    symlinkSync(target, join(place.rootPath, 'etc/passwd'))
    t.equal(resolveUser(place.root.n, 'evil').uid, 1234, target)
    sys.unlinkat(place.root.n, 'etc/passwd')
  }
})

t.test('what is no regular file is not opened at all', { skip }, async t => {
  using place = new Place()
  mkdirSync(join(place.rootPath, 'etc'))
  const fifo = join(place.rootPath, 'etc/passwd')
  sys.mknodat(sys.AT_FDCWD, fifo, sys.S_IFIFO | 0o644, 0)
  // Goes on as soon as anybody opens the fifo for reading.
  const writer = spawn('sh', ['-c', 'echo ready; echo x > "$1"; echo opened', 'sh', fifo], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let said = ''
  const ready = new Promise<void>(resolve => {
    writer.stdout.setEncoding('utf8').on('data', (text: string) => {
      said += text
      resolve()
    })
  })
  await ready
  t.throws(() => resolveUser(place.root.n, 'evil'), { code: 'not-found' })
  t.same(readInRoot(place.root.n, 'etc/passwd', 1 << 20), { kind: 'no file' })
  const ended = new Promise(resolve => writer.once('close', resolve))
  // A last word of ours, after which the writer could only have been let go by the reader above.
  writer.kill('SIGKILL')
  await ended
  t.equal(said, 'ready\n')
})
