/**
 * Owner, mode and type kept in an attribute, for stores that cannot chown (rootless) or mknod.
 * `UID:GID:OCTALMODE`, or with the type as containers/storage writes it: `UID:GID:OCTALMODE:TYPE`, TYPE being file, dir,
 * symlink, pipe, socket, block-MAJ-MIN or char-MAJ-MIN.
 *
 * Source: fuse-overlayfs(1) xattr_permissions; containers/storage pkg/idtools (ContainersOverrideXattr).
 */
import * as sys from '../sys/index.js'

export interface OverrideStat {
  readonly uid: number
  readonly gid: number
  /** Permission bits with setuid, setgid and sticky. */
  readonly mode: number
  /** S_IF* bits; absent where the real object's type holds. */
  readonly type?: number
  /** Device number of a block or character device. */
  readonly rdev?: number
}

const TYPES: Readonly<Record<string, number>> = {
  file: sys.S_IFREG,
  dir: sys.S_IFDIR,
  symlink: sys.S_IFLNK,
  pipe: sys.S_IFIFO,
  socket: sys.S_IFSOCK,
}

const SHAPE = /^(\d{1,10}):(\d{1,10}):(0?[0-7]{1,6})(?::([a-z]+)(?:-(\d{1,10})-(\d{1,10}))?)?$/

/** `undefined` for a value of any other shape: the real owner and mode then hold. */
export function parseOverrideStat(value: Buffer): OverrideStat | undefined {
  if (value.length > 128) return undefined
  const match = SHAPE.exec(value.toString('latin1'))
  if (match === null) return undefined
  const [, uid, gid, mode, type, major, minor] = match
  const base = { uid: Number(uid), gid: Number(gid), mode: Number.parseInt(mode ?? '0', 8) & 0o7777 }
  if (base.uid > 0xffffffff || base.gid > 0xffffffff) return undefined
  if (type === undefined) return base
  if (type === 'block' || type === 'char') {
    if (major === undefined || minor === undefined) return undefined
    const rdev = sys.makedev(Number(major), Number(minor))
    return { ...base, type: type === 'block' ? sys.S_IFBLK : sys.S_IFCHR, rdev }
  }
  const bits = TYPES[type]
  return bits === undefined || major !== undefined ? undefined : { ...base, type: bits }
}

/** The form with the type is written only where the real object is of another type: older readers know just the short one. */
export function formatOverrideStat(stat: OverrideStat): Buffer {
  const short = `${stat.uid}:${stat.gid}:${(stat.mode & 0o7777).toString(8).padStart(4, '0')}`
  if (stat.type === undefined) return Buffer.from(short)
  return Buffer.from(`${short}:${typeName(stat.type, stat.rdev ?? 0)}`)
}

function typeName(type: number, rdev: number): string {
  if (type === sys.S_IFBLK) return `block-${sys.devMajor(rdev)}-${sys.devMinor(rdev)}`
  if (type === sys.S_IFCHR) return `char-${sys.devMajor(rdev)}-${sys.devMinor(rdev)}`
  return Object.keys(TYPES).find(name => TYPES[name] === type) ?? 'file'
}
