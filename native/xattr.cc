// Extended attributes, of an open file and of a name that is never followed.
//
// By name: the *xattrat family (Linux 6.13) where the kernel has it, else an O_PATH descriptor and its name in
// /proc. By descriptor: the f*xattr calls, which refuse O_PATH descriptors with EBADF; then /proc again.
#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "args.h"
#include "kernel.h"
#include "patience.h"
#include "register.h"

namespace lamina {
namespace {

// What an attribute belongs to: (dirfd, name), or the descriptor itself when the name is empty.
class Target {
 public:
  Target(const Features& features, int dirfd, const char* name)
      : direct_(features.xattrat && name[0] != '\0'), by_fd_(name[0] == '\0'), dirfd_(dirfd), name_(name),
        object_(!by_fd_ && !direct_ ? openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC) : -1) {
    // The object's errno is read before anything else can change it.
    if (!by_fd_ && !direct_ && !object_.ok()) error_ = errno;
  }

  ssize_t get(const char* attr, void* value, size_t size) const {
    if (direct_) {
      xattr_args args = {reinterpret_cast<uintptr_t>(value), static_cast<uint32_t>(size), 0};
      return syscall(kSysGetxattrat, dirfd_, name_, AT_SYMLINK_NOFOLLOW, attr, &args, sizeof args);
    }
    if (by_fd_) {
      const ssize_t rc = fgetxattr(dirfd_, attr, value, size);
      if (rc >= 0 || errno != EBADF) return rc;
    }
    return proc([&](const char* path) { return getxattr(path, attr, value, size); });
  }

  ssize_t list(char* names, size_t size) const {
    if (direct_) return syscall(kSysListxattrat, dirfd_, name_, AT_SYMLINK_NOFOLLOW, names, size);
    if (by_fd_) {
      const ssize_t rc = flistxattr(dirfd_, names, size);
      if (rc >= 0 || errno != EBADF) return rc;
    }
    return proc([&](const char* path) { return listxattr(path, names, size); });
  }

  ssize_t set(const char* attr, const void* value, size_t size, int flags) const {
    if (direct_) {
      xattr_args args = {reinterpret_cast<uintptr_t>(value), static_cast<uint32_t>(size),
                         static_cast<uint32_t>(flags)};
      return syscall(kSysSetxattrat, dirfd_, name_, AT_SYMLINK_NOFOLLOW, attr, &args, sizeof args);
    }
    if (by_fd_) {
      const ssize_t rc = fsetxattr(dirfd_, attr, value, size, flags);
      if (rc >= 0 || errno != EBADF) return rc;
    }
    return proc([&](const char* path) -> ssize_t { return setxattr(path, attr, value, size, flags); });
  }

  ssize_t remove(const char* attr) const {
    if (direct_) return syscall(kSysRemovexattrat, dirfd_, name_, AT_SYMLINK_NOFOLLOW, attr);
    if (by_fd_) {
      const ssize_t rc = fremovexattr(dirfd_, attr);
      if (rc >= 0 || errno != EBADF) return rc;
    }
    return proc([&](const char* path) -> ssize_t { return removexattr(path, attr); });
  }

 private:
  template <typename Call>
  ssize_t proc(Call call) const {
    if (error_ != 0) {
      errno = error_;
      return -1;
    }
    const int fd = by_fd_ ? dirfd_ : object_.get();
    const ssize_t rc = call(ProcFd(fd).c_str());
    // No such descriptor, rather than no such file.
    if (rc < 0 && errno == ENOENT && fcntl(fd, F_GETFD) < 0) errno = EBADF;
    return rc;
  }

