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

const USER_ATTRS = [OVERRIDE_STAT_CONTAINERS, OVERRIDE_STAT_LEGACY]
const ATTRS = [OVERRIDE_STAT_SECURITY, ...USER_ATTRS]

/** The attributes that the roots of layers carry, which say that owners are kept below them. */
export interface Marked {
  readonly upper: string | null
  /** Top first. */
  readonly lowers: readonly (string | null)[]
}

export class Ownership {
  private readonly uidMap: readonly IdMap[] | undefined
  private readonly gidMap: readonly IdMap[] | undefined
  private readonly squashUid: number | undefined
  private readonly squashGid: number | undefined
  /** The attribute that we write; undefined where owner and mode are the real ones. */
  readonly overrideAttr: string | undefined
  /** By the number of a layer, the attributes that are believed in it, the one that is written first. */
  private readonly believed: readonly (readonly string[])[]
  /** Whether the view shows owner, mode and device numbers as they are on disk. */
  readonly plain: boolean

  constructor(
    options: MountOptions,
    marked: Marked,
    /** Whether a setuid program in the view could be run by others than the daemon's user. */
    private readonly setuidMatters: boolean,
  ) {
    this.uidMap = options.uidMapping
    this.gidMap = options.gidMapping
    this.squashUid = options.squashToRoot ? 0 : options.squashToUid
    this.squashGid = options.squashToRoot ? 0 : options.squashToGid
    // fuse-overlayfs 1.10 writes the older name, and fails on a directory that holds one file without it.
    const user = marked.upper === OVERRIDE_STAT_LEGACY ? OVERRIDE_STAT_LEGACY : OVERRIDE_STAT_CONTAINERS
    this.overrideAttr = [undefined, OVERRIDE_STAT_SECURITY, user][options.xattrPermissions]
    const mode = options.xattrPermissions
    const written = this.overrideAttr
    this.believed =
      written === undefined
        ? []
        : [
            [written, ...believable(mode, marked.upper).filter(name => name !== written)],
            ...marked.lowers.map(mark => believable(mode, mark)),
          ]
    this.plain =
      this.uidMap === undefined &&
      this.gidMap === undefined &&
      this.squashUid === undefined &&
      this.squashGid === undefined &&
      this.overrideAttr === undefined
  }

  /** By which of its attributes a layer's root says that owners are kept below it. */
  static markOf(names: readonly string[]): string | undefined {
    return ATTRS.find(attr => names.includes(attr))
  }

  shown(stat: Stat, inode: Inode, view: View): Shown {
    if (this.plain) return stat
    return this.map(this.stored(stat, view.layerOf(inode), () => view.at(inode)))
  }

  /** The S_IF type of what was found, which an override attribute may change (a device kept as a file). */
  type(stat: Stat, found: Resolved, view: View): number {
    const real = found.upper ?? found.lowers[0] ?? found.lower
    if (real?.parent == null) return stat.mode & sys.S_IFMT
    const at = (): At => ({ dirfd: view.fds.get(real.parent ?? real.layer.root), name: real.name })
    return this.stored(stat, real.layer.index, at).mode & sys.S_IFMT
  }

  /** Owner, mode with type, and device number as the layer of that number has them, in its attributes or for real; not mapped. */
  stored(stat: Stat, layer: number, at: () => At): Shown {
    if (!this.keeps(layer)) return stat
    const kept = this.read(layer, at())
    if (kept === undefined) return stat
    return {
      uid: kept.uid,
      gid: kept.gid,
      mode: (kept.type ?? stat.mode & sys.S_IFMT) | kept.mode,
      rdev: kept.rdev ?? stat.rdev,
    }
  }

  /** Whether objects of the layer of that number may keep owner and mode in an attribute. */
  keeps(layer: number): boolean {
    return (this.believed[layer]?.length ?? 0) > 0
  }

  /** The override attribute of an object, whichever of the names that are believed there it has. */
  read(layer: number, at: At): OverrideStat | undefined {
    for (const attr of this.believed[layer] ?? []) {
      const value = sys.getxattrAt(at.dirfd, at.name, attr)
      if (value !== undefined) return parseOverrideStat(value)
    }
    return undefined
  }

  /**
   * Writes owner, mode and, where the real object is of another type, the type into the attribute. False where the object
   * cannot carry it: user.* exists on files and directories only, so a symlink's owner is the real one.
   */
  write(at: At, kept: OverrideStat): boolean {
    if (this.overrideAttr === undefined) return false
    try {
      sys.setxattrAt(at.dirfd, at.name, this.overrideAttr, formatOverrideStat(kept))
      return true
    } catch (error) {
      const cannot = error instanceof SysError && error.errno === E.EPERM && this.isUserAttr
      if (!cannot) throw error
      return false
    }
  }

  private get isUserAttr(): boolean {
    return this.overrideAttr?.startsWith('user.') === true
  }

  /**
   * The type and mode that an object has on disk when `mode` is kept in the attribute: usable by the daemon, setting nobody's
   * ids, and a plain file in the place of what cannot carry the attribute, or be made without privilege.
   */
  disguise(mode: number): number {
    const type = mode & sys.S_IFMT
    if (type === sys.S_IFLNK) return mode
    const onDisk = type === sys.S_IFDIR || type === sys.S_IFREG || !this.isUserAttr ? type : sys.S_IFREG
    return onDisk | (mode & 0o777) | (type === sys.S_IFDIR ? 0o700 : 0o600)
  }

  private map(stat: Shown): Shown {
    const uid = this.squashUid ?? toShown(this.uidMap, stat.uid)
    const gid = this.squashGid ?? toShown(this.gidMap, stat.gid)
    return {
      uid: uid ?? OVERFLOW_ID,
      gid: gid ?? OVERFLOW_ID,
      mode: this.shownMode(stat, uid, gid),
      rdev: stat.rdev,
    }
  }

  /** Setuid of one user is not setuid of the one that he is shown as (squash), or of nobody: the kernel's idmapped mounts ignore it, too. */
  private shownMode(stat: Shown, uid: number | undefined, gid: number | undefined): number {
    if (!this.setuidMatters || (stat.mode & sys.S_IFMT) === sys.S_IFDIR) return stat.mode
    const foreignUid = uid === undefined || (this.squashUid ?? stat.uid) !== stat.uid
    const foreignGid = gid === undefined || (this.squashGid ?? stat.gid) !== stat.gid
    return stat.mode & ~((foreignUid ? sys.S_ISUID : 0) | (foreignGid ? sys.S_ISGID : 0))
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

/**
 * What an object may say of its own owner and mode in a layer whose root carries `mark`, as fuse-overlayfs marks it. security.* only root can
 * write; user.* the owner of the layer, who is thereby believed to be anybody, so it has to be asked for. Without a mark nothing is.
 */
function believable(mode: MountOptions['xattrPermissions'], mark: string | null): readonly string[] {
  if (mark === OVERRIDE_STAT_SECURITY) return mode === 0 ? [] : [mark]
  return mark === null || mode !== 2 ? [] : USER_ATTRS
}

/** `undefined`: the mapping does not have it. */
function toShown(map: readonly IdMap[] | undefined, id: number): number | undefined {
  if (map === undefined) return id
  for (const { disk, shown, length } of map) if (id >= disk && id < disk + length) return shown + (id - disk)
  return undefined
}

function toDisk(map: readonly IdMap[] | undefined, id: number): number {
  if (map === undefined) return id
  for (const { disk, shown, length } of map)
    if (id >= shown && id < shown + length) return disk + (id - shown)
  throw new SysError(E.EOVERFLOW, 'idmap', String(id))
}
