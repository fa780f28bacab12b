/**
 * Whose an object is: on disk, and in the view. Identity unless ids are mapped or squashed, or owner and mode are kept in an
 * attribute (xattr_permissions).
 */
import * as sys from '../sys/index.js'
import type { Stat } from '../sys/index.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import {
  formatOverrideStat,
  OVERRIDE_STAT_CONTAINERS,
  OVERRIDE_STAT_LEGACY,
  OVERRIDE_STAT_SECURITY,
  type OverrideStat,
  parseOverrideStat,
} from '../format/index.js'
import type { Caller } from '../fuse/filesystem.js'
import type { IdMap, MountOptions } from './config.js'
import type { Inode } from './inode.js'
import type { Resolved } from './lookup.js'
import type { At, View } from './view.js'

/** What the view shows of owner, permission bits and device number. */
export interface Shown {
  readonly uid: number
  readonly gid: number
  readonly mode: number
  readonly rdev: number
}

/** The kernel's overflow id, shown for an owner that the mapping does not have. */
const OVERFLOW_ID = 65534

const ATTRS = [OVERRIDE_STAT_SECURITY, OVERRIDE_STAT_CONTAINERS, OVERRIDE_STAT_LEGACY]

export class Ownership {
  private readonly uidMap: readonly IdMap[] | undefined
  private readonly gidMap: readonly IdMap[] | undefined
  private readonly squashUid: number | undefined
  private readonly squashGid: number | undefined
  /** The attribute that we write; undefined where owner and mode are the real ones. */
  readonly overrideAttr: string | undefined
  private readonly plain: boolean

  constructor(options: MountOptions) {
    this.uidMap = options.uidMapping
    this.gidMap = options.gidMapping
    this.squashUid = options.squashToRoot ? 0 : options.squashToUid
    this.squashGid = options.squashToRoot ? 0 : options.squashToGid
    this.overrideAttr = [undefined, OVERRIDE_STAT_SECURITY, OVERRIDE_STAT_CONTAINERS][
      options.xattrPermissions
    ]
    this.plain =
      this.uidMap === undefined &&
      this.gidMap === undefined &&
      this.squashUid === undefined &&
      this.squashGid === undefined &&
      this.overrideAttr === undefined
  }

  shown(stat: Stat, inode: Inode, view: View): Shown {
    if (this.plain) return stat
    return this.map(this.override(stat, () => view.at(inode)))
  }

  /** The S_IF type of what was found, which an override attribute may change (a device kept as a file). */
  type(stat: Stat, found: Resolved, view: View): number {
    if (this.overrideAttr === undefined) return stat.mode & sys.S_IFMT
    const real = found.upper ?? found.lowers[0] ?? found.lower
    if (real?.parent == null) return stat.mode & sys.S_IFMT
    const dirfd = view.fds.get(real.parent)
    return this.override(stat, () => ({ dirfd, name: real.name })).mode & sys.S_IFMT
  }

  private override(stat: Stat, at: () => At): Shown {
    if (this.overrideAttr === undefined) return stat
    const kept = this.read(at())
    if (kept === undefined) return stat
    return {
      uid: kept.uid,
      gid: kept.gid,
      mode: (kept.type ?? stat.mode & sys.S_IFMT) | kept.mode,
      rdev: kept.rdev ?? stat.rdev,
    }
  }

  /** The override attribute of an object, whichever of the three names it has. */
  read(at: At): OverrideStat | undefined {
    for (const attr of ATTRS) {
      const value = sys.getxattrAt(at.dirfd, at.name, attr)
      if (value !== undefined) return parseOverrideStat(value)
    }
    return undefined
  }

  /** Writes owner, mode and, where the real object is of another type, the type into the attribute. */
  write(at: At, kept: OverrideStat): void {
    if (this.overrideAttr === undefined) return
    sys.setxattrAt(at.dirfd, at.name, this.overrideAttr, formatOverrideStat(kept))
  }

  private map(stat: Shown): Shown {
    return {
      uid: this.squashUid ?? toShown(this.uidMap, stat.uid),
      gid: this.squashGid ?? toShown(this.gidMap, stat.gid),
      mode: stat.mode,
      rdev: stat.rdev,
    }
  }

  /** @throws SysError EOVERFLOW for an id that the mapping does not have (as the kernel's idmapped mounts do) */
  uidOnDisk(uid: number): number {
    return toDisk(this.uidMap, uid)
  }

  gidOnDisk(gid: number): number {
    return toDisk(this.gidMap, gid)
  }

  /**
   * Runs `make` so that what it creates belongs to the caller and honours its umask, the parent's default ACL and its setgid
   * bit: the upper filesystem does that itself, because the thread has the caller's filesystem ids meanwhile.
   */
  asCaller<T>(caller: Caller, umask: number, make: () => T): T {
    if (this.overrideAttr !== undefined) return make()
    return sys.asCreator(this.uidOnDisk(caller.uid), this.gidOnDisk(caller.gid), umask, make)
  }
}

function toShown(map: readonly IdMap[] | undefined, id: number): number {
  if (map === undefined) return id
  for (const { disk, shown, length } of map) if (id >= disk && id < disk + length) return shown + (id - disk)
  return OVERFLOW_ID
}

function toDisk(map: readonly IdMap[] | undefined, id: number): number {
  if (map === undefined) return id
  for (const { disk, shown, length } of map)
    if (id >= shown && id < shown + length) return disk + (id - shown)
  throw new SysError(E.EOVERFLOW, 'idmap', String(id))
}
