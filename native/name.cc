// Names: creating, linking, removing and renaming them, and reading symlinks.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <new>
#include <string>

#include "args.h"
#include "kernel.h"
#include "patience.h"
#include "register.h"

namespace lamina {
namespace {

napi_value mkdirat_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name name(args, 1);
  const mode_t mode = args.u32(2);
  if (args.failed()) return args.reject();
  if (!may_change(dirfd)) return result(env, -1);
  return result(env, mkdirat(dirfd, name.c_str(), mode & 07777));
}

// `rdev` is major * 2^20 + minor.
napi_value mknodat_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name name(args, 1);
  const mode_t mode = args.u32(2);
  const uint32_t rdev = args.u32(3);
  if (args.failed()) return args.reject();
  if (!may_change(dirfd)) return result(env, -1);
  return result(env, mknodat(dirfd, name.c_str(), mode, makedev(rdev >> 20, rdev & 0xfffff)));
}

napi_value symlinkat_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Name target(args, 0);
  const int dirfd = args.fd(1);
  const Name name(args, 2);
  if (args.failed()) return args.reject();
  if (!may_change(dirfd)) return result(env, -1);
  return result(env, symlinkat(target.c_str(), dirfd, name.c_str()));
}

napi_value linkat_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int from = args.fd(0);
  const Name old_name(args, 1);
  const int to = args.fd(2);
  const Name new_name(args, 3);
  const int flags = args.i32(4);
  if (args.failed()) return args.reject();
  if (!may_change(to)) return result(env, -1);
  return result(env, linkat(from, old_name.c_str(), to, new_name.c_str(), flags));
}

// linkFd(fd, dirfd, name): gives an open (perhaps unnamed, O_TMPFILE) file a name. AT_EMPTY_PATH needs
// CAP_DAC_READ_SEARCH and says ENOENT without it; /proc is the way that open(2) documents for everybody.
napi_value link_fd(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const int dirfd = args.fd(1);
  const Name name(args, 2);
  if (args.failed()) return args.reject();
  if (!may_change(dirfd)) return result(env, -1);
  int rc = linkat(fd, "", dirfd, name.c_str(), AT_EMPTY_PATH);
  if (rc < 0 && errno == ENOENT) {
    rc = linkat(AT_FDCWD, ProcFd(fd).c_str(), dirfd, name.c_str(), AT_SYMLINK_FOLLOW);
  }
  return result(env, rc);
}

napi_value unlinkat_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name name(args, 1);
  const int flags = args.i32(2);
  if (args.failed()) return args.reject();
  if (!may_change(dirfd)) return result(env, -1);
  return result(env, unlinkat(dirfd, name.c_str(), flags));
}

napi_value renameat2_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int from = args.fd(0);
  const Name old_name(args, 1);
  const int to = args.fd(2);
  const Name new_name(args, 3);
  const uint32_t flags = args.u32(4);
  if (args.failed()) return args.reject();
  if (!may_change(from) || !may_change(to)) return result(env, -1);
  return result(env, syscall(SYS_renameat2, from, old_name.c_str(), to, new_name.c_str(), flags));
}

napi_value latin1(napi_env env, const char* data, size_t size) {
  napi_value out = nullptr;
  napi_create_string_latin1(env, data, size, &out);
  return out;
}

napi_value readlink_remote(napi_env env, Remote* remote, int dirfd, const Name& name) {
  std::string target;
  const long length = remote->call(&target, [dirfd, path = std::string(name.c_str())](std::string* to) -> long {
    for (size_t size = PATH_MAX; size <= size_t{1} << 20; size *= 4) {
      to->resize(size);
      const ssize_t got = readlinkat(dirfd, path.c_str(), to->data(), size);
      if (got < 0) return -1;
      if (static_cast<size_t>(got) == size) continue;
      to->resize(static_cast<size_t>(got));
      return got;
    }
    errno = ENAMETOOLONG;
    return -1;
  });
  return length < 0 ? result(env, -1) : latin1(env, target.data(), target.size());
}

// readlinkat(dirfd, name): the target, or -errno.
napi_value readlinkat_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name name(args, 1);
  if (args.failed()) return args.reject();
  if (Remote* const remote = remote_of(dirfd); remote != nullptr) return readlink_remote(env, remote, dirfd, name);
  char buffer[PATH_MAX];
  const ssize_t length = readlinkat(dirfd, name.c_str(), buffer, sizeof buffer);
  if (length < 0) return result(env, -1);
  if (static_cast<size_t>(length) < sizeof buffer) return latin1(env, buffer, length);
  // PATH_MAX limits what symlink(2) takes, not what a filesystem (a magic link, a FUSE server) may give.
  for (size_t size = 4 * sizeof buffer; size <= size_t{1} << 20; size *= 4) {
    const std::unique_ptr<char[]> large(new (std::nothrow) char[size]);
    if (large == nullptr) return failure(env, ENOMEM);
    const ssize_t got = readlinkat(dirfd, name.c_str(), large.get(), size);
    if (got < 0) return result(env, -1);
    if (static_cast<size_t>(got) < size) return latin1(env, large.get(), got);
  }
  return failure(env, ENAMETOOLONG);
}

}  // namespace

bool register_name(napi_env env, napi_value exports, State* state) {
  return define(env, exports, state, "mkdirat", mkdirat_) && define(env, exports, state, "mknodat", mknodat_) &&
         define(env, exports, state, "symlinkat", symlinkat_) &&
         define(env, exports, state, "linkat", linkat_) && define(env, exports, state, "linkFd", link_fd) &&
         define(env, exports, state, "unlinkat", unlinkat_) &&
         define(env, exports, state, "renameat2", renameat2_) &&
         define(env, exports, state, "readlinkat", readlinkat_);
}

}  // namespace lamina
