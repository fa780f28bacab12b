// Open files: open, close, read, write, seek, lock.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "args.h"
#include "kernel.h"
#include "patience.h"
#include "register.h"

namespace lamina {
namespace {

constexpr uint32_t kUnnamed = O_TMPFILE & ~O_DIRECTORY;

// `ask(path)`, on the filesystem's thread where it may have to wait. What creates or cuts is a change, and made on the spot.
template <typename Ask>
long open_on(Remote* remote, int dirfd, const Name& path, uint32_t flags, uint32_t resolve, Ask ask) {
  if (remote == nullptr) return ask(path.c_str());
  if ((flags & (O_CREAT | O_TRUNC | kUnnamed)) != 0) {
    if (!may_change(dirfd)) return -1;
    const long fd = ask(path.c_str());
    if (fd >= 0) remote->cover(static_cast<int>(fd));
    return fd;
  }
  if (remote->on_disk()) {
    const long fd = open_cached(dirfd, path.c_str(), flags, resolve);
    if (fd >= 0) remote->cover(static_cast<int>(fd));
    if (fd >= 0 || errno == ENOENT) return fd;
  }
  return remote->open([ask, name = std::string(path.c_str())] { return ask(name.c_str()); });
}

napi_value openat_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name path(args, 1);
  const int flags = args.i32(2);
  const mode_t mode = args.u32(3);
  if (args.failed()) return args.reject();
  const auto ask = [dirfd, flags, mode](const char* name) -> long {
    int fd;
    do fd = openat(dirfd, name, flags | O_CLOEXEC, mode & 07777);
    while (fd < 0 && errno == EINTR);
    return fd;
  };
  return result(env, open_on(remote_of(dirfd), dirfd, path, static_cast<uint32_t>(flags), 0, ask));
}

napi_value openat2_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name path(args, 1);
  const uint32_t flags = args.u32(2);
  const uint32_t mode = args.u32(3);
  const uint32_t resolve = args.u32(4);
  if (args.failed()) return args.reject();
  open_how how = {};
  how.flags = flags | O_CLOEXEC;
  // openat2 refuses a mode that is not used, and bits that are no permission bits.
  how.mode = (flags & (O_CREAT | kUnnamed)) != 0 ? mode & 07777 : 0;
  how.resolve = resolve;
  // EAGAIN: "the kernel could not ensure that a ".." component did not escape" because of a rename or mount
  // elsewhere on the system (openat2(2)); trying again is the caller's duty. A lease or RESOLVE_CACHED is another
  // matter.
  const bool retry = (resolve & kResolveCached) == 0 && (flags & O_NONBLOCK) == 0;
  const auto ask = [dirfd, how, retry](const char* name) {
    long fd;
    int tries = 0;
    do fd = syscall(kSysOpenat2, dirfd, name, &how, sizeof how);
    while (fd < 0 && (errno == EINTR || (errno == EAGAIN && retry && ++tries < 64)));
    return fd;
  };
  return result(env, open_on(remote_of(dirfd), dirfd, path, flags, resolve, ask));
}

// reopen(fd, flags): the file behind `fd`, which may have no name, once more.
napi_value reopen_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const int flags = args.i32(1);
  if (args.failed()) return args.reject();
  int copy;
  do copy = open(ProcFd(fd).c_str(), flags | O_CLOEXEC);
  while (copy < 0 && errno == EINTR);
  // Its inode is in memory: a disk need not be waited for.
  if (Remote* const remote = remote_of(fd); remote != nullptr && copy >= 0) remote->cover(copy);
  return result(env, copy);
}

// Never retried: Linux frees the descriptor even when close reports EINTR.
napi_value close_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  if (args.failed()) return args.reject();
  return result(env, close_fd(fd));
}

napi_value dup_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  if (args.failed()) return args.reject();
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (Remote* const remote = remote_of(fd); remote != nullptr && copy >= 0) remote->cover(copy);
  return result(env, copy);
}

napi_value fsync_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  if (args.failed()) return args.reject();
  int rc;
  do rc = fsync(fd);
  while (rc < 0 && errno == EINTR);
  return result(env, rc);
}

napi_value lseek_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const off_t offset = args.i64(1);
  const int whence = args.i32(2);
  if (args.failed()) return args.reject();
  Remote* const remote = remote_of(fd);
  if (remote == nullptr) return result(env, lseek(fd, offset, whence));
  // Of a file, SEEK_DATA and SEEK_HOLE ask the server.
  int none = 0;
  return result(env, remote->call(&none, [=](int*) -> long { return lseek(fd, offset, whence); }));
}

