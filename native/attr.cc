// Attributes: statx, owner, mode, times, size, and the filesystem's own (statfs).
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <string>

#include "args.h"
#include "kernel.h"
#include "patience.h"
#include "register.h"
#include "stamp.h"

namespace lamina {
namespace {

constexpr uint32_t kWanted = kStatxBasicStats | kStatxBtime | kStatxMntId;

// major * 2^20 + minor, the kernel's MKDEV.
double device(uint32_t major, uint32_t minor) { return static_cast<double>(major) * 1048576.0 + minor; }

void fill(double* out, const struct statx& st) {
  out[kMode] = st.stx_mode;
  out[kNlink] = st.stx_nlink;
  out[kUid] = st.stx_uid;
  out[kGid] = st.stx_gid;
  out[kSize] = static_cast<double>(st.stx_size);
  out[kBlocks] = static_cast<double>(st.stx_blocks);
  out[kBlksize] = st.stx_blksize;
  out[kDev] = device(st.stx_dev_major, st.stx_dev_minor);
  out[kRdev] = device(st.stx_rdev_major, st.stx_rdev_minor);
  out[kIno] = static_cast<double>(st.stx_ino);
  out[kInoHi] = static_cast<double>(st.stx_ino >> 32);
  out[kInoLo] = static_cast<double>(st.stx_ino & 0xffffffff);
  out[kAtime] = static_cast<double>(st.stx_atime.tv_sec);
  out[kAtimeNsec] = st.stx_atime.tv_nsec;
  out[kMtime] = static_cast<double>(st.stx_mtime.tv_sec);
  out[kMtimeNsec] = st.stx_mtime.tv_nsec;
  out[kCtime] = static_cast<double>(st.stx_ctime.tv_sec);
  out[kCtimeNsec] = st.stx_ctime.tv_nsec;
  out[kBtime] = static_cast<double>(st.stx_btime.tv_sec);
  out[kBtimeNsec] = st.stx_btime.tv_nsec;
  out[kAttributes] = static_cast<double>(st.stx_attributes & 0xffffffff);
  out[kMntId] = static_cast<double>(st.stx_mnt_id);
  out[kMask] = st.stx_mask;
  out[kStamp] = stamp_of(st);
}

// False: the kernel does not know the name by heart. An open file's attributes are in memory.
bool stat_cached(int dirfd, const char* name, uint32_t flags, struct statx* st, long* rc) {
  const uint64_t follow = (flags & AT_SYMLINK_NOFOLLOW) != 0 ? O_NOFOLLOW : 0;
  const ScopedFd object(static_cast<int>(open_cached(dirfd, name, O_PATH | follow, 0)));
  *rc = -1;
  if (!object.ok()) return errno == ENOENT;
  *rc = syscall(SYS_statx, object.get(), "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, kWanted, st);
  return true;
}

long stat_into(double* out, int dirfd, const char* name, uint32_t flags) {
  struct statx st;
  // As stat(2) since Linux 4.11, and unlike a bare statx: looking at an automount point does not mount it.
  flags |= AT_NO_AUTOMOUNT;
  if (name[0] == '\0') flags |= AT_EMPTY_PATH;
  const auto ask = [dirfd, flags](const char* path, struct statx* to) {
    return syscall(SYS_statx, dirfd, path, flags, kWanted, to);
  };
  Remote* const remote = remote_of(dirfd);
  long rc;
  if (remote == nullptr || (remote->on_disk() && name[0] == '\0')) {
    rc = ask(name, &st);
  } else if (!remote->on_disk() || !stat_cached(dirfd, name, flags, &st, &rc)) {
    rc = remote->call(&st, [ask, path = std::string(name)](struct statx* to) { return ask(path.c_str(), to); });
  }
  if (rc == 0) fill(out, st);
  return rc;
}

napi_value stat_at(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name name(args, 1);
  const uint32_t flags = args.u32(2);
  if (args.failed()) return args.reject();
  return result(env, stat_into(args.state().stat, dirfd, name.c_str(), flags));
}

napi_value stat_fd(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  if (args.failed()) return args.reject();
  return result(env, stat_into(args.state().stat, fd, "", AT_EMPTY_PATH));
}

// statMany(dirfd, names, flags, out: Float64Array of kStatStride slots per name): number of names.
// A name that fails has its errno in its kErrno slot.
napi_value stat_many(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const uint32_t flags = args.u32(2);
  if (args.failed()) return args.reject();
  uint32_t count = 0;
  if (napi_get_array_length(env, args.raw(1), &count) != napi_ok) {
    args.wrong(1, "an array of names");
    return args.reject();
  }
  napi_typedarray_type type = napi_int8_array;
  size_t length = 0;
  void* data = nullptr;
  bool is_typed = false;
  if (napi_is_typedarray(env, args.raw(3), &is_typed) != napi_ok || !is_typed ||
      napi_get_typedarray_info(env, args.raw(3), &type, &length, &data, nullptr, nullptr) != napi_ok ||
      type != napi_float64_array || length < static_cast<size_t>(count) * kStatStride) {
    args.wrong(3, "a Float64Array with room for every name");
    return args.reject();
  }
  double* out = static_cast<double*>(data);
  for (uint32_t at = 0; at < count; at++, out += kStatStride) {
    // A handle scope per name: otherwise 10,000 handles pile up until the callback returns.
    napi_handle_scope scope = nullptr;
    if (napi_open_handle_scope(env, &scope) != napi_ok) return nullptr;
    napi_value value = nullptr;
    if (napi_get_element(env, args.raw(1), at, &value) != napi_ok) args.wrong(1, "an array of names");
    const Name name(args, 1, value);
    if (!args.failed()) {
      out[kErrno] = stat_into(out, dirfd, name.c_str(), flags) < 0 ? errno : 0;
    }
    napi_close_handle_scope(env, scope);
    if (args.failed()) return args.reject();
  }
  return integer(env, count);
}

napi_value fchown_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const uid_t uid = args.u32(1);
  const gid_t gid = args.u32(2);
  if (args.failed()) return args.reject();
  if (!may_change(fd)) return result(env, -1);
  return result(env, fchown(fd, uid, gid));
}

napi_value fchownat_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name name(args, 1);
  const uid_t uid = args.u32(2);
  const gid_t gid = args.u32(3);
  if (args.failed()) return args.reject();
  if (!may_change(dirfd)) return result(env, -1);
  const int flags = AT_SYMLINK_NOFOLLOW | (name.empty() ? AT_EMPTY_PATH : 0);
  return result(env, fchownat(dirfd, name.c_str(), uid, gid, flags));
}

napi_value fchmod_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const mode_t mode = args.u32(1);
  if (args.failed()) return args.reject();
  if (!may_change(fd)) return result(env, -1);
  return result(env, fchmod(fd, mode & 07777));
}

