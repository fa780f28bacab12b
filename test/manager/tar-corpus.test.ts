/**
 * The same hostile tree, packed by everybody's archivers, is read alike: as GNU tar unpacks it, and as Go's archive/tar lists it. What is not
 * installed is skipped by name.
 */
import { spawnSync } from 'node:child_process'
import {
  createReadStream,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import t from 'tap'
import { applyTar, recordTarSplit, replayTarSplit, TarReader, type TarEntry } from '../../src/oci/index.js'
import * as sys from '../../src/sys/index.js'
import { PROJECT } from '../mount/fixture.js'
import { missing, scratch, sh } from './oci-tools.js'

const skip = missing('tar', 'python3')
const corpus = join(PROJECT, 'test/manager/tar-corpus')
const JAVA_LIBRARY = '/usr/share/java/commons-compress.jar'

const has = (program: string): boolean => missing(program) === false

/** Names of every byte, long ones, long paths; times, ids, links, holes, devices. As Python writes names of any bytes. */
const TREE = String.raw`
import os, sys
root = sys.argv[1].encode()
os.makedirs(root)
os.chdir(root)
def put(path, data=b'x', mode=0o644):
    with open(path, 'wb') as f: f.write(data)
    os.chmod(path, mode)
os.mkdir(b'bytes')
for byte in range(1, 256):
    if byte != 0x2f and bytes([byte]) != b'.': put(b'bytes/%c' % byte if byte < 128 else b'bytes/' + bytes([byte]))
os.mkdir('文'.encode())
put('文/目录'.encode()); put('文/空'.encode(), b'')
os.mkdir('文/夹'.encode()); os.symlink('目标'.encode(), '文/链'.encode())
os.mkdir(b'long')
put(b'long/' + b'n' * 255); os.mkdir(b'long/' + b'd' * 255)
for n in (94, 95, 96, 150, 151, 250): put(b'long/' + b'%d-' % n + b'm' * (n - 4))
os.symlink(b't' * 100, b'long/s100'); os.symlink(b't' * 101, b'long/s101'); os.symlink(b't' * 4000, b'long/s4000')
here = os.getcwd()
for i in range(16): os.mkdir(b'e' * 240); os.chdir(b'e' * 240)
put(b'f' * 100)
os.chdir(here)
os.mkdir(b'meta')
for name, seconds in ((b'old', -86400.0), (b'first', -0.5), (b'zero', 0.0), (b'part', 1e9 + 0.25), (b'late', 2.0**33)):
    put(b'meta/' + name); os.utime(b'meta/' + name, ns=(0, int(seconds * 10**9)))
for n, uid in enumerate((2**21 - 1, 2**21, 2**31, 2**32 - 2)): put(b'meta/id%d' % n); os.chown(b'meta/id%d' % n, uid, 2**32 - 2 - n)
for mode in (0, 0o777, 0o4711, 0o2755, 0o1644): put(b'meta/m%o' % mode, mode=mode)
os.mkdir(b'meta/locked', 0o500)
os.mkdir(b'links')
put(b'links/z', b'data'); os.link(b'links/z', b'links/a'); os.link(b'links/z', b'links/m')
os.symlink(b'../../../outside', b'links/out'); os.symlink(b'/etc/passwd', b'links/abs')
os.mkdir(b'holes')
with open(b'holes/h', 'wb') as f: f.truncate(1 << 20)
with open(b'holes/m', 'wb') as f:
    for at in (0, 100000, 500000): f.seek(at); f.write(b'data')
    f.truncate(600000)
for size in (511, 512, 513): put(b'holes/s%d' % size, b'y' * size)
os.mknod(b'dev-c', 0o20600, os.makedev(1, 3)); os.mknod(b'dev-b', 0o60600, os.makedev(259, 70000)); os.mkfifo(b'fifo')
`

/** Makes an archive of the directory \`tree\` at its standard output. */
interface Writer {
  readonly name: string
  readonly program: string
  readonly command: string
  readonly args?: readonly string[]
}

const GO = join(PROJECT, 'dist/test/archive-go')
const nodeTar = createRequire(import.meta.url).resolve.bind(undefined)
function nodeTarPath(): string | undefined {
  try {
    return nodeTar('tar')
  } catch {
    return undefined
  }
}

const shell = (name: string, program: string, command: string): Writer => ({ name, program, command })
const WRITERS: readonly Writer[] = [
  ...['v7', 'oldgnu', 'gnu', 'ustar', 'posix'].map(format =>
    shell(`GNU tar, ${format}`, 'tar', `tar --format=${format} -C tree -cf - .`),
  ),
  ...['gnu', 'posix --sparse-version=0.0', 'posix --sparse-version=0.1', 'posix --sparse-version=1.0'].map(
    format => shell(`GNU tar, sparse, ${format}`, 'tar', `tar --format=${format} --sparse -C tree -cf - .`),
  ),
  ...['v7', 'ustar', 'gnutar', 'pax'].map(format =>
    shell(`bsdtar, ${format}`, 'bsdtar', `bsdtar --format=${format} -C tree -cf - .`),
  ),
  shell('busybox', 'busybox', 'busybox tar -C tree -cf - .'),
  shell('pax, ustar', 'pax', 'cd tree && pax -w -x ustar .'),
  ...['ustar', 'xstar', 'xustar', 'exustar', 'pax', 'gnutar'].map(format =>
    shell(`star, ${format}`, 'star', `star -c H=${format} -C tree f=- .`),
  ),
  ...['gnu', 'pax'].map(format =>
    shell(
      `7zz, ${format}`,
      '7zz',
      `cd tree && 7zz a -ttar -mm=${format} -snh -snl -so x.tar 文 long meta links holes`,
    ),
  ),
  ...['ustar', 'gnu', 'pax'].map(format =>
    shell(`Python, ${format}`, 'python3', `python3 ${corpus}/archive.py write ${format} tree`),
  ),
  ...['auto', 'gnu', 'pax'].map(format => shell(`Go, ${format}`, 'go', `${GO} write ${format} tree`)),
]

/** Ours of an archive, as the Go program prints its own. */
function entriesOf(file: string): string[] {
  const lines: string[] = []
  const types: Readonly<Record<TarEntry['type'], string>> = {
    file: '0',
    link: '1',
    symlink: '2',
    char: '3',
    block: '4',
    directory: '5',
    fifo: '6',
  }
  const hex = (name: string): string => Buffer.from(name, 'latin1').toString('hex')
  const reader = new TarReader({
    entry(entry) {
      const { type, mode, uid, gid, size, mtime, mtimeNsec, path, linkPath } = entry
      lines.push(
        [types[type], mode.toString(8), uid, gid, size, mtime, mtimeNsec, hex(path), hex(linkPath)].join(' '),
      )
      return 'skip'
    },
    data: () => undefined,
    entryEnd: () => undefined,
  })
  reader.write(readFileSync(file))
  reader.finish()
  return lines
}

/** It has a type of its own for GNU's sparse files. */
function goLines(said: string): string[] {
  return said
    .split('\n')
    .slice(0, -1)
    .map(line => line.replace(/^S/, '0'))
}

/** What find and cksum say of a tree. Not the times of symlinks and directories, which some archivers leave to chance. */
function describe(path: string): string[] {
  return sh(
    String.raw`
    find . ! -type d ! -type l -printf '%p\t%y\t%m\t%U:%G\t%T@\t%s\t%n\0' | sort -z | tr '\n\0' '?\n'
    find . -type d -printf '%p\t%y\t%m\t%U:%G\0' | sort -z | tr '\n\0' '?\n'
    find . -type l -printf '%p\t%U:%G\t%l\0' | sort -z | tr '\n\0' '?\n'
    find . \( -type b -o -type c \) -exec stat -c '%n %t %T' {} + | sort
    find . -type f -print0 | sort -z | xargs -0r cat | cksum`,
    path,
  ).split('\n')
}

async function unpack(archive: string, root: string): Promise<boolean> {
  mkdirSync(root)
  using fd = sys.openat(sys.AT_FDCWD, root, sys.O_RDONLY | sys.O_DIRECTORY)
  using split = sys.openat(sys.AT_FDCWD, `${root}.split`, sys.O_RDWR | sys.O_CREAT, 0o600)
  // As they are: names that begin with .wh. are none here.
  await applyTar(fd.n, createReadStream(archive), { whiteouts: 'literal', record: recordTarSplit(split.n) })
  const parts: Buffer[] = []
  for await (const part of replayTarSplit(split.n, fd.n)) parts.push(Buffer.from(part))
  return Buffer.concat(parts).equals(readFileSync(archive))
}

t.test('archives of one tree by many archivers', { skip }, async t => {
  const place = scratch('lamina-corpus-')
  t.teardown(() => rmSync(place, { recursive: true, force: true }))
  const at = (name: string): string => join(place, name)
  writeFileSync(at('tree.py'), TREE)
  sh('python3 tree.py tree', place)
  const go =
    has('go') &&
    spawnSync('go', ['build', '-o', GO, join(corpus, 'archive.go')], { stdio: 'inherit' }).status === 0
  if (!go) t.comment('go is not installed: nothing is compared with it')
  for (const { name, program, command } of WRITERS) {
    const absent = has(program) ? false : `${program} is not installed`
    await t.test(name, { skip: absent }, async t => {
      // A complaint about what the format cannot say is not its end.
      const written = spawnSync('bash', ['-c', `(${command}) > archive.tar`], {
        cwd: place,
        encoding: 'utf8',
      })
      t.ok(statSync(at('archive.tar')).size > 10_000, written.stderr.slice(0, 200))
      try {
        t.ok(await unpack(at('archive.tar'), at('ours')), 'it goes out as it came')
        mkdirSync(at('gnu'))
        spawnSync('tar', ['-xpf', '../archive.tar', '--numeric-owner', '--same-owner', '-P'], {
          cwd: at('gnu'),
        })
        t.same(describe(at('ours')), describe(at('gnu')), 'as GNU tar')
        if (go) {
          const listed = goLines(sh(`${GO} list archive.tar`, place))
          t.same(entriesOf(at('archive.tar')), listed, 'as Go')
        }
      } finally {
        sh('rm -rf ours ours.split gnu archive.tar', place)
      }
    })
  }

  const library = nodeTarPath()
  await t.test('node-tar', { skip: library === undefined && 'the package tar is not installed' }, async t => {
    // Its names are UTF-8, and it ends at times before 1970.
    const script = `require(${JSON.stringify(library)}).create({ cwd: 'tree', sync: true, file: 'archive.tar', portable: false, follow: false }, ['文', 'long', 'links', 'holes'])`
    const { stderr } = spawnSync(process.execPath, ['-e', script], { cwd: place, encoding: 'utf8' })
    t.equal(stderr, '')
    t.ok(await unpack(at('archive.tar'), at('ours')))
    mkdirSync(at('gnu'))
    spawnSync('tar', ['-xpf', '../archive.tar', '--numeric-owner', '--same-owner', '-P'], { cwd: at('gnu') })
    t.same(describe(at('ours')), describe(at('gnu')), 'as GNU tar')
  })
})

const hexOf = (name: string): string => Buffer.from(name).toString('hex')
/** mode uid gid size seconds nanoseconds name */
const HEADERS = [
  ...[8 * 2 ** 30 - 1, 8 * 2 ** 30, 8 * 2 ** 30 + 1, 2 ** 40, Number.MAX_SAFE_INTEGER].map(
    size => `644 0 0 ${size} 5 0 ${hexOf('size')}`,
  ),
  ...[2 ** 21 - 1, 2 ** 21, 2 ** 31, 2 ** 32 - 2].map(id => `644 ${id} ${id - 1} 0 5 0 ${hexOf('id')}`),
  ...[
    '-1 0',
    '-1 500000000',
    '-2 250000000',
    '0 500000000',
    '8589934591 0',
    '8589934592 0',
    '-5000000000 0',
  ].map(time => `644 0 0 0 ${time} ${hexOf('time')}`),
  ...[
    '目录',
    'docs/目录',
    `${'d'.repeat(99)}/目`,
    'n'.repeat(100),
    'n'.repeat(101),
    `${'p'.repeat(155)}/${'n'.repeat(100)}`,
    `${'p'.repeat(156)}/n`,
    'n/'.repeat(1900) + 'n',
  ].map(name => `4755 1 2 3 5 0 ${hexOf(name)}`),
]

/** Headers one behind the other without the data that they speak of. */
function headersOf(bytes: Buffer): TarEntry[] {
  const entries: TarEntry[] = []
  for (let at = 0; at < bytes.length;) {
    const before = entries.length
    const reader = new TarReader({
      entry(entry) {
        entries.push(entry)
        return 'skip'
      },
      data: () => undefined,
      entryEnd: () => undefined,
    })
    for (; entries.length === before && at < bytes.length; at += 512)
      reader.write(bytes.subarray(at, at + 512))
  }
  return entries
}

const LIBRARIES: readonly [
  name: string,
  program: string,
  command: (format: string) => string,
  formats: readonly string[],
][] = [
  ['Go', 'go', format => `${GO} headers ${format} headers`, ['auto', 'pax', 'gnu']],
  [
    'Python',
    'python3',
    format => `python3 ${corpus}/archive.py headers ${format} headers`,
    ['ustar', 'gnu', 'pax'],
  ],
  [
    'Java',
    'java',
    format => `java -cp ${JAVA_LIBRARY} ${corpus}/Archive.java ${format} headers`,
    ['posix', 'gnu'],
  ],
]

t.test(
  'sizes around 8 GiB, ids beyond 2^21, times before 1970, as libraries write them',
  { skip },
  async t => {
    const place = scratch('lamina-headers-')
    t.teardown(() => rmSync(place, { recursive: true, force: true }))
    writeFileSync(join(place, 'headers'), `${HEADERS.join('\n')}\n`)
    for (const [library, program, command, formats] of LIBRARIES) {
      const installed =
        has(program) &&
        (library !== 'Java' || existsSync(JAVA_LIBRARY)) &&
        (library !== 'Go' || existsSync(GO))
      for (const format of formats) {
        await t.test(
          `${library}, ${format}`,
          { skip: !installed && `${library} is not installed` },
          async t => {
            const { stdout, stderr } = spawnSync('bash', ['-c', command(format)], {
              cwd: place,
              maxBuffer: 1 << 26,
            })
            const refused = stderr.toString()
            const complaints = refused.split('\n')
            const wanted = HEADERS.filter(
              line => !complaints.some(each => each.replace(':', ' ').startsWith(`${line} `)),
            )
            // ustar cannot say most of them.
            t.ok(wanted.length > 5, refused.slice(0, 500))
            const entries = headersOf(stdout)
            t.equal(entries.length, wanted.length)
            for (const [i, entry] of entries.entries()) {
              const [mode = '', uid, gid, size, seconds, nsec, name = ''] = (wanted[i] ?? '').split(' ')
              t.same(
                [entry.type, entry.mode, entry.uid, entry.gid, entry.size, entry.path],
                [
                  'file',
                  parseInt(mode, 8),
                  Number(uid),
                  Number(gid),
                  Number(size),
                  Buffer.from(name, 'hex').toString('latin1'),
                ],
              )
              const late = entry.mtime - Number(seconds) + (entry.mtimeNsec - Number(nsec)) / 1e9
              // Only pax has parts of a second.
              const exact = format === 'pax' || format === 'posix'
              t.ok(exact ? late === 0 : Math.abs(late) < 1, `${wanted[i]}: ${entry.mtime}.${entry.mtimeNsec}`)
            }
          },
        )
      }
    }
  },
)
