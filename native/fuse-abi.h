// The structs of the FUSE protocol, 7.45, as the kernel lays them out: Debian 12's linux/fuse.h is 7.38. Names are the
// kernel's. Source: include/uapi/linux/fuse.h of Linux 6.18. abi.cc exports every offset, and a test compares the
// layouts of src/fuse with them.
#pragma once

#include <sys/ioctl.h>

#include <cstddef>
#include <cstdint>

namespace lamina::abi {

struct fuse_attr {
  uint64_t ino;
  uint64_t size;
  uint64_t blocks;
  uint64_t atime;
  uint64_t mtime;
  uint64_t ctime;
  uint32_t atimensec;
  uint32_t mtimensec;
  uint32_t ctimensec;
  uint32_t mode;
  uint32_t nlink;
  uint32_t uid;
  uint32_t gid;
  uint32_t rdev;
  uint32_t blksize;
  uint32_t flags;
};
static_assert(sizeof(fuse_attr) == 88);

struct fuse_sx_time {
  int64_t tv_sec;
  uint32_t tv_nsec;
  int32_t __reserved;
};
static_assert(sizeof(fuse_sx_time) == 16);

struct fuse_statx {
  uint32_t mask;
  uint32_t blksize;
  uint64_t attributes;
  uint32_t nlink;
  uint32_t uid;
  uint32_t gid;
  uint16_t mode;
  uint16_t __spare0[1];
  uint64_t ino;
  uint64_t size;
  uint64_t blocks;
  uint64_t attributes_mask;
  fuse_sx_time atime;
  fuse_sx_time btime;
  fuse_sx_time ctime;
  fuse_sx_time mtime;
  uint32_t rdev_major;
  uint32_t rdev_minor;
  uint32_t dev_major;
  uint32_t dev_minor;
  uint64_t __spare2[14];
};
static_assert(sizeof(fuse_statx) == 256);

struct fuse_kstatfs {
  uint64_t blocks;
  uint64_t bfree;
  uint64_t bavail;
  uint64_t files;
  uint64_t ffree;
  uint32_t bsize;
  uint32_t namelen;
  uint32_t frsize;
  uint32_t padding;
  uint32_t spare[6];
};
static_assert(sizeof(fuse_kstatfs) == 80);

struct fuse_file_lock {
  uint64_t start;
  uint64_t end;
  uint32_t type;
  uint32_t pid;
};
static_assert(sizeof(fuse_file_lock) == 24);

struct fuse_entry_out {
  uint64_t nodeid;
  uint64_t generation;
  uint64_t entry_valid;
  uint64_t attr_valid;
  uint32_t entry_valid_nsec;
  uint32_t attr_valid_nsec;
  fuse_attr attr;
};
static_assert(sizeof(fuse_entry_out) == 128);

struct fuse_forget_in {
  uint64_t nlookup;
};
static_assert(sizeof(fuse_forget_in) == 8);

struct fuse_forget_one {
  uint64_t nodeid;
  uint64_t nlookup;
};
static_assert(sizeof(fuse_forget_one) == 16);

struct fuse_batch_forget_in {
  uint32_t count;
  uint32_t dummy;
};
static_assert(sizeof(fuse_batch_forget_in) == 8);

struct fuse_getattr_in {
  uint32_t getattr_flags;
  uint32_t dummy;
  uint64_t fh;
};
static_assert(sizeof(fuse_getattr_in) == 16);

struct fuse_attr_out {
  uint64_t attr_valid;
  uint32_t attr_valid_nsec;
  uint32_t dummy;
  fuse_attr attr;
};
static_assert(sizeof(fuse_attr_out) == 104);

struct fuse_statx_in {
  uint32_t getattr_flags;
  uint32_t reserved;
  uint64_t fh;
  uint32_t sx_flags;
  uint32_t sx_mask;
};
static_assert(sizeof(fuse_statx_in) == 24);

struct fuse_statx_out {
  uint64_t attr_valid;
  uint32_t attr_valid_nsec;
  uint32_t flags;
  uint64_t spare[2];
  fuse_statx stat;
};
static_assert(sizeof(fuse_statx_out) == 288);

struct fuse_mknod_in {
  uint32_t mode;
  uint32_t rdev;
  uint32_t umask;
  uint32_t padding;
};
static_assert(sizeof(fuse_mknod_in) == 16);

struct fuse_mkdir_in {
  uint32_t mode;
  uint32_t umask;
};
static_assert(sizeof(fuse_mkdir_in) == 8);

struct fuse_rename_in {
  uint64_t newdir;
};
static_assert(sizeof(fuse_rename_in) == 8);

struct fuse_rename2_in {
  uint64_t newdir;
  uint32_t flags;
  uint32_t padding;
};
static_assert(sizeof(fuse_rename2_in) == 16);

struct fuse_link_in {
  uint64_t oldnodeid;
};
static_assert(sizeof(fuse_link_in) == 8);

struct fuse_setattr_in {
  uint32_t valid;
  uint32_t padding;
  uint64_t fh;
  uint64_t size;
  uint64_t lock_owner;
  uint64_t atime;
  uint64_t mtime;
  uint64_t ctime;
  uint32_t atimensec;
  uint32_t mtimensec;
  uint32_t ctimensec;
  uint32_t mode;
  uint32_t unused4;
  uint32_t uid;
  uint32_t gid;
  uint32_t unused5;
};
static_assert(sizeof(fuse_setattr_in) == 88);

struct fuse_open_in {
  uint32_t flags;
  uint32_t open_flags;
};
static_assert(sizeof(fuse_open_in) == 8);

struct fuse_create_in {
  uint32_t flags;
  uint32_t mode;
  uint32_t umask;
  uint32_t open_flags;
};
static_assert(sizeof(fuse_create_in) == 16);

struct fuse_open_out {
  uint64_t fh;
  uint32_t open_flags;
  int32_t backing_id;
};
static_assert(sizeof(fuse_open_out) == 16);

struct fuse_release_in {
  uint64_t fh;
  uint32_t flags;
  uint32_t release_flags;
  uint64_t lock_owner;
};
static_assert(sizeof(fuse_release_in) == 24);

struct fuse_flush_in {
  uint64_t fh;
  uint32_t unused;
  uint32_t padding;
  uint64_t lock_owner;
};
static_assert(sizeof(fuse_flush_in) == 24);

struct fuse_read_in {
  uint64_t fh;
  uint64_t offset;
  uint32_t size;
  uint32_t read_flags;
  uint64_t lock_owner;
  uint32_t flags;
  uint32_t padding;
};
static_assert(sizeof(fuse_read_in) == 40);

struct fuse_write_in {
  uint64_t fh;
  uint64_t offset;
  uint32_t size;
  uint32_t write_flags;
  uint64_t lock_owner;
  uint32_t flags;
  uint32_t padding;
};
static_assert(sizeof(fuse_write_in) == 40);

struct fuse_write_out {
  uint32_t size;
  uint32_t padding;
};
static_assert(sizeof(fuse_write_out) == 8);

struct fuse_statfs_out {
  fuse_kstatfs st;
};
static_assert(sizeof(fuse_statfs_out) == 80);

struct fuse_fsync_in {
  uint64_t fh;
  uint32_t fsync_flags;
  uint32_t padding;
};
static_assert(sizeof(fuse_fsync_in) == 16);

struct fuse_setxattr_in {
  uint32_t size;
  uint32_t flags;
  uint32_t setxattr_flags;
  uint32_t padding;
};
static_assert(sizeof(fuse_setxattr_in) == 16);

struct fuse_getxattr_in {
  uint32_t size;
  uint32_t padding;
};
static_assert(sizeof(fuse_getxattr_in) == 8);

struct fuse_getxattr_out {
  uint32_t size;
  uint32_t padding;
};
static_assert(sizeof(fuse_getxattr_out) == 8);

struct fuse_lk_in {
  uint64_t fh;
  uint64_t owner;
  fuse_file_lock lk;
  uint32_t lk_flags;
  uint32_t padding;
};
static_assert(sizeof(fuse_lk_in) == 48);

struct fuse_lk_out {
  fuse_file_lock lk;
};
static_assert(sizeof(fuse_lk_out) == 24);

struct fuse_access_in {
  uint32_t mask;
  uint32_t padding;
};
static_assert(sizeof(fuse_access_in) == 8);

struct fuse_init_in {
  uint32_t major;
  uint32_t minor;
  uint32_t max_readahead;
  uint32_t flags;
  uint32_t flags2;
  uint32_t unused[11];
};
static_assert(sizeof(fuse_init_in) == 64);

struct fuse_init_out {
  uint32_t major;
  uint32_t minor;
  uint32_t max_readahead;
  uint32_t flags;
  uint16_t max_background;
  uint16_t congestion_threshold;
  uint32_t max_write;
  uint32_t time_gran;
  uint16_t max_pages;
  uint16_t map_alignment;
  uint32_t flags2;
  uint32_t max_stack_depth;
  uint16_t request_timeout;
  uint16_t unused[11];
};
static_assert(sizeof(fuse_init_out) == 64);

struct fuse_interrupt_in {
  uint64_t unique;
};
static_assert(sizeof(fuse_interrupt_in) == 8);

struct fuse_bmap_in {
  uint64_t block;
  uint32_t blocksize;
  uint32_t padding;
};
static_assert(sizeof(fuse_bmap_in) == 16);

struct fuse_bmap_out {
  uint64_t block;
};
static_assert(sizeof(fuse_bmap_out) == 8);

struct fuse_ioctl_in {
  uint64_t fh;
  uint32_t flags;
  uint32_t cmd;
  uint64_t arg;
  uint32_t in_size;
  uint32_t out_size;
};
static_assert(sizeof(fuse_ioctl_in) == 32);

struct fuse_ioctl_iovec {
  uint64_t base;
  uint64_t len;
};
static_assert(sizeof(fuse_ioctl_iovec) == 16);

struct fuse_ioctl_out {
  int32_t result;
  uint32_t flags;
  uint32_t in_iovs;
  uint32_t out_iovs;
};
static_assert(sizeof(fuse_ioctl_out) == 16);

struct fuse_poll_in {
  uint64_t fh;
  uint64_t kh;
  uint32_t flags;
  uint32_t events;
};
static_assert(sizeof(fuse_poll_in) == 24);

struct fuse_poll_out {
  uint32_t revents;
  uint32_t padding;
};
static_assert(sizeof(fuse_poll_out) == 8);

struct fuse_notify_poll_wakeup_out {
  uint64_t kh;
};
static_assert(sizeof(fuse_notify_poll_wakeup_out) == 8);

struct fuse_fallocate_in {
  uint64_t fh;
  uint64_t offset;
  uint64_t length;
  uint32_t mode;
  uint32_t padding;
};
static_assert(sizeof(fuse_fallocate_in) == 32);

struct fuse_in_header {
  uint32_t len;
  uint32_t opcode;
  uint64_t unique;
  uint64_t nodeid;
  uint32_t uid;
  uint32_t gid;
  uint32_t pid;
  uint16_t total_extlen;
  uint16_t padding;
};
static_assert(sizeof(fuse_in_header) == 40);

struct fuse_out_header {
  uint32_t len;
  int32_t error;
  uint64_t unique;
};
static_assert(sizeof(fuse_out_header) == 16);

struct fuse_dirent {
  uint64_t ino;
  uint64_t off;
  uint32_t namelen;
  uint32_t type;
};
static_assert(sizeof(fuse_dirent) == 24);

struct fuse_direntplus {
  fuse_entry_out entry_out;
  fuse_dirent dirent;
};
static_assert(sizeof(fuse_direntplus) == 152);

inline constexpr int32_t FUSE_NOTIFY_INVAL_INODE = 2;

struct fuse_notify_inval_inode_out {
  uint64_t ino;
  int64_t off;
  int64_t len;
};
static_assert(sizeof(fuse_notify_inval_inode_out) == 24);

struct fuse_notify_inval_entry_out {
  uint64_t parent;
  uint32_t namelen;
  uint32_t flags;
};
static_assert(sizeof(fuse_notify_inval_entry_out) == 16);

struct fuse_notify_delete_out {
  uint64_t parent;
  uint64_t child;
  uint32_t namelen;
  uint32_t padding;
};
static_assert(sizeof(fuse_notify_delete_out) == 24);

struct fuse_notify_store_out {
  uint64_t nodeid;
  uint64_t offset;
  uint32_t size;
  uint32_t padding;
};
static_assert(sizeof(fuse_notify_store_out) == 24);

struct fuse_notify_retrieve_out {
  uint64_t notify_unique;
  uint64_t nodeid;
  uint64_t offset;
  uint32_t size;
  uint32_t padding;
};
static_assert(sizeof(fuse_notify_retrieve_out) == 32);

struct fuse_notify_retrieve_in {
  uint64_t dummy1;
  uint64_t offset;
  uint32_t size;
  uint32_t dummy2;
  uint64_t dummy3;
  uint64_t dummy4;
};
static_assert(sizeof(fuse_notify_retrieve_in) == 40);

struct fuse_notify_prune_out {
  uint32_t count;
  uint32_t padding;
  uint64_t spare;
};
static_assert(sizeof(fuse_notify_prune_out) == 16);

struct fuse_backing_map {
  int32_t fd;
  uint32_t flags;
  uint64_t padding;
};
static_assert(sizeof(fuse_backing_map) == 16);

struct fuse_lseek_in {
  uint64_t fh;
  uint64_t offset;
  uint32_t whence;
  uint32_t padding;
};
static_assert(sizeof(fuse_lseek_in) == 24);

struct fuse_lseek_out {
  uint64_t offset;
};
static_assert(sizeof(fuse_lseek_out) == 8);

struct fuse_copy_file_range_in {
  uint64_t fh_in;
  uint64_t off_in;
  uint64_t nodeid_out;
  uint64_t fh_out;
  uint64_t off_out;
  uint64_t len;
  uint64_t flags;
};
static_assert(sizeof(fuse_copy_file_range_in) == 56);

struct fuse_copy_file_range_out {
  uint64_t bytes_copied;
};
static_assert(sizeof(fuse_copy_file_range_out) == 8);

struct fuse_setupmapping_in {
  uint64_t fh;
  uint64_t foffset;
  uint64_t len;
  uint64_t flags;
  uint64_t moffset;
};
static_assert(sizeof(fuse_setupmapping_in) == 40);

struct fuse_removemapping_in {
  uint32_t count;
};
static_assert(sizeof(fuse_removemapping_in) == 4);

struct fuse_removemapping_one {
  uint64_t moffset;
  uint64_t len;
};
static_assert(sizeof(fuse_removemapping_one) == 16);

struct fuse_syncfs_in {
  uint64_t padding;
};
static_assert(sizeof(fuse_syncfs_in) == 8);

struct fuse_secctx {
  uint32_t size;
  uint32_t padding;
};
static_assert(sizeof(fuse_secctx) == 8);

struct fuse_secctx_header {
  uint32_t size;
  uint32_t nr_secctx;
};
static_assert(sizeof(fuse_secctx_header) == 8);

struct fuse_ext_header {
  uint32_t size;
  uint32_t type;
};
static_assert(sizeof(fuse_ext_header) == 8);

struct fuse_uring_ent_in_out {
  uint64_t flags;
  uint64_t commit_id;
  uint32_t payload_sz;
  uint32_t padding;
  uint64_t reserved;
};
static_assert(sizeof(fuse_uring_ent_in_out) == 32);

struct fuse_uring_req_header {
  uint8_t in_out[128];
  uint8_t op_in[128];
  fuse_uring_ent_in_out ring_ent_in_out;
};
static_assert(sizeof(fuse_uring_req_header) == 288);

struct fuse_uring_cmd_req {
  uint64_t flags;
  uint64_t commit_id;
  uint16_t qid;
  uint8_t padding[6];
};
static_assert(sizeof(fuse_uring_cmd_req) == 24);

// What native code itself reads of a frame: only the data plane (data-plane.cc) looks further than its length.
static_assert(offsetof(fuse_in_header, unique) == 8 && offsetof(fuse_in_header, nodeid) == 16);
static_assert(offsetof(fuse_read_in, offset) == 8 && offsetof(fuse_read_in, size) == 16);
static_assert(offsetof(fuse_write_in, offset) == 8 && offsetof(fuse_write_in, size) == 16);
static_assert(offsetof(fuse_write_in, write_flags) == 20 && sizeof(fuse_write_in) == sizeof(fuse_read_in));
static_assert(offsetof(fuse_open_out, backing_id) == 12);

// The opcodes that native code serves. Every other one is src/fuse/opcodes.ts's business.
inline constexpr uint32_t FUSE_LOOKUP = 1;
inline constexpr uint32_t FUSE_FORGET = 2;
inline constexpr uint32_t FUSE_GETATTR = 3;
inline constexpr uint32_t FUSE_SETATTR = 4;
inline constexpr uint32_t FUSE_MKNOD = 8;
inline constexpr uint32_t FUSE_UNLINK = 10;
inline constexpr uint32_t FUSE_RMDIR = 11;
inline constexpr uint32_t FUSE_READ = 15;
inline constexpr uint32_t FUSE_WRITE = 16;
inline constexpr uint32_t FUSE_RELEASE = 18;
inline constexpr uint32_t FUSE_GETXATTR = 22;
inline constexpr uint32_t FUSE_READDIR = 28;
inline constexpr uint32_t FUSE_CREATE = 35;
inline constexpr uint32_t FUSE_BATCH_FORGET = 42;
inline constexpr uint32_t FUSE_READDIRPLUS = 44;
inline constexpr uint32_t FUSE_STATX = 52;

// fuse_write_in.write_flags
inline constexpr uint32_t FUSE_WRITE_CACHE = 1u << 0;
inline constexpr uint32_t FUSE_WRITE_KILL_SUIDGID = 1u << 2;

// What a SETATTR changes (fuse_setattr_in::valid), and what else it has.
inline constexpr uint32_t FATTR_MODE = 1 << 0;
inline constexpr uint32_t FATTR_UID = 1 << 1;
inline constexpr uint32_t FATTR_GID = 1 << 2;
inline constexpr uint32_t FATTR_ATIME = 1 << 4;
inline constexpr uint32_t FATTR_MTIME = 1 << 5;
inline constexpr uint32_t FATTR_FH = 1 << 6;
inline constexpr uint32_t FATTR_ATIME_NOW = 1 << 7;
inline constexpr uint32_t FATTR_MTIME_NOW = 1 << 8;
inline constexpr uint32_t FATTR_LOCKOWNER = 1 << 9;
inline constexpr uint32_t FATTR_KILL_SUIDGID = 1 << 11;

// fuse_open_out.open_flags: the page cache stays as it is.
inline constexpr uint32_t FOPEN_KEEP_CACHE = 1u << 1;

// In a `unique`: the request was sent before, to a daemon that did not answer it.
inline constexpr uint64_t FUSE_UNIQUE_RESEND = uint64_t{1} << 63;

// The device refuses to be read with less.
inline constexpr size_t FUSE_MIN_READ_BUFFER = 8192;

inline constexpr unsigned long FUSE_DEV_IOC_BACKING_OPEN = _IOW(229, 1, fuse_backing_map);
inline constexpr unsigned long FUSE_DEV_IOC_BACKING_CLOSE = _IOW(229, 2, uint32_t);

}  // namespace lamina::abi
