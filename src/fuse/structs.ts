/**
 * Every struct of the protocol that crosses the device. Names and fields are the kernel's.
 * Source: include/uapi/linux/fuse.h, protocol 7.45 (Linux 6.18). native/fuse_abi.h declares the same structs for the
 * compiler; a test compares the two.
 */
import { layout } from './layout.js'

export const InHeader = layout('fuse_in_header', 40, {
  len: 'u32',
  opcode: 'u32',
  unique: 'u64',
  nodeid: 'u64',
  uid: 'u32',
  gid: 'u32',
  pid: 'u32',
  /** Length of the extensions behind the arguments, in units of 8 bytes (7.38). */
  total_extlen: 'u16',
  padding: 'u16',
})

export const OutHeader = layout('fuse_out_header', 16, { len: 'u32', error: 's32', unique: 'u64' })

export const Attr = layout('fuse_attr', 88, {
  ino: 'u64',
  size: 'u64',
  blocks: 'u64',
  atime: 'u64',
  mtime: 'u64',
  ctime: 'u64',
  atimensec: 'u32',
  mtimensec: 'u32',
  ctimensec: 'u32',
  mode: 'u32',
  nlink: 'u32',
  uid: 'u32',
  gid: 'u32',
  rdev: 'u32',
  blksize: 'u32',
  flags: 'u32',
})

export const SxTime = layout('fuse_sx_time', 16, { tv_sec: 's64', tv_nsec: 'u32', __reserved: 's32' })

export const Statx = layout('fuse_statx', 256, {
  mask: 'u32',
  blksize: 'u32',
  attributes: 'u64',
  nlink: 'u32',
  uid: 'u32',
  gid: 'u32',
  mode: 'u16',
  __spare0: 'u16',
  ino: 'u64',
  size: 'u64',
  blocks: 'u64',
  attributes_mask: 'u64',
  atime: SxTime,
  btime: SxTime,
  ctime: SxTime,
  mtime: SxTime,
  rdev_major: 'u32',
  rdev_minor: 'u32',
  dev_major: 'u32',
  dev_minor: 'u32',
  __spare2: ['u64', 14],
})

export const Kstatfs = layout('fuse_kstatfs', 80, {
  blocks: 'u64',
  bfree: 'u64',
  bavail: 'u64',
  files: 'u64',
  ffree: 'u64',
  bsize: 'u32',
  namelen: 'u32',
  frsize: 'u32',
  padding: 'u32',
  spare: ['u32', 6],
})

export const FileLock = layout('fuse_file_lock', 24, { start: 'u64', end: 'u64', type: 'u32', pid: 'u32' })

export const EntryOut = layout('fuse_entry_out', 128, {
  nodeid: 'u64',
  generation: 'u64',
  entry_valid: 'u64',
  attr_valid: 'u64',
  entry_valid_nsec: 'u32',
  attr_valid_nsec: 'u32',
  attr: Attr,
})

export const ForgetIn = layout('fuse_forget_in', 8, { nlookup: 'u64' })
export const ForgetOne = layout('fuse_forget_one', 16, { nodeid: 'u64', nlookup: 'u64' })
export const BatchForgetIn = layout('fuse_batch_forget_in', 8, { count: 'u32', dummy: 'u32' })

export const GetattrIn = layout('fuse_getattr_in', 16, { getattr_flags: 'u32', dummy: 'u32', fh: 'u64' })
export const AttrOut = layout('fuse_attr_out', 104, {
  attr_valid: 'u64',
  attr_valid_nsec: 'u32',
  dummy: 'u32',
  attr: Attr,
})

export const StatxIn = layout('fuse_statx_in', 24, {
  getattr_flags: 'u32',
  reserved: 'u32',
  fh: 'u64',
  sx_flags: 'u32',
  sx_mask: 'u32',
})
export const StatxOut = layout('fuse_statx_out', 288, {
  attr_valid: 'u64',
  attr_valid_nsec: 'u32',
  flags: 'u32',
  spare: ['u64', 2],
  stat: Statx,
})

