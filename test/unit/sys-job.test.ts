import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { E } from '../../src/base/errno.js'
import type { Fd } from '../../src/base/fd.js'
import * as sys from '../../src/sys/index.js'
import { rejection } from './sys-failure.js'
import { isRoot, openFds, scratch } from './sys-scratch.js'

const MiB = 1024 * 1024

/** Data extents as [from, to), as SEEK_DATA and SEEK_HOLE tell. */
function extents(fd: Fd): [number, number][] {
  const out: [number, number][] = []
  const { size } = sys.statFd(fd.n)
  for (let at = 0; at < size;) {
    let from
    try {
      from = sys.lseek(fd.n, at, sys.SEEK_DATA)
    } catch {
      break
    }
    const to = sys.lseek(fd.n, from, sys.SEEK_HOLE)
    out.push([from, to])
    at = to
  }
  return out
}

function hash(fd: Fd): string {
  const sum = createHash('sha1')
  const buffer = Buffer.alloc(MiB)
  for (let at = 0, n = 1; n > 0; at += n) {
    n = sys.preadSync(fd.n, buffer, 0, buffer.length, at)
    sum.update(buffer.subarray(0, n))
  }
  return sum.digest('hex')
}

function open(dir: Fd, name: string): Fd {
  return sys.openat(dir.n, name, sys.O_CREAT | sys.O_RDWR, 0o600)
}

for (const [title, source] of [
  ['on one filesystem', undefined],
  ['between filesystems', '/dev/shm'],
] as const) {
  t.test(`copyData keeps holes, ${title}`, async t => {
    const from = scratch(t, source)
    const to = scratch(t)
    using src = open(from.dir, 'src')
    using dst = open(to.dir, 'dst')
    // A hole, 3 MiB + 1 of data, a hole, 4 KiB of data, a hole.
    const random = Buffer.alloc(3 * MiB + 1, 'not zero')
    sys.pwriteSync(src.n, random, 0, random.length, 2 * MiB)
    sys.pwriteSync(src.n, random, 0, 4096, 16 * MiB)
    const size = 40 * MiB + 123
    sys.truncateFd(src.n, size)
    const expected = extents(src)
    t.equal(expected.length, 2)
    const { bytes, method } = await sys.copyData(src.n, dst.n, size)
    t.equal(method, source === undefined ? 'copy_file_range' : 'read_write')
    t.equal(
      bytes,
      expected.reduce((sum, [a, b]) => sum + b - a, 0),
    )
    t.same(extents(dst), expected)
    t.equal(sys.statFd(dst.n).size, size)
    t.equal(hash(dst), hash(src))
  })
}

t.test('copyData: empty, all hole, only a part, more than there is', async t => {
  const { dir } = scratch(t)
  using src = open(dir, 'src')
  {
    using dst = open(dir, 'empty')
    t.same(await sys.copyData(src.n, dst.n, 0), { bytes: 0, method: 'copy_file_range' })
  }
  sys.truncateFd(src.n, 5 * MiB)
  {
    using dst = open(dir, 'hole')
    t.equal((await sys.copyData(src.n, dst.n, 5 * MiB)).bytes, 0)
    t.equal(sys.statFd(dst.n).blocks, 0)
    t.equal(sys.statFd(dst.n).size, 5 * MiB)
  }
  sys.pwriteSync(src.n, Buffer.alloc(5 * MiB, 'x'), 0, 5 * MiB, 0)
  {
    using dst = open(dir, 'part')
    await sys.copyData(src.n, dst.n, MiB + 5)
    t.equal(sys.statFd(dst.n).size, MiB + 5)
  }
  {
    using dst = open(dir, 'more')
    await sys.copyData(src.n, dst.n, 6 * MiB)
    t.equal(sys.statFd(dst.n).size, 6 * MiB)
    const tail = Buffer.alloc(1)
    sys.preadSync(dst.n, tail, 0, 1, 5 * MiB)
    t.equal(tail[0], 0)
  }
})

