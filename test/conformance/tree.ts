import { createHash } from 'node:crypto'
import * as sys from '../../src/sys/index.js'
import type { Fd } from '../../src/base/fd.js'
import { hashOf, kindOf, listed } from './posix.js'

/** One object of a tree, as far as two trees can be compared. */
export interface TreeEntry {
  kind: string
  mode: number
  uid: number
  gid: number
  /** Of everything but directories. */
  nlink?: number
  size?: number
  rdev?: number
  /** Seconds and nanoseconds. */
  mtime: string
  target?: string
  sha256?: string
  xattrs: Record<string, string>
  /** The first name, in byte order, of the inode that this is. Of everything but directories. */
  inode?: string
}

const DT_OF_KIND: Readonly<Record<string, number>> = {
  file: sys.DT_REG,
  dir: sys.DT_DIR,
  symlink: sys.DT_LNK,
  fifo: sys.DT_FIFO,
  socket: sys.DT_SOCK,
  char: sys.DT_CHR,
  block: sys.DT_BLK,
}

/** Path from the root (latin1, '' is the root itself) to what is there. */
export type Tree = Map<string, TreeEntry>

export interface WalkOptions {
  /** Which xattrs are recorded. Default: all. */
  xattr?: (name: string) => boolean
  /** Whether contents are read. Default: true. */
  contents?: boolean
  /** The kernel's overlayfs lists the whiteouts of a directory that only one lower layer has, and then does not find them. */
  passOverGhosts?: boolean
}

/**
 * Walks by directory descriptors, so that no path is too long. Checks on the way that d_type agrees with lstat, and that
 * no name comes twice.
 */
export function walk(root: string, options: WalkOptions = {}): Tree {
  const tree: Tree = new Map()
  const inodes = new Map<string, string>()
  using fd = sys.openat(sys.AT_FDCWD, root, sys.O_RDONLY | sys.O_DIRECTORY)
  add(fd.n, '', '')
  descend(fd, '')
  return tree

  function descend(dir: Fd, path: string): void {
    const entries = listed(dir).sort((a, b) => (a.name < b.name ? -1 : 1))
    let last: string | undefined
    for (const { name, type } of entries) {
      const child = path === '' ? name : `${path}/${name}`
      if (name === last) throw new Error(`readdir gave '${child}' twice`)
      last = name
      if (options.passOverGhosts === true && isGhost(dir.n, name, type)) continue
      const kind = add(dir.n, name, child)
      const expected = DT_OF_KIND[kind]
      if (type !== 0 && type !== expected)
        throw new Error(`readdir said d_type ${type} of '${child}', which is a ${kind}`)
      if (kind !== 'dir') continue
      using below = sys.openat(dir.n, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW)
      descend(below, child)
    }
  }

  function add(dir: number, name: string, path: string): string {
    const s = sys.statAt(dir, name)
    if (s === undefined) throw new Error(`readdir gave '${path}', which cannot be found`)
    const kind = kindOf(s.mode)
    const entry: TreeEntry = {
      kind,
      mode: s.mode & 0o7777,
      uid: s.uid,
      gid: s.gid,
      mtime: `${s.mtime}.${String(s.mtimeNsec).padStart(9, '0')}`,
      xattrs: {},
    }
    if (kind !== 'dir') {
      entry.nlink = s.nlink
      entry.size = s.size
      const key = `${s.dev}:${s.inoHi}:${s.inoLo}`
      entry.inode = inodes.get(key) ?? path
      inodes.set(key, entry.inode)
    }
    if (kind === 'char' || kind === 'block') entry.rdev = s.rdev
    if (kind === 'symlink') entry.target = sys.readlinkat(dir, name)
    for (const attr of sys.listxattrAt(dir, name)) {
      if (options.xattr && !options.xattr(attr)) continue
      entry.xattrs[attr] = sys.getxattrAt(dir, name, attr)?.toString('latin1') ?? '(gone)'
    }
    if (kind === 'file' && options.contents !== false) {
      using file = sys.openat(dir, name, sys.O_RDONLY | sys.O_NOFOLLOW)
      entry.sha256 = hashOf(file)
    }
    tree.set(path, entry)
    return kind
  }
}

export function isGhost(dir: number, name: string, type: number): boolean {
  return type === sys.DT_CHR && sys.statAt(dir, name) === undefined
}

export interface CompareOptions {
  /** A difference on purpose: true when it is to be passed over. */
  allow?: (path: string, field: string, left: unknown, right: unknown) => boolean
}

/** One line for each difference; none when the trees are equal. */
export function compare(left: Tree, right: Tree, options: CompareOptions = {}): string[] {
  const lines: string[] = []
  const allow = options.allow ?? (() => false)
  for (const [path, a] of left) {
    const b = right.get(path)
    if (b === undefined) {
      if (!allow(path, 'presence', true, false)) lines.push(`${shown(path)}: only on the left (${a.kind})`)
      continue
    }
    for (const field of [
      'kind',
      'mode',
      'uid',
      'gid',
      'nlink',
      'size',
      'rdev',
      'mtime',
      'target',
      'sha256',
      'inode',
    ] as const)
      if (a[field] !== b[field] && !allow(path, field, a[field], b[field]))
        lines.push(
          `${shown(path)}: ${field} ${String(a[field])} on the left, ${String(b[field])} on the right`,
        )
    for (const name of new Set([...Object.keys(a.xattrs), ...Object.keys(b.xattrs)]))
      if (a.xattrs[name] !== b.xattrs[name] && !allow(path, name, a.xattrs[name], b.xattrs[name]))
        lines.push(
          `${shown(path)}: ${name} ${JSON.stringify(a.xattrs[name])} on the left, ${JSON.stringify(b.xattrs[name])} on the right`,
        )
  }
  for (const [path, b] of right)
    if (!left.has(path) && !allow(path, 'presence', false, true))
      lines.push(`${shown(path)}: only on the right (${b.kind})`)
  return lines
}

/** A short fingerprint, for a transcript. */
export function digest(tree: Tree): string {
  const sum = createHash('sha256')
  for (const path of [...tree.keys()].sort()) sum.update(JSON.stringify([path, tree.get(path)]))
  return sum.digest('hex')
}

function shown(path: string): string {
  return path === '' ? '(root)' : JSON.stringify(path)
}
