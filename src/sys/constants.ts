/**
 * Constants of the Linux ABI. Those that differ between x86_64 and arm64 say so; a test compares all of them with what
 * the addon was compiled with. Names are the kernel's.
 */
const arm64 = process.arch === 'arm64'

// fcntl.h
export const O_RDONLY = 0
export const O_WRONLY = 1
export const O_RDWR = 2
export const O_ACCMODE = 3
export const O_CREAT = 0o100
export const O_EXCL = 0o200
export const O_NOCTTY = 0o400
export const O_TRUNC = 0o1000
export const O_APPEND = 0o2000
export const O_NONBLOCK = 0o4000
export const O_DSYNC = 0o10000
export const O_ASYNC = 0o20000
export const O_DIRECT = arm64 ? 0o200000 : 0o40000
export const O_LARGEFILE = arm64 ? 0o400000 : 0o100000
export const O_DIRECTORY = arm64 ? 0o40000 : 0o200000
export const O_NOFOLLOW = arm64 ? 0o100000 : 0o400000
export const O_NOATIME = 0o1000000
export const O_CLOEXEC = 0o2000000
export const O_SYNC = 0o4010000
export const O_PATH = 0o10000000
export const O_TMPFILE = 0o20000000 | O_DIRECTORY

export const AT_FDCWD = -100
export const AT_SYMLINK_NOFOLLOW = 0x100
export const AT_REMOVEDIR = 0x200
export const AT_SYMLINK_FOLLOW = 0x400
export const AT_NO_AUTOMOUNT = 0x800
export const AT_EMPTY_PATH = 0x1000
export const AT_STATX_FORCE_SYNC = 0x2000
export const AT_STATX_DONT_SYNC = 0x4000
export const AT_RECURSIVE = 0x8000
export const AT_HANDLE_FID = 0x200
export const AT_HANDLE_MNT_ID_UNIQUE = 0x1

export const F_DUPFD_CLOEXEC = 1030
export const F_GETFD = 1
export const F_SETFD = 2
export const F_GETFL = 3
export const F_SETFL = 4
export const FD_CLOEXEC = 1
export const F_SETPIPE_SZ = 1031

// linux/openat2.h
export const RESOLVE_NO_XDEV = 0x01
export const RESOLVE_NO_MAGICLINKS = 0x02
export const RESOLVE_NO_SYMLINKS = 0x04
export const RESOLVE_BENEATH = 0x08
export const RESOLVE_IN_ROOT = 0x10
export const RESOLVE_CACHED = 0x20

// sys/stat.h
export const S_IFMT = 0o170000
export const S_IFSOCK = 0o140000
export const S_IFLNK = 0o120000
export const S_IFREG = 0o100000
export const S_IFBLK = 0o060000
export const S_IFDIR = 0o040000
export const S_IFCHR = 0o020000
export const S_IFIFO = 0o010000
export const S_ISUID = 0o4000
export const S_ISGID = 0o2000
export const S_ISVTX = 0o1000
export const S_IRWXU = 0o700
export const S_IXUSR = 0o100
export const S_IRWXG = 0o070
export const S_IXGRP = 0o010
export const S_IRWXO = 0o007
export const S_IXOTH = 0o001

export const S_ISREG = (mode: number): boolean => (mode & S_IFMT) === S_IFREG
export const S_ISDIR = (mode: number): boolean => (mode & S_IFMT) === S_IFDIR
export const S_ISLNK = (mode: number): boolean => (mode & S_IFMT) === S_IFLNK
export const S_ISCHR = (mode: number): boolean => (mode & S_IFMT) === S_IFCHR
export const S_ISBLK = (mode: number): boolean => (mode & S_IFMT) === S_IFBLK
export const S_ISFIFO = (mode: number): boolean => (mode & S_IFMT) === S_IFIFO
export const S_ISSOCK = (mode: number): boolean => (mode & S_IFMT) === S_IFSOCK

export const UTIME_NOW = 0x3fffffff
export const UTIME_OMIT = 0x3ffffffe

// linux/stat.h
export const STATX_TYPE = 0x1
export const STATX_MODE = 0x2
export const STATX_NLINK = 0x4
export const STATX_UID = 0x8
export const STATX_GID = 0x10
export const STATX_ATIME = 0x20
export const STATX_MTIME = 0x40
export const STATX_CTIME = 0x80
export const STATX_INO = 0x100
export const STATX_SIZE = 0x200
export const STATX_BLOCKS = 0x400
export const STATX_BASIC_STATS = 0x7ff
export const STATX_BTIME = 0x800
export const STATX_MNT_ID = 0x1000
export const STATX_ATTR_COMPRESSED = 0x4
export const STATX_ATTR_IMMUTABLE = 0x10
export const STATX_ATTR_APPEND = 0x20
export const STATX_ATTR_NODUMP = 0x40
export const STATX_ATTR_ENCRYPTED = 0x800
export const STATX_ATTR_AUTOMOUNT = 0x1000
export const STATX_ATTR_MOUNT_ROOT = 0x2000
export const STATX_ATTR_VERITY = 0x100000
export const STATX_ATTR_DAX = 0x200000

