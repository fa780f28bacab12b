// Tells JavaScript what the compiler made of the kernel's structs and constants, so that a test can compare.
#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/limits.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstddef>
#include <iterator>

#include "args.h"
#include "fuse-abi.h"
#include "kernel.h"
#include "register.h"

namespace lamina {
namespace {

struct Field {
  const char* name;
  size_t offset;
  size_t size;
};

// {size, fields: {name: [offset, size]}} as a property of `out`.
bool add(napi_env env, napi_value out, const char* name, size_t size, const Field* fields, size_t count) {
  napi_value layout = nullptr;
  napi_value list = nullptr;
  if (napi_create_object(env, &layout) != napi_ok || napi_create_object(env, &list) != napi_ok) return false;
  for (size_t i = 0; i < count; i++) {
    napi_value place = nullptr;
    if (napi_create_array_with_length(env, 2, &place) != napi_ok ||
        napi_set_element(env, place, 0, integer(env, static_cast<int64_t>(fields[i].offset))) != napi_ok ||
        napi_set_element(env, place, 1, integer(env, static_cast<int64_t>(fields[i].size))) != napi_ok ||
        napi_set_named_property(env, list, fields[i].name, place) != napi_ok) {
      return false;
    }
  }
  return napi_set_named_property(env, layout, "size", integer(env, static_cast<int64_t>(size))) == napi_ok &&
         napi_set_named_property(env, layout, "fields", list) == napi_ok &&
         napi_set_named_property(env, out, name, layout) == napi_ok;
}

#define FIELD(type, field) {#field, offsetof(abi::type, field), sizeof(abi::type::field)}
#define STRUCT(type, ...)                                                             \
  do {                                                                                \
    const Field fields[] = {__VA_ARGS__};                                             \
    if (!add(env, out, #type, sizeof(abi::type), fields, std::size(fields))) return nullptr; \
  } while (false)

napi_value abi_(napi_env env, napi_callback_info) {
  napi_value out = nullptr;
  if (napi_create_object(env, &out) != napi_ok) return nullptr;
  STRUCT(fuse_attr, FIELD(fuse_attr, ino), FIELD(fuse_attr, size), FIELD(fuse_attr, blocks),
         FIELD(fuse_attr, atime), FIELD(fuse_attr, mtime), FIELD(fuse_attr, ctime),
         FIELD(fuse_attr, atimensec), FIELD(fuse_attr, mtimensec), FIELD(fuse_attr, ctimensec),
         FIELD(fuse_attr, mode), FIELD(fuse_attr, nlink), FIELD(fuse_attr, uid), FIELD(fuse_attr, gid),
         FIELD(fuse_attr, rdev), FIELD(fuse_attr, blksize), FIELD(fuse_attr, flags));
  STRUCT(fuse_sx_time, FIELD(fuse_sx_time, tv_sec), FIELD(fuse_sx_time, tv_nsec),
         FIELD(fuse_sx_time, __reserved));
  STRUCT(fuse_statx, FIELD(fuse_statx, mask), FIELD(fuse_statx, blksize), FIELD(fuse_statx, attributes),
         FIELD(fuse_statx, nlink), FIELD(fuse_statx, uid), FIELD(fuse_statx, gid), FIELD(fuse_statx, mode),
         FIELD(fuse_statx, __spare0), FIELD(fuse_statx, ino), FIELD(fuse_statx, size),
         FIELD(fuse_statx, blocks), FIELD(fuse_statx, attributes_mask), FIELD(fuse_statx, atime),
         FIELD(fuse_statx, btime), FIELD(fuse_statx, ctime), FIELD(fuse_statx, mtime),
         FIELD(fuse_statx, rdev_major), FIELD(fuse_statx, rdev_minor), FIELD(fuse_statx, dev_major),
         FIELD(fuse_statx, dev_minor), FIELD(fuse_statx, __spare2));
  STRUCT(fuse_kstatfs, FIELD(fuse_kstatfs, blocks), FIELD(fuse_kstatfs, bfree), FIELD(fuse_kstatfs, bavail),
         FIELD(fuse_kstatfs, files), FIELD(fuse_kstatfs, ffree), FIELD(fuse_kstatfs, bsize),
         FIELD(fuse_kstatfs, namelen), FIELD(fuse_kstatfs, frsize), FIELD(fuse_kstatfs, padding),
         FIELD(fuse_kstatfs, spare));
  STRUCT(fuse_file_lock, FIELD(fuse_file_lock, start), FIELD(fuse_file_lock, end),
         FIELD(fuse_file_lock, type), FIELD(fuse_file_lock, pid));
  STRUCT(fuse_entry_out, FIELD(fuse_entry_out, nodeid), FIELD(fuse_entry_out, generation),
         FIELD(fuse_entry_out, entry_valid), FIELD(fuse_entry_out, attr_valid),
         FIELD(fuse_entry_out, entry_valid_nsec), FIELD(fuse_entry_out, attr_valid_nsec),
         FIELD(fuse_entry_out, attr));
  STRUCT(fuse_forget_in, FIELD(fuse_forget_in, nlookup));
  STRUCT(fuse_forget_one, FIELD(fuse_forget_one, nodeid), FIELD(fuse_forget_one, nlookup));
  STRUCT(fuse_batch_forget_in, FIELD(fuse_batch_forget_in, count), FIELD(fuse_batch_forget_in, dummy));
  STRUCT(fuse_getattr_in, FIELD(fuse_getattr_in, getattr_flags), FIELD(fuse_getattr_in, dummy),
         FIELD(fuse_getattr_in, fh));
  STRUCT(fuse_attr_out, FIELD(fuse_attr_out, attr_valid), FIELD(fuse_attr_out, attr_valid_nsec),
         FIELD(fuse_attr_out, dummy), FIELD(fuse_attr_out, attr));
  STRUCT(fuse_statx_in, FIELD(fuse_statx_in, getattr_flags), FIELD(fuse_statx_in, reserved),
         FIELD(fuse_statx_in, fh), FIELD(fuse_statx_in, sx_flags), FIELD(fuse_statx_in, sx_mask));
  STRUCT(fuse_statx_out, FIELD(fuse_statx_out, attr_valid), FIELD(fuse_statx_out, attr_valid_nsec),
         FIELD(fuse_statx_out, flags), FIELD(fuse_statx_out, spare), FIELD(fuse_statx_out, stat));
  STRUCT(fuse_mknod_in, FIELD(fuse_mknod_in, mode), FIELD(fuse_mknod_in, rdev), FIELD(fuse_mknod_in, umask),
         FIELD(fuse_mknod_in, padding));
  STRUCT(fuse_mkdir_in, FIELD(fuse_mkdir_in, mode), FIELD(fuse_mkdir_in, umask));
  STRUCT(fuse_rename_in, FIELD(fuse_rename_in, newdir));
  STRUCT(fuse_rename2_in, FIELD(fuse_rename2_in, newdir), FIELD(fuse_rename2_in, flags),
         FIELD(fuse_rename2_in, padding));
  STRUCT(fuse_link_in, FIELD(fuse_link_in, oldnodeid));
  STRUCT(fuse_setattr_in, FIELD(fuse_setattr_in, valid), FIELD(fuse_setattr_in, padding),
         FIELD(fuse_setattr_in, fh), FIELD(fuse_setattr_in, size), FIELD(fuse_setattr_in, lock_owner),
         FIELD(fuse_setattr_in, atime), FIELD(fuse_setattr_in, mtime), FIELD(fuse_setattr_in, ctime),
         FIELD(fuse_setattr_in, atimensec), FIELD(fuse_setattr_in, mtimensec),
         FIELD(fuse_setattr_in, ctimensec), FIELD(fuse_setattr_in, mode), FIELD(fuse_setattr_in, unused4),
         FIELD(fuse_setattr_in, uid), FIELD(fuse_setattr_in, gid), FIELD(fuse_setattr_in, unused5));
  STRUCT(fuse_open_in, FIELD(fuse_open_in, flags), FIELD(fuse_open_in, open_flags));
  STRUCT(fuse_create_in, FIELD(fuse_create_in, flags), FIELD(fuse_create_in, mode),
         FIELD(fuse_create_in, umask), FIELD(fuse_create_in, open_flags));
  STRUCT(fuse_open_out, FIELD(fuse_open_out, fh), FIELD(fuse_open_out, open_flags),
         FIELD(fuse_open_out, backing_id));
  STRUCT(fuse_release_in, FIELD(fuse_release_in, fh), FIELD(fuse_release_in, flags),
         FIELD(fuse_release_in, release_flags), FIELD(fuse_release_in, lock_owner));
  STRUCT(fuse_flush_in, FIELD(fuse_flush_in, fh), FIELD(fuse_flush_in, unused),
         FIELD(fuse_flush_in, padding), FIELD(fuse_flush_in, lock_owner));
  STRUCT(fuse_read_in, FIELD(fuse_read_in, fh), FIELD(fuse_read_in, offset), FIELD(fuse_read_in, size),
         FIELD(fuse_read_in, read_flags), FIELD(fuse_read_in, lock_owner), FIELD(fuse_read_in, flags),
         FIELD(fuse_read_in, padding));
  STRUCT(fuse_write_in, FIELD(fuse_write_in, fh), FIELD(fuse_write_in, offset), FIELD(fuse_write_in, size),
         FIELD(fuse_write_in, write_flags), FIELD(fuse_write_in, lock_owner), FIELD(fuse_write_in, flags),
         FIELD(fuse_write_in, padding));
  STRUCT(fuse_write_out, FIELD(fuse_write_out, size), FIELD(fuse_write_out, padding));
  STRUCT(fuse_statfs_out, FIELD(fuse_statfs_out, st));
  STRUCT(fuse_fsync_in, FIELD(fuse_fsync_in, fh), FIELD(fuse_fsync_in, fsync_flags),
         FIELD(fuse_fsync_in, padding));
  STRUCT(fuse_setxattr_in, FIELD(fuse_setxattr_in, size), FIELD(fuse_setxattr_in, flags),
         FIELD(fuse_setxattr_in, setxattr_flags), FIELD(fuse_setxattr_in, padding));
  STRUCT(fuse_getxattr_in, FIELD(fuse_getxattr_in, size), FIELD(fuse_getxattr_in, padding));
  STRUCT(fuse_getxattr_out, FIELD(fuse_getxattr_out, size), FIELD(fuse_getxattr_out, padding));
  STRUCT(fuse_lk_in, FIELD(fuse_lk_in, fh), FIELD(fuse_lk_in, owner), FIELD(fuse_lk_in, lk),
         FIELD(fuse_lk_in, lk_flags), FIELD(fuse_lk_in, padding));
  STRUCT(fuse_lk_out, FIELD(fuse_lk_out, lk));
  STRUCT(fuse_access_in, FIELD(fuse_access_in, mask), FIELD(fuse_access_in, padding));
  STRUCT(fuse_init_in, FIELD(fuse_init_in, major), FIELD(fuse_init_in, minor),
         FIELD(fuse_init_in, max_readahead), FIELD(fuse_init_in, flags), FIELD(fuse_init_in, flags2),
         FIELD(fuse_init_in, unused));
  STRUCT(fuse_init_out, FIELD(fuse_init_out, major), FIELD(fuse_init_out, minor),
         FIELD(fuse_init_out, max_readahead), FIELD(fuse_init_out, flags),
         FIELD(fuse_init_out, max_background), FIELD(fuse_init_out, congestion_threshold),
         FIELD(fuse_init_out, max_write), FIELD(fuse_init_out, time_gran), FIELD(fuse_init_out, max_pages),
         FIELD(fuse_init_out, map_alignment), FIELD(fuse_init_out, flags2),
         FIELD(fuse_init_out, max_stack_depth), FIELD(fuse_init_out, request_timeout),
         FIELD(fuse_init_out, unused));
  STRUCT(fuse_interrupt_in, FIELD(fuse_interrupt_in, unique));
  STRUCT(fuse_bmap_in, FIELD(fuse_bmap_in, block), FIELD(fuse_bmap_in, blocksize),
         FIELD(fuse_bmap_in, padding));
  STRUCT(fuse_bmap_out, FIELD(fuse_bmap_out, block));
  STRUCT(fuse_ioctl_in, FIELD(fuse_ioctl_in, fh), FIELD(fuse_ioctl_in, flags), FIELD(fuse_ioctl_in, cmd),
         FIELD(fuse_ioctl_in, arg), FIELD(fuse_ioctl_in, in_size), FIELD(fuse_ioctl_in, out_size));
  STRUCT(fuse_ioctl_iovec, FIELD(fuse_ioctl_iovec, base), FIELD(fuse_ioctl_iovec, len));
  STRUCT(fuse_ioctl_out, FIELD(fuse_ioctl_out, result), FIELD(fuse_ioctl_out, flags),
         FIELD(fuse_ioctl_out, in_iovs), FIELD(fuse_ioctl_out, out_iovs));
  STRUCT(fuse_poll_in, FIELD(fuse_poll_in, fh), FIELD(fuse_poll_in, kh), FIELD(fuse_poll_in, flags),
         FIELD(fuse_poll_in, events));
  STRUCT(fuse_poll_out, FIELD(fuse_poll_out, revents), FIELD(fuse_poll_out, padding));
  STRUCT(fuse_notify_poll_wakeup_out, FIELD(fuse_notify_poll_wakeup_out, kh));
  STRUCT(fuse_fallocate_in, FIELD(fuse_fallocate_in, fh), FIELD(fuse_fallocate_in, offset),
         FIELD(fuse_fallocate_in, length), FIELD(fuse_fallocate_in, mode), FIELD(fuse_fallocate_in, padding));
  STRUCT(fuse_in_header, FIELD(fuse_in_header, len), FIELD(fuse_in_header, opcode),
         FIELD(fuse_in_header, unique), FIELD(fuse_in_header, nodeid), FIELD(fuse_in_header, uid),
         FIELD(fuse_in_header, gid), FIELD(fuse_in_header, pid), FIELD(fuse_in_header, total_extlen),
         FIELD(fuse_in_header, padding));
  STRUCT(fuse_out_header, FIELD(fuse_out_header, len), FIELD(fuse_out_header, error),
         FIELD(fuse_out_header, unique));
  STRUCT(fuse_dirent, FIELD(fuse_dirent, ino), FIELD(fuse_dirent, off), FIELD(fuse_dirent, namelen),
         FIELD(fuse_dirent, type));
  STRUCT(fuse_direntplus, FIELD(fuse_direntplus, entry_out), FIELD(fuse_direntplus, dirent));
  STRUCT(fuse_notify_inval_inode_out, FIELD(fuse_notify_inval_inode_out, ino),
         FIELD(fuse_notify_inval_inode_out, off), FIELD(fuse_notify_inval_inode_out, len));
  STRUCT(fuse_notify_inval_entry_out, FIELD(fuse_notify_inval_entry_out, parent),
         FIELD(fuse_notify_inval_entry_out, namelen), FIELD(fuse_notify_inval_entry_out, flags));
  STRUCT(fuse_notify_delete_out, FIELD(fuse_notify_delete_out, parent), FIELD(fuse_notify_delete_out, child),
         FIELD(fuse_notify_delete_out, namelen), FIELD(fuse_notify_delete_out, padding));
  STRUCT(fuse_notify_store_out, FIELD(fuse_notify_store_out, nodeid), FIELD(fuse_notify_store_out, offset),
         FIELD(fuse_notify_store_out, size), FIELD(fuse_notify_store_out, padding));
  STRUCT(fuse_notify_retrieve_out, FIELD(fuse_notify_retrieve_out, notify_unique),
         FIELD(fuse_notify_retrieve_out, nodeid), FIELD(fuse_notify_retrieve_out, offset),
         FIELD(fuse_notify_retrieve_out, size), FIELD(fuse_notify_retrieve_out, padding));
  STRUCT(fuse_notify_retrieve_in, FIELD(fuse_notify_retrieve_in, dummy1),
         FIELD(fuse_notify_retrieve_in, offset), FIELD(fuse_notify_retrieve_in, size),
         FIELD(fuse_notify_retrieve_in, dummy2), FIELD(fuse_notify_retrieve_in, dummy3),
         FIELD(fuse_notify_retrieve_in, dummy4));
  STRUCT(fuse_notify_prune_out, FIELD(fuse_notify_prune_out, count), FIELD(fuse_notify_prune_out, padding),
         FIELD(fuse_notify_prune_out, spare));
  STRUCT(fuse_backing_map, FIELD(fuse_backing_map, fd), FIELD(fuse_backing_map, flags),
         FIELD(fuse_backing_map, padding));
  STRUCT(fuse_lseek_in, FIELD(fuse_lseek_in, fh), FIELD(fuse_lseek_in, offset), FIELD(fuse_lseek_in, whence),
         FIELD(fuse_lseek_in, padding));
  STRUCT(fuse_lseek_out, FIELD(fuse_lseek_out, offset));
  STRUCT(fuse_copy_file_range_in, FIELD(fuse_copy_file_range_in, fh_in),
         FIELD(fuse_copy_file_range_in, off_in), FIELD(fuse_copy_file_range_in, nodeid_out),
         FIELD(fuse_copy_file_range_in, fh_out), FIELD(fuse_copy_file_range_in, off_out),
         FIELD(fuse_copy_file_range_in, len), FIELD(fuse_copy_file_range_in, flags));
  STRUCT(fuse_copy_file_range_out, FIELD(fuse_copy_file_range_out, bytes_copied));
  STRUCT(fuse_setupmapping_in, FIELD(fuse_setupmapping_in, fh), FIELD(fuse_setupmapping_in, foffset),
         FIELD(fuse_setupmapping_in, len), FIELD(fuse_setupmapping_in, flags),
         FIELD(fuse_setupmapping_in, moffset));
  STRUCT(fuse_removemapping_in, FIELD(fuse_removemapping_in, count));
  STRUCT(fuse_removemapping_one, FIELD(fuse_removemapping_one, moffset), FIELD(fuse_removemapping_one, len));
  STRUCT(fuse_syncfs_in, FIELD(fuse_syncfs_in, padding));
  STRUCT(fuse_secctx, FIELD(fuse_secctx, size), FIELD(fuse_secctx, padding));
  STRUCT(fuse_secctx_header, FIELD(fuse_secctx_header, size), FIELD(fuse_secctx_header, nr_secctx));
  STRUCT(fuse_ext_header, FIELD(fuse_ext_header, size), FIELD(fuse_ext_header, type));
  STRUCT(fuse_uring_ent_in_out, FIELD(fuse_uring_ent_in_out, flags), FIELD(fuse_uring_ent_in_out, commit_id),
         FIELD(fuse_uring_ent_in_out, payload_sz), FIELD(fuse_uring_ent_in_out, padding),
         FIELD(fuse_uring_ent_in_out, reserved));
  STRUCT(fuse_uring_req_header, FIELD(fuse_uring_req_header, in_out), FIELD(fuse_uring_req_header, op_in),
         FIELD(fuse_uring_req_header, ring_ent_in_out));
  STRUCT(fuse_uring_cmd_req, FIELD(fuse_uring_cmd_req, flags), FIELD(fuse_uring_cmd_req, commit_id),
         FIELD(fuse_uring_cmd_req, qid), FIELD(fuse_uring_cmd_req, padding));
  return out;
}

#define CONSTANT(name) {#name, static_cast<int64_t>(name)}

// constants(): what src/sys/constants.ts must agree with; only what the system's headers define.
napi_value constants(napi_env env, napi_callback_info) {
  static constexpr struct {
    const char* name;
    int64_t value;
  } kConstants[] = {
      CONSTANT(O_RDONLY), CONSTANT(O_WRONLY), CONSTANT(O_RDWR), CONSTANT(O_ACCMODE), CONSTANT(O_CREAT),
      CONSTANT(O_EXCL), CONSTANT(O_NOCTTY), CONSTANT(O_TRUNC), CONSTANT(O_APPEND), CONSTANT(O_NONBLOCK),
      CONSTANT(O_DSYNC), CONSTANT(O_ASYNC), CONSTANT(O_DIRECT), CONSTANT(O_DIRECTORY), CONSTANT(O_NOFOLLOW),
      CONSTANT(O_NOATIME), CONSTANT(O_CLOEXEC), CONSTANT(O_SYNC), CONSTANT(O_PATH), CONSTANT(O_TMPFILE),
      CONSTANT(AT_FDCWD), CONSTANT(AT_SYMLINK_NOFOLLOW), CONSTANT(AT_REMOVEDIR),
      CONSTANT(AT_SYMLINK_FOLLOW), CONSTANT(AT_NO_AUTOMOUNT), CONSTANT(AT_EMPTY_PATH),
      CONSTANT(AT_STATX_FORCE_SYNC), CONSTANT(AT_STATX_DONT_SYNC), CONSTANT(AT_RECURSIVE),
      CONSTANT(F_DUPFD_CLOEXEC), CONSTANT(F_GETFD), CONSTANT(F_SETFD), CONSTANT(F_GETFL), CONSTANT(F_SETFL),
      CONSTANT(FD_CLOEXEC), CONSTANT(F_SETPIPE_SZ), CONSTANT(S_IFMT), CONSTANT(S_IFSOCK), CONSTANT(S_IFLNK),
      CONSTANT(S_IFREG), CONSTANT(S_IFBLK), CONSTANT(S_IFDIR), CONSTANT(S_IFCHR), CONSTANT(S_IFIFO),
      CONSTANT(S_ISUID), CONSTANT(S_ISGID), CONSTANT(S_ISVTX), CONSTANT(S_IRWXU), CONSTANT(S_IXUSR),
      CONSTANT(S_IRWXG), CONSTANT(S_IXGRP), CONSTANT(S_IRWXO), CONSTANT(S_IXOTH), CONSTANT(UTIME_NOW),
      CONSTANT(UTIME_OMIT), CONSTANT(STATX_TYPE), CONSTANT(STATX_MODE), CONSTANT(STATX_NLINK),
      CONSTANT(STATX_UID), CONSTANT(STATX_GID), CONSTANT(STATX_ATIME), CONSTANT(STATX_MTIME),
      CONSTANT(STATX_CTIME), CONSTANT(STATX_INO), CONSTANT(STATX_SIZE), CONSTANT(STATX_BLOCKS),
      CONSTANT(STATX_BASIC_STATS), CONSTANT(STATX_BTIME), CONSTANT(STATX_ATTR_COMPRESSED),
      CONSTANT(STATX_ATTR_IMMUTABLE), CONSTANT(STATX_ATTR_APPEND), CONSTANT(STATX_ATTR_NODUMP),
      CONSTANT(STATX_ATTR_ENCRYPTED), CONSTANT(STATX_ATTR_AUTOMOUNT), CONSTANT(STATX_ATTR_MOUNT_ROOT),
      CONSTANT(STATX_ATTR_VERITY), CONSTANT(STATX_ATTR_DAX), CONSTANT(DT_UNKNOWN), CONSTANT(DT_FIFO),
      CONSTANT(DT_CHR), CONSTANT(DT_DIR), CONSTANT(DT_BLK), CONSTANT(DT_REG), CONSTANT(DT_LNK),
      CONSTANT(DT_SOCK), CONSTANT(DT_WHT), CONSTANT(RENAME_NOREPLACE), CONSTANT(RENAME_EXCHANGE),
      CONSTANT(RENAME_WHITEOUT), CONSTANT(FICLONE), CONSTANT(FICLONERANGE), CONSTANT(FS_IOC_GETFLAGS),
      CONSTANT(FS_IOC_SETFLAGS), CONSTANT(FS_IOC_GETVERSION), CONSTANT(FS_IOC_FSGETXATTR),
      CONSTANT(FS_IOC_FSSETXATTR), CONSTANT(FS_COMPR_FL), CONSTANT(FS_SYNC_FL), CONSTANT(FS_IMMUTABLE_FL),
      CONSTANT(FS_APPEND_FL), CONSTANT(FS_NODUMP_FL), CONSTANT(FS_NOATIME_FL), CONSTANT(FS_DIRSYNC_FL),
      CONSTANT(FS_NOCOW_FL), CONSTANT(FS_PROJINHERIT_FL), CONSTANT(FALLOC_FL_KEEP_SIZE),
      CONSTANT(FALLOC_FL_PUNCH_HOLE), CONSTANT(FALLOC_FL_NO_HIDE_STALE), CONSTANT(FALLOC_FL_COLLAPSE_RANGE),
      CONSTANT(FALLOC_FL_ZERO_RANGE), CONSTANT(FALLOC_FL_INSERT_RANGE), CONSTANT(FALLOC_FL_UNSHARE_RANGE),
      CONSTANT(SEEK_SET), CONSTANT(SEEK_CUR), CONSTANT(SEEK_END), CONSTANT(SEEK_DATA), CONSTANT(SEEK_HOLE),
      CONSTANT(LOCK_SH), CONSTANT(LOCK_EX), CONSTANT(LOCK_NB), CONSTANT(LOCK_UN), CONSTANT(XATTR_CREATE),
      CONSTANT(XATTR_REPLACE), CONSTANT(XATTR_NAME_MAX), CONSTANT(XATTR_SIZE_MAX), CONSTANT(XATTR_LIST_MAX),
      CONSTANT(NAME_MAX), CONSTANT(PATH_MAX), CONSTANT(MS_RDONLY), CONSTANT(MS_NOSUID), CONSTANT(MS_NODEV),
      CONSTANT(MS_NOEXEC), CONSTANT(MS_SYNCHRONOUS), CONSTANT(MS_REMOUNT), CONSTANT(MS_MANDLOCK),
      CONSTANT(MS_DIRSYNC), CONSTANT(MS_NOATIME), CONSTANT(MS_NODIRATIME), CONSTANT(MS_BIND),
      CONSTANT(MS_MOVE), CONSTANT(MS_REC), CONSTANT(MS_SILENT), CONSTANT(MS_POSIXACL),
      CONSTANT(MS_UNBINDABLE), CONSTANT(MS_PRIVATE), CONSTANT(MS_SLAVE), CONSTANT(MS_SHARED),
      CONSTANT(MS_RELATIME), CONSTANT(MS_I_VERSION), CONSTANT(MS_STRICTATIME), CONSTANT(MS_LAZYTIME),
      CONSTANT(CLONE_FS), CONSTANT(CLONE_FILES), CONSTANT(CLONE_NEWNS), CONSTANT(CLONE_NEWUSER),
      CONSTANT(CLONE_NEWPID), CONSTANT(CLONE_NEWNET), CONSTANT(CAP_CHOWN), CONSTANT(CAP_DAC_OVERRIDE),
      CONSTANT(CAP_DAC_READ_SEARCH), CONSTANT(CAP_FOWNER), CONSTANT(CAP_FSETID), CONSTANT(CAP_SYS_ADMIN),
      CONSTANT(CAP_SYS_RESOURCE), CONSTANT(CAP_MKNOD), CONSTANT(CAP_SETFCAP),
      {"EXT_SUPER_MAGIC", EXT4_SUPER_MAGIC}, CONSTANT(XFS_SUPER_MAGIC), CONSTANT(BTRFS_SUPER_MAGIC),
      CONSTANT(TMPFS_MAGIC), CONSTANT(OVERLAYFS_SUPER_MAGIC), CONSTANT(FUSE_SUPER_MAGIC),
      CONSTANT(NFS_SUPER_MAGIC), CONSTANT(F2FS_SUPER_MAGIC), CONSTANT(ECRYPTFS_SUPER_MAGIC),
      CONSTANT(PROC_SUPER_MAGIC),
  };
  napi_value out = nullptr;
  if (napi_create_object(env, &out) != napi_ok) return nullptr;
  for (const auto& constant : kConstants) {
    napi_set_named_property(env, out, constant.name, integer(env, constant.value));
  }
  return out;
}

}  // namespace

bool register_abi(napi_env env, napi_value exports, State* state) {
  return define(env, exports, state, "abi", abi_) && define(env, exports, state, "constants", constants);
}

}  // namespace lamina