  bool direct_;
  bool by_fd_;
  int dirfd_;
  const char* name_;
  ScopedFd object_;
  int error_ = 0;
};

constexpr size_t kInline = 4096;
constexpr size_t kSizeMax = 65536;  // XATTR_SIZE_MAX and XATTR_LIST_MAX, linux/limits.h

// Runs `read(buffer, size)` with a buffer that is large enough; `give(data, size)` makes the result.
template <typename Read, typename Give>
napi_value any_size(napi_env env, Read read, Give give) {
  char small[kInline];
  ssize_t length = read(small, sizeof small);
  if (length >= 0) return give(small, static_cast<size_t>(length));
  if (errno != ERANGE) return result(env, -1);
  const std::unique_ptr<char[]> large(new (std::nothrow) char[kSizeMax]);
  if (large == nullptr) return failure(env, ENOMEM);
  length = read(large.get(), kSizeMax);
  if (length < 0) return result(env, -1);
  return give(large.get(), static_cast<size_t>(length));
}

// `read(target, buffer, size)` on the filesystem's thread.
template <typename Read, typename Give>
napi_value any_size_remote(napi_env env, Remote* remote, const Features& features, int dirfd, const char* name, Read read,
                           Give give) {
  std::vector<char> found;
  const auto all = [features, dirfd, path = std::string(name), read](std::vector<char>* to) -> long {
    const Target target(features, dirfd, path.c_str());
    for (const size_t size : {kInline, kSizeMax}) {
      to->resize(size);
      const ssize_t length = read(target, to->data(), size);
      if (length >= 0 || errno != ERANGE) return length;
    }
    return -1;
  };
  const long length = remote->call(&found, all);
  return length < 0 ? result(env, -1) : give(found.data(), static_cast<size_t>(length));
}

napi_value getxattr_at(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name name(args, 1);
  const AttrName attr(args, 2);
  if (args.failed()) return args.reject();
  const auto give = [env](const char* data, size_t size) {
    napi_value out = nullptr;
    napi_create_buffer_copy(env, size, data, nullptr, &out);
    return out;
  };
  if (Remote* const remote = remote_of(dirfd); remote != nullptr) {
    const auto read = [name = std::string(attr.c_str())](const Target& target, char* buffer, size_t size) {
      return target.get(name.c_str(), buffer, size);
    };
    return any_size_remote(env, remote, args.state().features, dirfd, name.c_str(), read, give);
  }
  const Target target(args.state().features, dirfd, name.c_str());
  return any_size(
      env, [&](char* buffer, size_t size) { return target.get(attr.c_str(), buffer, size); }, give);
}

// listxattrAt(dirfd, name): the kernel's list, every name with its NUL, as one latin1 string; or -errno.
napi_value listxattr_at(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name name(args, 1);
  if (args.failed()) return args.reject();
  const auto give = [env](const char* data, size_t size) {
    napi_value out = nullptr;
    napi_create_string_latin1(env, data, size, &out);
    return out;
  };
  if (Remote* const remote = remote_of(dirfd); remote != nullptr) {
    const auto read = [](const Target& target, char* buffer, size_t size) { return target.list(buffer, size); };
    return any_size_remote(env, remote, args.state().features, dirfd, name.c_str(), read, give);
  }
  const Target target(args.state().features, dirfd, name.c_str());
  return any_size(
      env, [&](char* buffer, size_t size) { return target.list(buffer, size); }, give);
}

napi_value setxattr_at(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name name(args, 1);
  const AttrName attr(args, 2);
  const Bytes value = args.bytes(3);
  const int flags = args.i32(4);
  if (args.failed()) return args.reject();
  if (value.size > kSizeMax) return failure(env, E2BIG);
  if (!may_change(dirfd)) return result(env, -1);
  return result(env, Target(args.state().features, dirfd, name.c_str())
                         .set(attr.c_str(), value.data, value.size, flags));
}

napi_value removexattr_at(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name name(args, 1);
  const AttrName attr(args, 2);
  if (args.failed()) return args.reject();
  if (!may_change(dirfd)) return result(env, -1);
  return result(env, Target(args.state().features, dirfd, name.c_str()).remove(attr.c_str()));
}

// features(xattrat, fchmodat2): what the kernel has; with arguments, what is to be used from now on (for tests of the
// ways around a missing syscall). [xattrat, fchmodat2].
napi_value features(napi_env env, napi_callback_info info) {
  Args args(env, info);
  Features& own = args.state().features;
  if (!args.missing(0)) {
    const bool xattrat = args.boolean(0);
    const bool fchmodat2 = args.boolean(1);
    if (args.failed()) return args.reject();
    own.xattrat = xattrat;
    own.fchmodat2 = fchmodat2;
  }
  napi_value out = nullptr;
  napi_value value = nullptr;
  napi_create_array_with_length(env, 2, &out);
  napi_get_boolean(env, own.xattrat, &value);
  napi_set_element(env, out, 0, value);
  napi_get_boolean(env, own.fchmodat2, &value);
  napi_set_element(env, out, 1, value);
  return out;
}

}  // namespace

bool register_xattr(napi_env env, napi_value exports, State* state) {
  // A size below that of xattr_args is EINVAL where the syscall exists; ENOSYS, or a seccomp filter's EPERM,
  // where it does not.
  xattr_args args = {};
  state->features.xattrat =
      syscall(kSysGetxattrat, -1, "", 0, "user.x", &args, 1) < 0 && errno == EINVAL;
  return define(env, exports, state, "getxattrAt", getxattr_at) &&
         define(env, exports, state, "listxattrAt", listxattr_at) &&
         define(env, exports, state, "setxattrAt", setxattr_at) &&
         define(env, exports, state, "removexattrAt", removexattr_at) &&
         define(env, exports, state, "features", features);
}

}  // namespace lamina
