/** Flag bits of the protocol. Source: linux/fuse.h 7.45. Names are the kernel's. */

export const FUSE_KERNEL_VERSION = 7
/** The newest minor version spoken here; an older kernel's is used instead. */
export const FUSE_KERNEL_MINOR_VERSION = 45
/** The oldest kernel minor served: Linux 5.4. Older ones lack structs that every answer here uses. */
export const FUSE_OLDEST_MINOR_VERSION = 31
export const FUSE_ROOT_ID = 1

export const FATTR = {
  MODE: 1 << 0,
  UID: 1 << 1,
  GID: 1 << 2,
  SIZE: 1 << 3,
  ATIME: 1 << 4,
  MTIME: 1 << 5,
  FH: 1 << 6,
  ATIME_NOW: 1 << 7,
  MTIME_NOW: 1 << 8,
  LOCKOWNER: 1 << 9,
  CTIME: 1 << 10,
  KILL_SUIDGID: 1 << 11,
} as const

export const FOPEN = {
  DIRECT_IO: 1 << 0,
  KEEP_CACHE: 1 << 1,
  NONSEEKABLE: 1 << 2,
  CACHE_DIR: 1 << 3,
  STREAM: 1 << 4,
  NOFLUSH: 1 << 5,
  PARALLEL_DIRECT_WRITES: 1 << 6,
  PASSTHROUGH: 1 << 7,
} as const

/** INIT flags by bit number; 32 and up travel in flags2. */
export const INIT_FLAG = {
  ASYNC_READ: 0,
  POSIX_LOCKS: 1,
  FILE_OPS: 2,
  ATOMIC_O_TRUNC: 3,
  EXPORT_SUPPORT: 4,
  BIG_WRITES: 5,
  DONT_MASK: 6,
  SPLICE_WRITE: 7,
  SPLICE_MOVE: 8,
  SPLICE_READ: 9,
  FLOCK_LOCKS: 10,
  HAS_IOCTL_DIR: 11,
  AUTO_INVAL_DATA: 12,
  DO_READDIRPLUS: 13,
  READDIRPLUS_AUTO: 14,
  ASYNC_DIO: 15,
  WRITEBACK_CACHE: 16,
  NO_OPEN_SUPPORT: 17,
  PARALLEL_DIROPS: 18,
  HANDLE_KILLPRIV: 19,
  POSIX_ACL: 20,
  ABORT_ERROR: 21,
  MAX_PAGES: 22,
  CACHE_SYMLINKS: 23,
  NO_OPENDIR_SUPPORT: 24,
  EXPLICIT_INVAL_DATA: 25,
  MAP_ALIGNMENT: 26,
  SUBMOUNTS: 27,
  HANDLE_KILLPRIV_V2: 28,
  SETXATTR_EXT: 29,
  INIT_EXT: 30,
  INIT_RESERVED: 31,
  SECURITY_CTX: 32,
  HAS_INODE_DAX: 33,
  CREATE_SUPP_GROUP: 34,
  HAS_EXPIRE_ONLY: 35,
  DIRECT_IO_ALLOW_MMAP: 36,
  PASSTHROUGH: 37,
  NO_EXPORT_SUPPORT: 38,
  HAS_RESEND: 39,
  ALLOW_IDMAP: 40,
  OVER_IO_URING: 41,
  REQUEST_TIMEOUT: 42,
} as const
export type InitFlag = keyof typeof INIT_FLAG

export const GETATTR_FH = 1 << 0
export const FSYNC_FDATASYNC = 1 << 0
export const SETXATTR_ACL_KILL_SGID = 1 << 0
export const OPEN_KILL_SUIDGID = 1 << 0

export const WRITE = { CACHE: 1 << 0, LOCKOWNER: 1 << 1, KILL_SUIDGID: 1 << 2 } as const
export const RELEASE = { FLUSH: 1 << 0, FLOCK_UNLOCK: 1 << 1 } as const
export const IOCTL = {
  COMPAT: 1 << 0,
  UNRESTRICTED: 1 << 1,
  RETRY: 1 << 2,
  '32BIT': 1 << 3,
  DIR: 1 << 4,
  COMPAT_X32: 1 << 5,
} as const

/** Codes of messages that the daemon sends unasked; they travel in fuse_out_header.error with unique 0. */
export const NOTIFY = {
  POLL: 1,
  INVAL_INODE: 2,
  INVAL_ENTRY: 3,
  STORE: 4,
  RETRIEVE: 5,
  DELETE: 6,
  RESEND: 7,
  INC_EPOCH: 8,
  PRUNE: 9,
} as const

/** The top bit of `unique`: this request was sent before, to a daemon that died (FUSE_UNIQUE_RESEND). */
export const UNIQUE_RESEND_HIGH = 0x8000_0000

/** The largest errno the kernel accepts in a reply; it rejects others and the caller would wait for ever. */
export const MAX_REPLY_ERRNO = 511

/** statx masks. Source: linux/stat.h. */
export const STATX_BASIC_STATS = 0x7ff
export const STATX_BTIME = 0x800

export const XATTR_SIZE_MAX = 65536
export const NAME_MAX = 255
/** Longest symlink target: PATH_MAX without its NUL. */
export const SYMLINK_MAX = 4095
