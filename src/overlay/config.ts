/**
 * What one mount is made of: the layers, and the options that change how the merged view behaves.
 *
 * The command line's strings are parsed in daemon/options.ts; this file is what comes out of it, and what
 * `Overlay.open` takes. All paths are absolute byte names (latin1).
 */

/** One triple of `uidmapping=` / `gidmapping=`: `length` ids from `disk` on disk are presented from `shown` on. */
export interface IdMap {
  disk: number
  shown: number
  length: number
}

/**
 * `redirect_dir=`: may a merged directory be renamed (`on`), and are redirects found in layers followed. With `auto` and `off` they are
 * where only root can write them: see marks.ts.
 */
export type RedirectDir = 'auto' | 'on' | 'off' | 'follow' | 'nofollow'

/** How a deletion is written into upperdir. `auto`: character device 0:0 where mknod is allowed, else an xattr, else `.wh.`. */
export type WhiteoutStyle = 'auto' | 'char' | 'xattr' | 'file'

/** Whether lower layers change beneath the mount: compared when asked, watched, or promised not to. See changes.ts. */
export type LowerMode = 'checked' | 'live' | 'frozen'

/** Who reads and writes file contents: see docs/architecture/channel.md. */
export type IoMode = 'auto' | 'cached' | 'passthrough'

/** mount(8): never; when older than the last change, or than a day; at each read. */
export type AccessTimes = 'noatime' | 'relatime' | 'strictatime'

export interface MountOptions {
  /** Seconds for which the kernel may keep entries and attributes; Infinity unless `timeout=` says otherwise. */
  timeout: number
  /** Never fsync, neither at copy-up nor when asked to. A crash may lose or tear what was written. */
  volatile: boolean
  /** `fsync=0` answers fsync(2) with success without doing it, and keeps everything else. */
  fsync: boolean
  /** Let the kernel gather small writes (FUSE writeback cache). */
  writeback: boolean
  redirectDir: RedirectDir
  /** The overlay's attributes are user.overlay.*, also as root. */
  userxattr: boolean
  index: boolean | 'auto'
  metacopy: boolean
  xino: 'off' | 'auto' | 'on'
  /** Present inode numbers below 2^32 only, for 32-bit programs. */
  ino32: boolean
  uidMapping?: IdMap[]
  gidMapping?: IdMap[]
  /** Present every file as owned by 0:0. */
  squashToRoot: boolean
  squashToUid?: number
  squashToGid?: number
  /**
   * Keep owner and mode in an xattr, and believe it in layers whose root has it: 1 security.fuseoverlayfs.override_stat, 2 also
   * user.containers.override_stat.
   */
  xattrPermissions: 0 | 1 | 2
  /** Show and take no xattrs at all. */
  noxattrs: boolean
  /** Present st_nlink 1 for directories rather than counting sub-directories. */
  staticNlink: boolean
  /** Show and take no POSIX ACLs. */
  noacl: boolean
  whiteout: WhiteoutStyle
  io: IoMode
  lower: LowerMode
  /** Bytes that upper may take; see limit.ts. */
  size?: number
}

export interface OverlayConfig {
  /** Lower layers, top first. */
  lower: string[]
  /** Data-only lower layers (after `::`), reachable only through an absolute redirect of a metacopy file. */
  dataOnly?: string[]
  upper?: string
  /** Given exactly when `upper` is. */
  work?: string
  /** When reading an object of upper writes its access time, as mount(8) says it of the view. Lower layers': never. */
  accessTimes?: AccessTimes
  /** Never for directories. */
  nodiratime?: boolean
  /** Where the view is going to appear; a layer that contains it must not be walked through it. */
  mountpoint: string
  options: MountOptions
}

export const DEFAULT_OPTIONS: Readonly<MountOptions> = {
  timeout: Infinity,
  volatile: false,
  fsync: true,
  writeback: false,
  redirectDir: 'auto',
  userxattr: false,
  index: 'auto',
  metacopy: false,
  xino: 'auto',
  ino32: false,
  squashToRoot: false,
  xattrPermissions: 0,
  noxattrs: false,
  staticNlink: false,
  noacl: false,
  whiteout: 'auto',
  io: 'auto',
  lower: 'checked',
}