t.test('copyData tells when there is no space', { skip: !isRoot && 'needs root' }, async t => {
  const from = scratch(t)
  const { path } = scratch(t)
  sys.mount('tmpfs', path, 'tmpfs', 0, 'size=1m')
  t.teardown(() => sys.umount2(path, sys.MNT_DETACH))
  using src = open(from.dir, 'src')
  sys.pwriteSync(src.n, Buffer.alloc(3 * MiB, 'x'), 0, 3 * MiB, 0)
  using full = sys.openat(sys.AT_FDCWD, `${path}/dst`, sys.O_CREAT | sys.O_RDWR, 0o600)
  t.match(await rejection(sys.copyData(src.n, full.n, 3 * MiB)), { errno: E.ENOSPC, syscall: 'copy' })
})

const mkfs = '/usr/sbin/mkfs.btrfs'
t.test(
  'copyData shares the extents where the filesystem can',
  { skip: !isRoot ? 'needs root' : !existsSync(mkfs) && 'needs btrfs-progs' },
  async t => {
    const { path } = scratch(t)
    writeFileSync(`${path}/image`, '')
    truncateSync(`${path}/image`, 256 * MiB)
    execFileSync(mkfs, ['-q', `${path}/image`])
    sys.mkdirat(sys.AT_FDCWD, `${path}/mnt`, 0o755)
    const mounted = spawnSync('mount', ['-o', 'loop', `${path}/image`, `${path}/mnt`], { encoding: 'utf8' })
    if (mounted.status !== 0) {
      t.comment(mounted.stderr)
      return
    }
    t.teardown(() => sys.umount2(`${path}/mnt`, sys.MNT_DETACH))
    using root = sys.openat(sys.AT_FDCWD, `${path}/mnt`, sys.O_RDONLY | sys.O_DIRECTORY)
    using src = open(root, 'src')
    sys.pwriteSync(src.n, Buffer.alloc(5 * MiB, 'x'), 0, 5 * MiB, 0)
    {
      using dst = open(root, 'dst')
      t.same(await sys.copyData(src.n, dst.n, 5 * MiB), { bytes: 5 * MiB, method: 'reflink' })
      t.equal(hash(dst), hash(src))
    }
    {
      using dst = open(root, 'shorter')
      await sys.copyData(src.n, dst.n, MiB + 7)
      t.equal(sys.statFd(dst.n).size, MiB + 7)
    }
    {
      using dst = open(root, 'asked not to')
      t.equal((await sys.copyData(src.n, dst.n, 5 * MiB, { reflink: false })).method, 'copy_file_range')
    }
  },
)

t.test('syncing, allocating and copying ranges', async t => {
  const { dir } = scratch(t)
  using a = open(dir, 'a')
  using b = open(dir, 'b')
  sys.pwriteSync(a.n, Buffer.from('0123456789'), 0, 10, 0)
  await Promise.all([sys.fsync(a.n), sys.fdatasync(a.n), sys.fsync(dir.n)])
  await sys.syncfs(dir.n)
  t.equal(await sys.copyFileRange(a.n, 2, b.n, 1, 5), 5)
  const buffer = Buffer.alloc(6)
  t.equal(sys.preadSync(b.n, buffer, 0, 6, 0), 6)
  t.equal(buffer.toString('latin1'), '\x0023456')
  t.equal(await sys.copyFileRange(a.n, 10, b.n, 0, 5), 0)
  await sys.fallocate(a.n, 0, 0, MiB)
  t.equal(sys.statFd(a.n).size, MiB)
  t.ok(sys.statFd(a.n).blocks >= MiB / 512)
})

t.test('a job that fails rejects with its errno', async t => {
  t.match(await rejection(sys.fsync(9999)), { errno: E.EBADF, syscall: 'fsync' })
  t.match(await rejection(sys.copyData(9999, 9998, 1)), { errno: E.EBADF })
  t.match(await rejection(sys.copyFileRange(9999, 0, 9998, 0, 1)), { errno: E.EBADF })
  await t.rejects(sys.copyData(0, 0, -1), TypeError)
  await t.rejects(sys.fallocate(NaN, 0, 0, 1), TypeError)
})

