import { createHash, type Hash } from 'node:crypto'
import { fromUtf8 } from '../base/bytes.js'
import * as sys from '../sys/index.js'
import type { Stat } from '../sys/index.js'
import { byteOrder } from './byte-order.js'

export interface TreeUsage {
  /** Bytes allocated on disk; an object with several names counts once. */
  readonly bytes: number
  /** Bytes of regular files as they read, holes included; hard links once. */
  readonly size: number
  readonly entries: number
}

/** Counts a tree, not following anything and not crossing into mounts. */
export function treeUsage(dir: string): TreeUsage {
  const { bytes, size, entries } = survey(dir, undefined)
  return { bytes, size, entries }
}

/**
 * The same, with a digest of every name, type, mode, owner, size, modification time and link count of the tree: what
 * a tar digest does not see when contents are unchanged.
 */
export function treeFingerprint(dir: string): TreeUsage & { readonly fingerprint: string } {
  const hash = createHash('sha256')
  const { bytes, size, entries } = survey(dir, hash)
  return { bytes, size, entries, fingerprint: hash.digest('hex') }
}

interface Survey {
  bytes: number
  size: number
  entries: number
  readonly mntId: number
  /** `dev:ino` of objects with several names. */
  readonly seen: Set<string>
  readonly hash: Hash | undefined
}

function survey(dir: string, hash: Hash | undefined): Survey {
  using root = sys.openat(sys.AT_FDCWD, fromUtf8(dir), sys.O_RDONLY | sys.O_DIRECTORY)
  const top = sys.statFd(root.n)
  const all: Survey = {
    bytes: top.blocks * 512,
    size: 0,
    entries: 0,
    mntId: top.mntId,
    seen: new Set(),
    hash,
  }
  hash?.update(identity('', top), 'latin1')
  count(root.n, '', all)
  return all
}

function count(dirfd: number, prefix: string, all: Survey): void {
  const names = sys.listDir(dirfd).names
  if (all.hash !== undefined) names.sort(byteOrder)
  const directories: string[] = []
  let lines = ''
  for (const [index, stat] of sys.statMany(dirfd, names).entries()) {
    if (stat === undefined || typeof stat === 'number' || stat.mntId !== all.mntId) continue
    const name = names[index] ?? ''
    all.entries += 1
    if (all.hash !== undefined) lines += identity(prefix + name, stat)
    const isDir = sys.S_ISDIR(stat.mode)
    if (isDir) directories.push(name)
    if (stat.nlink > 1 && !isDir) {
      const key = `${stat.dev}:${stat.ino}`
      if (all.seen.has(key)) continue
      all.seen.add(key)
    }
    all.bytes += stat.blocks * 512
    if (sys.S_ISREG(stat.mode)) all.size += stat.size
  }
  all.hash?.update(lines, 'latin1')
  for (const name of directories) {
    using child = sys.openat(dirfd, name, sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW)
    count(child.n, `${prefix}${name}/`, all)
  }
}

/** Sizes and link counts of directories are the filesystem's business; a layer may move to another one. */
function identity(path: string, stat: Stat): string {
  const own = sys.S_ISDIR(stat.mode) ? '' : `${sys.S_ISREG(stat.mode) ? stat.size : 0} ${stat.nlink}`
  const device = sys.S_ISCHR(stat.mode) || sys.S_ISBLK(stat.mode) ? stat.rdev : 0
  return `${path}\0${stat.mode} ${stat.uid} ${stat.gid} ${own} ${device} ${stat.mtime}.${stat.mtimeNsec}\n`
}