// Never follows. fchmodat2 where the kernel has it; else an O_PATH descriptor and its name in /proc.
napi_value chmod_at(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name name(args, 1);
  const mode_t mode = args.u32(2) & 07777;
  if (args.failed()) return args.reject();
  if (!may_change(dirfd)) return result(env, -1);
  if (args.state().features.fchmodat2) {
    const int flags = AT_SYMLINK_NOFOLLOW | (name.empty() ? AT_EMPTY_PATH : 0);
    return result(env, syscall(kSysFchmodat2, dirfd, name.c_str(), mode, flags));
  }
  if (name.empty()) return result(env, chmod(ProcFd(dirfd).c_str(), mode));
  const ScopedFd object(openat(dirfd, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!object.ok()) return result(env, -1);
  struct stat st;
  if (fstat(object.get(), &st) != 0) return result(env, -1);
  // Older kernels change the mode of a symlink on some filesystems and then report an error all the same.
  if (S_ISLNK(st.st_mode)) return failure(env, EOPNOTSUPP);
  return result(env, chmod(ProcFd(object.get()).c_str(), mode));
}

// utimensAt(dirfd, name, atime, atimeNsec, mtime, mtimeNsec): never follows.
napi_value utimens_at(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name name(args, 1);
  struct timespec times[2];
  times[0].tv_sec = args.i64(2);
  times[0].tv_nsec = args.i64(3);
  times[1].tv_sec = args.i64(4);
  times[1].tv_nsec = args.i64(5);
  if (args.failed()) return args.reject();
  if (!may_change(dirfd)) return result(env, -1);
  if (!name.empty()) return result(env, utimensat(dirfd, name.c_str(), times, AT_SYMLINK_NOFOLLOW));
  int rc = utimensat(dirfd, "", times, AT_EMPTY_PATH);
  // AT_EMPTY_PATH is understood from Linux 5.8 on.
  if (rc < 0 && errno == EINVAL) rc = utimensat(AT_FDCWD, ProcFd(dirfd).c_str(), times, 0);
  return result(env, rc);
}

napi_value ftruncate_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const off_t size = args.i64(1);
  if (args.failed()) return args.reject();
  if (!may_change(fd)) return result(env, -1);
  int rc;
  do rc = ftruncate(fd, size);
  while (rc < 0 && errno == EINTR);
  return result(env, rc);
}