export const MknodIn = layout('fuse_mknod_in', 16, { mode: 'u32', rdev: 'u32', umask: 'u32', padding: 'u32' })
export const MkdirIn = layout('fuse_mkdir_in', 8, { mode: 'u32', umask: 'u32' })
export const RenameIn = layout('fuse_rename_in', 8, { newdir: 'u64' })
export const Rename2In = layout('fuse_rename2_in', 16, { newdir: 'u64', flags: 'u32', padding: 'u32' })
export const LinkIn = layout('fuse_link_in', 8, { oldnodeid: 'u64' })

export const SetattrIn = layout('fuse_setattr_in', 88, {
  valid: 'u32',
  padding: 'u32',
  fh: 'u64',
  size: 'u64',
  lock_owner: 'u64',
  atime: 'u64',
  mtime: 'u64',
  ctime: 'u64',
  atimensec: 'u32',
  mtimensec: 'u32',
  ctimensec: 'u32',
  mode: 'u32',
  unused4: 'u32',
  uid: 'u32',
  gid: 'u32',
  unused5: 'u32',
})

export const OpenIn = layout('fuse_open_in', 8, { flags: 'u32', open_flags: 'u32' })
export const CreateIn = layout('fuse_create_in', 16, {
  flags: 'u32',
  mode: 'u32',
  umask: 'u32',
  open_flags: 'u32',
})
export const OpenOut = layout('fuse_open_out', 16, { fh: 'u64', open_flags: 'u32', backing_id: 's32' })
export const ReleaseIn = layout('fuse_release_in', 24, {
  fh: 'u64',
  flags: 'u32',
  release_flags: 'u32',
  lock_owner: 'u64',
})
export const FlushIn = layout('fuse_flush_in', 24, {
  fh: 'u64',
  unused: 'u32',
  padding: 'u32',
  lock_owner: 'u64',
})

export const ReadIn = layout('fuse_read_in', 40, {
  fh: 'u64',
  offset: 'u64',
  size: 'u32',
  read_flags: 'u32',
  lock_owner: 'u64',
  flags: 'u32',
  padding: 'u32',
})
export const WriteIn = layout('fuse_write_in', 40, {
  fh: 'u64',
  offset: 'u64',
  size: 'u32',
  write_flags: 'u32',
  lock_owner: 'u64',
  flags: 'u32',
  padding: 'u32',
})
export const WriteOut = layout('fuse_write_out', 8, { size: 'u32', padding: 'u32' })
export const StatfsOut = layout('fuse_statfs_out', 80, { st: Kstatfs })
export const FsyncIn = layout('fuse_fsync_in', 16, { fh: 'u64', fsync_flags: 'u32', padding: 'u32' })

export const SetxattrIn = layout('fuse_setxattr_in', 16, {
  size: 'u32',
  flags: 'u32',
  setxattr_flags: 'u32',
  padding: 'u32',
})
/** What is sent without FUSE_SETXATTR_EXT: FUSE_COMPAT_SETXATTR_IN_SIZE. */
export const SetxattrInCompat = layout('fuse_setxattr_in (compat)', 8, { size: 'u32', flags: 'u32' })
export const GetxattrIn = layout('fuse_getxattr_in', 8, { size: 'u32', padding: 'u32' })
export const GetxattrOut = layout('fuse_getxattr_out', 8, { size: 'u32', padding: 'u32' })

export const LkIn = layout('fuse_lk_in', 48, {
  fh: 'u64',
  owner: 'u64',
  lk: FileLock,
  lk_flags: 'u32',
  padding: 'u32',
})
export const LkOut = layout('fuse_lk_out', 24, { lk: FileLock })
export const AccessIn = layout('fuse_access_in', 8, { mask: 'u32', padding: 'u32' })

export const InitIn = layout('fuse_init_in', 64, {
  major: 'u32',
  minor: 'u32',
  max_readahead: 'u32',
  flags: 'u32',
  flags2: 'u32',
  unused: ['u32', 11],
})
/** What kernels before 7.36 send. */
export const InitInCompat = layout('fuse_init_in (compat)', 16, {
  major: 'u32',
  minor: 'u32',
  max_readahead: 'u32',
  flags: 'u32',
})
export const InitOut = layout('fuse_init_out', 64, {
  major: 'u32',
  minor: 'u32',
  max_readahead: 'u32',
  flags: 'u32',
  max_background: 'u16',
  congestion_threshold: 'u16',
  max_write: 'u32',
  time_gran: 'u32',
  max_pages: 'u16',
  map_alignment: 'u16',
  flags2: 'u32',
  max_stack_depth: 'u32',
  request_timeout: 'u16',
  unused: ['u16', 11],
})