// dirent.h; DT_x is S_IFx >> 12
export const DT_UNKNOWN = 0
export const DT_FIFO = 1
export const DT_CHR = 2
export const DT_DIR = 4
export const DT_BLK = 6
export const DT_REG = 8
export const DT_LNK = 10
export const DT_SOCK = 12
export const DT_WHT = 14

// linux/fs.h
export const RENAME_NOREPLACE = 1
export const RENAME_EXCHANGE = 2
export const RENAME_WHITEOUT = 4
export const FICLONE = 0x40049409
export const FICLONERANGE = 0x4020940d
/** Source: linux/nsfs.h */
export const NS_GET_USERNS = 0xb701
export const FS_IOC_GETFLAGS = 0x80086601
export const FS_IOC_SETFLAGS = 0x40086602
export const FS_IOC_GETVERSION = 0x80087601
export const FS_IOC_FSGETXATTR = 0x801c581f
export const FS_IOC_FSSETXATTR = 0x401c5820
export const FS_IOC_GETFSUUID = 0x80111500
export const FS_COMPR_FL = 0x4
export const FS_SYNC_FL = 0x8
export const FS_IMMUTABLE_FL = 0x10
export const FS_APPEND_FL = 0x20
export const FS_NODUMP_FL = 0x40
export const FS_NOATIME_FL = 0x80
export const FS_DIRSYNC_FL = 0x10000
export const FS_NOCOW_FL = 0x800000
export const FS_PROJINHERIT_FL = 0x20000000

// linux/falloc.h
export const FALLOC_FL_KEEP_SIZE = 0x01
export const FALLOC_FL_PUNCH_HOLE = 0x02
export const FALLOC_FL_NO_HIDE_STALE = 0x04
export const FALLOC_FL_COLLAPSE_RANGE = 0x08
export const FALLOC_FL_ZERO_RANGE = 0x10
export const FALLOC_FL_INSERT_RANGE = 0x20
export const FALLOC_FL_UNSHARE_RANGE = 0x40

// unistd.h
export const SEEK_SET = 0
export const SEEK_CUR = 1
export const SEEK_END = 2
export const SEEK_DATA = 3
export const SEEK_HOLE = 4

// sys/file.h
export const LOCK_SH = 1
export const LOCK_EX = 2
export const LOCK_NB = 4
export const LOCK_UN = 8

// linux/xattr.h, linux/limits.h
export const XATTR_CREATE = 1
export const XATTR_REPLACE = 2
export const XATTR_NAME_MAX = 255
export const XATTR_SIZE_MAX = 65536
export const XATTR_LIST_MAX = 65536
export const NAME_MAX = 255
export const PATH_MAX = 4096

// linux/statfs.h
export const ST_NOSUID = 2

// linux/mount.h
export const MS_RDONLY = 1
export const MS_NOSUID = 2
export const MS_NODEV = 4
export const MS_NOEXEC = 8
export const MS_SYNCHRONOUS = 16
export const MS_REMOUNT = 32
export const MS_MANDLOCK = 64
export const MS_DIRSYNC = 128
export const MS_NOSYMFOLLOW = 256
export const MS_NOATIME = 1024
export const MS_NODIRATIME = 2048
export const MS_BIND = 4096
export const MS_MOVE = 8192
export const MS_REC = 16384
export const MS_SILENT = 32768
export const MS_POSIXACL = 1 << 16
export const MS_UNBINDABLE = 1 << 17
export const MS_PRIVATE = 1 << 18
export const MS_SLAVE = 1 << 19
export const MS_SHARED = 1 << 20
export const MS_RELATIME = 1 << 21
export const MS_I_VERSION = 1 << 23
export const MS_STRICTATIME = 1 << 24
export const MS_LAZYTIME = 1 << 25

export const MNT_FORCE = 1
export const MNT_DETACH = 2
export const MNT_EXPIRE = 4
export const UMOUNT_NOFOLLOW = 8

export const OPEN_TREE_CLONE = 1
export const OPEN_TREE_CLOEXEC = O_CLOEXEC