// fstatfs(fd): 0 and the fields in the shared array, in the order of StatFs in src/sys/attr.ts.
napi_value fstatfs_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  if (args.failed()) return args.reject();
  struct statfs st;
  const auto ask = [fd](struct statfs* to) -> long {
    int rc;
    do rc = fstatfs(fd, to);
    while (rc < 0 && errno == EINTR);
    return rc;
  };
  Remote* const remote = remote_of(fd);
  const long rc = remote == nullptr ? ask(&st) : remote->call(&st, ask);
  if (rc == 0) {
    double* out = args.state().stat;
    *out++ = static_cast<double>(static_cast<uint32_t>(st.f_type));
    *out++ = static_cast<double>(st.f_bsize);
    *out++ = static_cast<double>(st.f_frsize);
    *out++ = static_cast<double>(st.f_blocks);
    *out++ = static_cast<double>(st.f_bfree);
    *out++ = static_cast<double>(st.f_bavail);
    *out++ = static_cast<double>(st.f_files);
    *out++ = static_cast<double>(st.f_ffree);
    *out++ = static_cast<double>(st.f_namelen);
    *out++ = static_cast<double>(static_cast<uint32_t>(st.f_fsid.__val[0]));
    *out++ = static_cast<double>(static_cast<uint32_t>(st.f_fsid.__val[1]));
    *out++ = static_cast<double>(st.f_flags);
  }
  return result(env, rc);
}

}  // namespace

bool register_attr(napi_env env, napi_value exports, State* state) {
  // An unknown flag is EINVAL where the syscall exists; ENOSYS, or a seccomp filter's EPERM, where it does not.
  state->features.fchmodat2 = syscall(kSysFchmodat2, -1, "", 0, 0xffffffffu) < 0 && errno == EINVAL;

  napi_value memory = nullptr;
  napi_value view = nullptr;
  void* data = nullptr;
  napi_ref keep = nullptr;
  // The reference is never deleted: the memory lives as long as the environment.
  if (napi_create_arraybuffer(env, kStatStride * sizeof(double), &data, &memory) != napi_ok ||
      napi_create_reference(env, memory, 1, &keep) != napi_ok ||
      napi_create_typedarray(env, napi_float64_array, kStatStride, memory, 0, &view) != napi_ok ||
      napi_set_named_property(env, exports, "statBuffer", view) != napi_ok) {
    return false;
  }
  state->stat = static_cast<double*>(data);

  return define(env, exports, state, "statAt", stat_at) && define(env, exports, state, "statFd", stat_fd) &&
         define(env, exports, state, "statMany", stat_many) &&
         define(env, exports, state, "fchown", fchown_) &&
         define(env, exports, state, "fchownat", fchownat_) &&
         define(env, exports, state, "fchmod", fchmod_) && define(env, exports, state, "chmodAt", chmod_at) &&
         define(env, exports, state, "utimensAt", utimens_at) &&
         define(env, exports, state, "ftruncate", ftruncate_) &&
         define(env, exports, state, "fstatfs", fstatfs_);
}

}  // namespace lamina