t.test('many jobs at once leak nothing', async t => {
  const { dir } = scratch(t)
  using fd = open(dir, 'f')
  const before = openFds()
  await Promise.all(
    Array.from({ length: 200 }, (_, i) => (i % 2 ? sys.fdatasync(fd.n) : sys.fallocate(fd.n, 0, 0, 4096))),
  )
  t.equal(openFds(), before)
})

t.test('the end of the process does not wait for a copy', async t => {
  const { path, dir } = scratch(t)
  const size = 256 * MiB
  {
    using src = open(dir, 'src')
    const block = Buffer.alloc(MiB, 'x')
    for (let at = 0; at < size; at += MiB) sys.pwriteSync(src.n, block, 0, MiB, at)
  }
  const index = JSON.stringify(new URL('../../src/sys/index.js', import.meta.url).href)
  const script = `import * as sys from ${index}
    const src = sys.openat(sys.AT_FDCWD, ${JSON.stringify(`${path}/src`)}, sys.O_RDONLY)
    for (let i = 0; i < 8; i++) {
      const dst = sys.openat(sys.AT_FDCWD, ${JSON.stringify(path)} + '/dst' + i, sys.O_CREAT | sys.O_RDWR, 0o600)
      void sys.copyData(src.n, dst.n, ${size}, { reflink: false })
    }
    process.exit(7)`
  const child = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' })
  t.equal(child.status, 7, child.stderr)
  for (let i = 0; i < 8; i++) t.ok((sys.statAt(dir.n, `dst${i}`)?.size ?? size) < size)
})

t.test('copyCached copies what the page cache holds, whole, or nothing', t => {
  const { dir } = scratch(t)
  using from = open(dir, 'from')
  const data = Buffer.alloc(60_000, 'some data ')
  sys.pwriteSync(from.n, data, 0, data.length, 0)
  using to = open(dir, 'to')
  t.equal(sys.copyCached(from.n, 0, to.n, 0, data.length), data.length)
  t.equal(hash(to), hash(from))
  t.equal(sys.copyCached(from.n, 0, to.n, 0, data.length + 1), data.length, 'up to the end')
  t.equal(sys.copyCached(from.n, 0, to.n, 0, Number.MAX_SAFE_INTEGER), data.length)
  t.equal(sys.copyCached(from.n, data.length, to.n, 0, 5), 0, 'nothing is left')
  using part = open(dir, 'part')
  t.equal(sys.copyCached(from.n, 5, part.n, 2, 4), 4)
  t.same(sys.statFd(part.n).size, 6)
  const read = Buffer.alloc(6)
  sys.preadSync(part.n, read, 0, 6, 0)
  t.equal(read.toString(), '\0\0data')
  using longer = open(dir, 'longer')
  sys.truncateFd(from.n, sys.COPY_CACHED_MOST + 1)
  t.equal(sys.copyCached(from.n, 0, longer.n, 0, sys.COPY_CACHED_MOST + 1), undefined, 'too much')
  t.equal(sys.statFd(longer.n).size, 0, 'nothing was written')
  t.throws(() => sys.copyCached(from.n, -1, longer.n, 0, 1), /a range/)
  using full = sys.openat(sys.AT_FDCWD, '/dev/full', sys.O_WRONLY)
  t.throws(() => sys.copyCached(from.n, 0, full.n, 0, 10), /No space left/)
  t.end()
})

t.test('growDescriptors leaves no descriptor open, and says what cannot be had', async t => {
  const before = readdirSync('/proc/self/fd').length
  await sys.growDescriptors(1000)
  t.equal(readdirSync('/proc/self/fd').length, before)
  t.match(/FDSize:\t(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1], /^(1024|[2-9]\d{3,})$/)
  t.match(await rejection(sys.growDescriptors(sys.getrlimitNofile().soft + 1)), { errno: E.EINVAL })
})