export const MOVE_MOUNT_F_SYMLINKS = 0x01
export const MOVE_MOUNT_F_AUTOMOUNTS = 0x02
export const MOVE_MOUNT_F_EMPTY_PATH = 0x04
export const MOVE_MOUNT_T_SYMLINKS = 0x10
export const MOVE_MOUNT_T_AUTOMOUNTS = 0x20
export const MOVE_MOUNT_T_EMPTY_PATH = 0x40
export const MOVE_MOUNT_SET_GROUP = 0x100
export const MOVE_MOUNT_BENEATH = 0x200

export const FSOPEN_CLOEXEC = 1
export const FSMOUNT_CLOEXEC = 1
export const FSCONFIG_SET_FLAG = 0
export const FSCONFIG_SET_STRING = 1
export const FSCONFIG_SET_BINARY = 2
export const FSCONFIG_SET_PATH = 3
export const FSCONFIG_SET_PATH_EMPTY = 4
export const FSCONFIG_SET_FD = 5
export const FSCONFIG_CMD_CREATE = 6
export const FSCONFIG_CMD_RECONFIGURE = 7
export const FSCONFIG_CMD_CREATE_EXCL = 8

export const MOUNT_ATTR_RDONLY = 0x1
export const MOUNT_ATTR_NOSUID = 0x2
export const MOUNT_ATTR_NODEV = 0x4
export const MOUNT_ATTR_NOEXEC = 0x8
export const MOUNT_ATTR__ATIME = 0x70
export const MOUNT_ATTR_RELATIME = 0x0
export const MOUNT_ATTR_NOATIME = 0x10
export const MOUNT_ATTR_STRICTATIME = 0x20
export const MOUNT_ATTR_NODIRATIME = 0x80
export const MOUNT_ATTR_IDMAP = 0x100000
export const MOUNT_ATTR_NOSYMFOLLOW = 0x200000

// sched.h
export const CLONE_FS = 0x200
export const CLONE_FILES = 0x400
export const CLONE_NEWNS = 0x20000
export const CLONE_NEWUSER = 0x10000000
export const CLONE_NEWPID = 0x20000000
export const CLONE_NEWNET = 0x40000000

// linux/capability.h, bit numbers
export const CAP_CHOWN = 0
export const CAP_DAC_OVERRIDE = 1
export const CAP_DAC_READ_SEARCH = 2
export const CAP_FOWNER = 3
export const CAP_FSETID = 4
export const CAP_SYS_ADMIN = 21
export const CAP_SYS_RESOURCE = 24
export const CAP_MKNOD = 27
export const CAP_SETFCAP = 31

// linux/magic.h, statfs f_type
export const EXT_SUPER_MAGIC = 0xef53
export const XFS_SUPER_MAGIC = 0x58465342
export const BTRFS_SUPER_MAGIC = 0x9123683e
export const TMPFS_MAGIC = 0x01021994
export const OVERLAYFS_SUPER_MAGIC = 0x794c7630
export const FUSE_SUPER_MAGIC = 0x65735546
export const NFS_SUPER_MAGIC = 0x6969
export const F2FS_SUPER_MAGIC = 0xf2f52010
export const ZFS_SUPER_MAGIC = 0x2fc12fc1
export const BCACHEFS_SUPER_MAGIC = 0xca451a4e
export const ECRYPTFS_SUPER_MAGIC = 0xf15f
export const PROC_SUPER_MAGIC = 0x9fa0

// A device number in this project is the kernel's MKDEV: major * 2^20 + minor (12 and 20 bits).
export const makedev = (major: number, minor: number): number => major * 0x100000 + minor
export const devMajor = (dev: number): number => Math.floor(dev / 0x100000)
export const devMinor = (dev: number): number => dev % 0x100000

/** `new_encode_dev` of linux/kdev_t.h: how FUSE and stat structures of 32 bits carry a device number. */
export const encodeDev = (dev: number): number => {
  const minor = devMinor(dev)
  return ((minor & 0xff) | (devMajor(dev) << 8) | ((minor & ~0xff) << 12)) >>> 0
}
/** `new_decode_dev`. */
export const decodeDev = (encoded: number): number =>
  makedev((encoded & 0xfff00) >>> 8, (encoded & 0xff) | ((encoded >>> 12) & 0xfff00))

/** Filesystems whose answers come from elsewhere: f_type of statfs(2). */
export const REMOTE_FILESYSTEMS: ReadonlySet<number> = new Set([
  FUSE_SUPER_MAGIC,
  NFS_SUPER_MAGIC,
  0x517b, // smb
  0xff534d42, // cifs
  0xfe534d42, // smb2 and 3
  0x01021997, // 9p
  0x00c36400, // ceph
  0x5346414f, // afs, OpenAFS
  0x6b414653, // afs, the kernel's
  0x73757245, // coda
  0x0bd00bd0, // lustre
  0x19830326, // BeeGFS
  0x47504653, // GPFS
])
