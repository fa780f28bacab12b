import fs from 'node:fs'
import * as sys from '../../src/sys/index.js'

/**
 * One kind of syscall in a loop, in a process of its own: `node loop.js OPERATION DIRECTORY LIST`, where LIST is a file
 * with one path a line, relative to DIRECTORY. Prints what it took, in nanoseconds, as JSON.
 *
 * The calls go through the addon, about half a microsecond each; nothing is subtracted. The list is read, and every
 * operation tried on something else, before the clock starts.
 */

const BUFFER = new Uint8Array(1 << 17)

type Operation = (dirfd: number, name: string) => void

const OPERATIONS: Readonly<Record<string, Operation>> = {
  stat: (dirfd, name) => {
    if (sys.statAt(dirfd, name) === undefined) throw new Error(`${name} is not there`)
  },
  missing: (dirfd, name) => {
    if (sys.statAt(dirfd, `${name}.absent`) !== undefined) throw new Error(`${name}.absent is there`)
  },
  /** open, read all, close. */
  read: (dirfd, name) => {
    const fd = sys.tryOpenat2(dirfd, name, sys.O_RDONLY, 0, 0)
    if (fd < 0) throw new Error(`${name}: errno ${-fd}`)
    while (sys.preadSync(fd, BUFFER, 0, BUFFER.length, -1) > 0);
    sys.close(fd)
  },
  /** A new file of 4 KiB. */
  create: (dirfd, name) => {
    const fd = sys.tryOpenat2(dirfd, name, sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL, 0o644, 0)
    if (fd < 0) throw new Error(`${name}: errno ${-fd}`)
    sys.pwriteSync(fd, BUFFER, 0, 4096, -1)
    sys.close(fd)
  },
  mkdir: (dirfd, name) => sys.mkdirat(dirfd, name, 0o755),
  unlink: (dirfd, name) => sys.unlinkat(dirfd, name, 0),
  /** What `ls` of one directory does. Without stat: the wrapper's asks for the time of birth, which costs a request. */
  list: (dirfd, name) => {
    const fd = sys.tryOpenat2(dirfd, name, sys.O_RDONLY | sys.O_DIRECTORY, 0, 0)
    if (fd < 0) throw new Error(`${name}: errno ${-fd}`)
    if (sys.listDir(fd).names.length === 0) throw new Error(`${name} is empty`)
    sys.close(fd)
  },
}

const [kind = '', directory = '', list = ''] = process.argv.slice(2)
// `each:list` measures every one of them.
const single = kind.startsWith('each:')
const operation = OPERATIONS[kind.replace('each:', '')]
if (operation === undefined)
  throw new Error(`no operation '${kind}'; there are ${Object.keys(OPERATIONS).join(', ')}`)
const names = fs
  .readFileSync(list, 'latin1')
  .split('\n')
  .filter(name => name !== '')

// The code is compiled before it is measured, on a directory that no filesystem under test serves.
for (let i = 0; i < 2000; i++) {
  sys.statAt(sys.AT_FDCWD, '/proc/self/none')
  const fd = sys.tryOpenat2(sys.AT_FDCWD, '/dev/null', sys.O_RDONLY, 0, 0)
  sys.preadSync(fd, BUFFER, 0, 16, -1)
  sys.close(fd)
}

using dir = sys.openat(sys.AT_FDCWD, directory, sys.O_PATH | sys.O_DIRECTORY)
const each: number[] = []
const started = process.hrtime.bigint()
if (single) {
  for (const name of names) {
    const before = process.hrtime.bigint()
    operation(dir.n, name)
    each.push(Number(process.hrtime.bigint() - before))
  }
} else {
  for (const name of names) operation(dir.n, name)
}
const total = Number(process.hrtime.bigint() - started)
each.sort((a, b) => a - b)
process.stdout.write(JSON.stringify({ count: names.length, total, each }))
