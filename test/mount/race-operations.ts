/** The twenty operations of races.test.ts, each on the name `x`, some with `y` beside it, and the states that they meet. */
import fs from 'node:fs'
import path from 'node:path'
import { SysError } from '../../src/base/sys-error.js'
import { errnoName } from '../../src/base/errno.js'
import * as sys from '../../src/sys/index.js'

type Act = (x: string, y: string, dir: string) => unknown

function renameWith(flags: number): (from: string, to: string) => void {
  return (from, to) => sys.renameat2(sys.AT_FDCWD, from, sys.AT_FDCWD, to, flags)
}

const exchange = renameWith(sys.RENAME_EXCHANGE)
const noReplace = renameWith(sys.RENAME_NOREPLACE)

/** What they give is part of the outcome where it does not depend on times and numbers. */
export const ACTS: Readonly<Record<string, Act>> = {
  // Without content: written afterwards, it would meet what came in between, which no order of the two explains.
  create: x => fs.closeSync(fs.openSync(x, 'wx')),
  write: x => fs.writeFileSync(x, 'written'),
  append: x => fs.appendFileSync(x, '+'),
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
  truncate: x => fs.truncateSync(x, 2),
  utimes: x => fs.lutimesSync(x, 1, 2),
  setxattr: x => sys.setxattrAt(sys.AT_FDCWD, x, 'trusted.race', Buffer.from('1')),
  read: x => void fs.readFileSync(x),
  list: (_x, _y, dir) => void fs.readdirSync(dir),
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

/** 'ok', or the errno's name. */
export function act(name: string, dir: string): string {
  const [x, y] = ['x', 'y'].map(each => path.join(dir, each)) as [string, string]
  try {
    ACTS[name]?.(x, y, dir)
    return 'ok'
  } catch (error) {
    if (error instanceof SysError) return errnoName(error.errno)
    return (error as NodeJS.ErrnoException).code ?? String(error)
  }
}

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