// The part of a buffer that (offset, length) name, checked against its size.
Bytes range(Args& args, size_t buffer, size_t offset, size_t length) {
  Bytes all = args.bytes(buffer);
  const int64_t from = args.i64(offset);
  const int64_t count = args.i64(length);
  if (args.failed()) return Bytes{};
  if (from < 0 || count < 0 || static_cast<uint64_t>(from) > all.size ||
      static_cast<uint64_t>(count) > all.size - static_cast<uint64_t>(from)) {
    args.wrong(length, "within the buffer, together with its offset");
    return Bytes{};
  }
  return Bytes{all.data + from, static_cast<size_t>(count)};
}

// pread(fd, buffer, offset, length, position); position -1 is read(2) at the descriptor's own.
napi_value pread_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const Bytes to = range(args, 1, 2, 3);
  const off_t position = args.i64(4);
  if (args.failed()) return args.reject();
  ssize_t rc;
  do rc = position == -1 ? read(fd, to.data, to.size) : pread(fd, to.data, to.size, position);
  while (rc < 0 && errno == EINTR);
  return result(env, rc);
}

napi_value pwrite_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const Bytes from = range(args, 1, 2, 3);
  const off_t position = args.i64(4);
  if (args.failed()) return args.reject();
  if (!may_change(fd)) return result(env, -1);
  ssize_t rc;
  do rc = position == -1 ? write(fd, from.data, from.size) : pwrite(fd, from.data, from.size, position);
  while (rc < 0 && errno == EINTR);
  return result(env, rc);
}

napi_value fallocate_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const int mode = args.i32(1);
  const off_t offset = args.i64(2);
  const off_t length = args.i64(3);
  if (args.failed()) return args.reject();
  if (!may_change(fd)) return result(env, -1);
  int rc;
  do rc = fallocate(fd, mode, offset, length);
  while (rc < 0 && errno == EINTR);
  return result(env, rc);
}

napi_value flock_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const int operation = args.i32(1);
  if (args.failed()) return args.reject();
  int rc;
  do rc = flock(fd, operation);
  while (rc < 0 && errno == EINTR);
  return result(env, rc);
}

// fcntl with an integer argument: F_GETFL, F_SETFL, F_GETFD, F_SETFD, F_SETPIPE_SZ. Others take pointers.
napi_value fcntl_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const int command = args.i32(1);
  const int value = args.i32(2);
  if (args.failed()) return args.reject();
  switch (command) {
    case F_GETFD:
    case F_SETFD:
    case F_GETFL:
    case F_SETFL:
    case F_SETPIPE_SZ:
    case F_GETPIPE_SZ:
    case F_ADD_SEALS:
    case F_GET_SEALS:
      return result(env, fcntl(fd, command, value));
    default:
      return failure(env, EINVAL);
  }
}

// ioctl(fd, request, argument: Buffer | number).
napi_value ioctl_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const unsigned long request = args.u32(1);
  if (args.failed()) return args.reject();
  // Some change something.
  if (!may_change(fd)) return result(env, -1);
  napi_valuetype type = napi_undefined;
  napi_typeof(env, args.raw(2), &type);
  int rc;
  if (type == napi_number) {
    const long value = args.i64(2);
    if (args.failed()) return args.reject();
    do rc = ioctl(fd, request, value);
    while (rc < 0 && errno == EINTR);
    return result(env, rc);
  }
  const Bytes memory = args.bytes(2);
  // The request says how many bytes the kernel may touch.
  if (!args.failed() && _IOC_SIZE(request) > memory.size) args.wrong(2, "a Buffer as large as the request says");
  if (args.failed()) return args.reject();
  if (Remote* const remote = remote_of(fd); remote != nullptr && !remote->upper()) {
    std::string room(reinterpret_cast<const char*>(memory.data), memory.size);
    const long answer = remote->call(&room, [fd, request, given = room](std::string* to) -> long {
      *to = given;
      return ioctl(fd, request, to->data());
    });
    if (answer >= 0) memcpy(memory.data, room.data(), memory.size);
    return result(env, answer);
  }
  do rc = ioctl(fd, request, memory.data);
  while (rc < 0 && errno == EINTR);
  return result(env, rc);
}

}  // namespace

bool register_file(napi_env env, napi_value exports, State* state) {
  return define(env, exports, state, "openat", openat_) && define(env, exports, state, "openat2", openat2_) &&
         define(env, exports, state, "close", close_) && define(env, exports, state, "dup", dup_) &&
         define(env, exports, state, "reopen", reopen_) &&
         define(env, exports, state, "fsync", fsync_) && define(env, exports, state, "lseek", lseek_) &&
         define(env, exports, state, "pread", pread_) && define(env, exports, state, "pwrite", pwrite_) &&
         define(env, exports, state, "fallocate", fallocate_) &&
         define(env, exports, state, "flock", flock_) && define(env, exports, state, "fcntl", fcntl_) &&
         define(env, exports, state, "ioctl", ioctl_);
}

}  // namespace lamina