export const InterruptIn = layout('fuse_interrupt_in', 8, { unique: 'u64' })
export const BmapIn = layout('fuse_bmap_in', 16, { block: 'u64', blocksize: 'u32', padding: 'u32' })
export const BmapOut = layout('fuse_bmap_out', 8, { block: 'u64' })

export const IoctlIn = layout('fuse_ioctl_in', 32, {
  fh: 'u64',
  flags: 'u32',
  cmd: 'u32',
  arg: 'u64',
  in_size: 'u32',
  out_size: 'u32',
})
export const IoctlOut = layout('fuse_ioctl_out', 16, {
  result: 's32',
  flags: 'u32',
  in_iovs: 'u32',
  out_iovs: 'u32',
})

export const PollIn = layout('fuse_poll_in', 24, { fh: 'u64', kh: 'u64', flags: 'u32', events: 'u32' })
export const PollOut = layout('fuse_poll_out', 8, { revents: 'u32', padding: 'u32' })

export const FallocateIn = layout('fuse_fallocate_in', 32, {
  fh: 'u64',
  offset: 'u64',
  length: 'u64',
  mode: 'u32',
  padding: 'u32',
})
export const LseekIn = layout('fuse_lseek_in', 24, {
  fh: 'u64',
  offset: 'u64',
  whence: 'u32',
  padding: 'u32',
})
export const LseekOut = layout('fuse_lseek_out', 8, { offset: 'u64' })

export const CopyFileRangeIn = layout('fuse_copy_file_range_in', 56, {
  fh_in: 'u64',
  off_in: 'u64',
  nodeid_out: 'u64',
  fh_out: 'u64',
  off_out: 'u64',
  len: 'u64',
  flags: 'u64',
})
/** The answer to COPY_FILE_RANGE_64; COPY_FILE_RANGE is answered with fuse_write_out. */
export const CopyFileRangeOut = layout('fuse_copy_file_range_out', 8, { bytes_copied: 'u64' })

export const SetupmappingIn = layout('fuse_setupmapping_in', 40, {
  fh: 'u64',
  foffset: 'u64',
  len: 'u64',
  flags: 'u64',
  moffset: 'u64',
})
export const RemovemappingIn = layout('fuse_removemapping_in', 4, { count: 'u32' })
export const SyncfsIn = layout('fuse_syncfs_in', 8, { padding: 'u64' })

/** Followed by the name, padded to 8 bytes. */
export const Dirent = layout('fuse_dirent', 24, { ino: 'u64', off: 'u64', namelen: 'u32', type: 'u32' })
export const Direntplus = layout('fuse_direntplus', 152, { entry_out: EntryOut, dirent: Dirent })

export const ExtHeader = layout('fuse_ext_header', 8, { size: 'u32', type: 'u32' })

export const NotifyInvalInodeOut = layout('fuse_notify_inval_inode_out', 24, {
  ino: 'u64',
  off: 's64',
  len: 's64',
})
export const NotifyInvalEntryOut = layout('fuse_notify_inval_entry_out', 16, {
  parent: 'u64',
  namelen: 'u32',
  flags: 'u32',
})
export const NotifyDeleteOut = layout('fuse_notify_delete_out', 24, {
  parent: 'u64',
  child: 'u64',
  namelen: 'u32',
  padding: 'u32',
})
export const NotifyRetrieveIn = layout('fuse_notify_retrieve_in', 40, {
  dummy1: 'u64',
  offset: 'u64',
  size: 'u32',
  dummy2: 'u32',
  dummy3: 'u64',
  dummy4: 'u64',
})
export const NotifyPruneOut = layout('fuse_notify_prune_out', 16, {
  count: 'u32',
  padding: 'u32',
  spare: 'u64',
})

/** Argument of FUSE_DEV_IOC_BACKING_OPEN. */
export const BackingMap = layout('fuse_backing_map', 16, { fd: 's32', flags: 'u32', padding: 'u64' })
