/** The twenty operations of races.test.ts, each on the name `x`, some with `y` beside it, and the states that they meet. */
import fs from 'node:fs'
import path from 'node:path'
import { SysError } from '../../src/base/sys-error.js'
import { errnoName } from '../../src/base/errno.js'
import * as sys from '../../src/sys/index.js'

type Act = (x: string, y: string, dir: string) => unknown
/** One that is two system calls: what others do may come in between. */
interface OnFile {
  readonly flags: string
  readonly then: (fd: number) => unknown
}

function renameWith(flags: number): (from: string, to: string) => void {
  return (from, to) => sys.renameat2(sys.AT_FDCWD, from, sys.AT_FDCWD, to, flags)
}

const exchange = renameWith(sys.RENAME_EXCHANGE)
const noReplace = renameWith(sys.RENAME_NOREPLACE)

/** What they give is part of the outcome where it does not depend on times and numbers. */
export const ACTS: Readonly<Record<string, Act | OnFile>> = {
  create: x => fs.closeSync(fs.openSync(x, 'wx')),
  write: { flags: 'w', then: fd => fs.writeSync(fd, 'written') },
  append: { flags: 'a', then: fd => fs.writeSync(fd, '+') },
  unlink: x => fs.unlinkSync(x),
  mkdir: x => fs.mkdirSync(x),
  rmdir: x => fs.rmdirSync(x),
  'rename to y': (x, y) => fs.renameSync(x, y),
  'rename from y': (x, y) => fs.renameSync(y, x),
  exchange: (x, y) => exchange(x, y),
  'no replace': (x, y) => noReplace(y, x),
  link: (x, y) => fs.linkSync(y, x),
  'link to y': (x, y) => fs.linkSync(x, y),
  symlink: x => fs.symlinkSync('target', x),
  // A socket: whoever opens a pipe would wait.
  mknod: x => sys.mknodat(sys.AT_FDCWD, x, sys.S_IFSOCK | 0o600, 0),
  chmod: x => fs.chmodSync(x, 0o640),
  truncate: { flags: 'r+', then: fd => fs.ftruncateSync(fd, 2) },
  utimes: x => fs.lutimesSync(x, 1, 2),
  setxattr: x => sys.setxattrAt(sys.AT_FDCWD, x, 'trusted.race', Buffer.from('1')),
  read: { flags: 'r', then: fd => void fs.readFileSync(fd) },
  list: (_x, _y, dir) => void fs.readdirSync(dir),
}

/**
 * link(2) looks its file up and then makes the new name, and another caller may come in between: then the file has lost the name by
 * which it was found, say, and the new one is taken. From and to.
 */
const LINKS: Readonly<Record<string, readonly ['x' | 'y', 'x' | 'y']>> = {
  link: ['y', 'x'],
  'link to y': ['x', 'y'],
}

export const STATES: Readonly<Record<string, (x: string, y: string) => void>> = {
  'two files': (x, y) => {
    fs.writeFileSync(x, 'lower x')
    fs.writeFileSync(y, 'lower y')
  },
  'only y': (_x, y) => fs.writeFileSync(y, 'lower y'),
  'a directory and a file': (x, y) => {
    fs.mkdirSync(x)
    fs.writeFileSync(y, 'lower y')
  },
}

/** An act that goes on with each `step`, until there is an outcome. */
export class Acting {
  /** 'ok', or the errno's name. */
  outcome: string | undefined
  private fd = -1

  /** `apart`: link(2) in two steps. */
  constructor(
    private readonly name: string,
    private readonly dir: string,
    private readonly apart = false,
  ) {}

  step(): void {
    if (this.outcome !== undefined) return
    try {
      if (this.advance()) this.outcome = 'ok'
    } catch (error) {
      this.outcome =
        error instanceof SysError
          ? errnoName(error.errno)
          : ((error as NodeJS.ErrnoException).code ?? String(error))
    }
    if (this.outcome !== undefined && this.fd >= 0) fs.closeSync(this.fd)
  }

  /** True when all is done. */
  private advance(): boolean {
    const link = this.apart ? LINKS[this.name] : undefined
    if (link !== undefined) return this.advanceLink(link[0], link[1])
    const what = ACTS[this.name]
    const [x, y] = ['x', 'y'].map(each => path.join(this.dir, each)) as [string, string]
    if (typeof what === 'function') what(x, y, this.dir)
    else if (this.fd >= 0) what?.then(this.fd)
    else {
      this.fd = fs.openSync(x, what?.flags ?? 'r')
      return false
    }
    return true
  }

  private advanceLink(from: string, to: string): boolean {
    if (this.fd < 0) {
      this.fd = fs.openSync(path.join(this.dir, from), sys.O_PATH | sys.O_NOFOLLOW)
      return false
    }
    sys.linkFd(this.fd, sys.AT_FDCWD, path.join(this.dir, to))
    return true
  }
}

/** 'ok', or the errno's name. */
export function act(name: string, dir: string): string {
  const acting = new Acting(name, dir)
  while (acting.outcome === undefined) acting.step()
  return acting.outcome
}

/** Whose turn it is, of two of at most two steps each: all orders. */
export const ORDERS: readonly (readonly (0 | 1)[])[] = [
  [0, 0, 1, 1],
  [0, 1, 0, 1],
  [0, 1, 1, 0],
  [1, 0, 0, 1],
  [1, 0, 1, 0],
  [1, 1, 0, 0],
]

/** What is there in the end, without times and numbers. */
export function shown(dir: string): string {
  return fs
    .readdirSync(dir)
    .sort()
    .map(name => {
      const file = path.join(dir, name)
      const stat = fs.lstatSync(file)
      const content = stat.isFile() ? `'${fs.readFileSync(file, 'utf8')}'` : ''
      return `${name}:${(stat.mode >>> 12).toString(8)}${(stat.mode & 0o7777).toString(8)}${content}${stat.nlink > 1 && stat.isFile() ? `*${stat.nlink}` : ''}`
    })
    .join(' ')
}
