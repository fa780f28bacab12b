// Mounts and namespaces. Everything here acts on the calling thread's namespaces: Node's pool threads keep theirs.
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include "args.h"
#include "kernel.h"
#include "register.h"

namespace lamina {
namespace {

// A string argument that may be null.
template <size_t kLimit>
class Optional {
 public:
  Optional(Args& args, size_t i, int too_long) : given_(!args.missing(i)), text_(args, i, value(args, i), too_long) {}
  const char* c_str() const { return given_ ? text_.c_str() : nullptr; }

 private:
  static napi_value value(Args& args, size_t i) {
    if (!args.missing(i)) return args.raw(i);
    napi_value empty = nullptr;
    napi_create_string_latin1(args.env(), "", 0, &empty);
    return empty;
  }

  bool given_;
  ByteString<kLimit> text_;
};

// mount(source, target, fstype, flags, data); source, fstype and data may be null. The kernel takes one page of data.
napi_value mount_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Optional<PATH_MAX> source(args, 0, ENAMETOOLONG);
  const Name target(args, 1);
  const Optional<256> type(args, 2, ENODEV);
  const unsigned long flags = args.u32(3);
  const Optional<4096> data(args, 4, E2BIG);
  if (args.failed()) return args.reject();
  return result(env, mount(source.c_str(), target.c_str(), type.c_str(), flags, data.c_str()));
}

napi_value umount2_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Name target(args, 0);
  const int flags = args.i32(1);
  if (args.failed()) return args.reject();
  return result(env, umount2(target.c_str(), flags));
}

napi_value open_tree_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name path(args, 1);
  const uint32_t flags = args.u32(2);
  if (args.failed()) return args.reject();
  return result(env, syscall(kSysOpenTree, dirfd, path.c_str(), flags));
}

napi_value move_mount_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int from_fd = args.fd(0);
  const Name from(args, 1);
  const int to_fd = args.fd(2);
  const Name to(args, 3);
  const uint32_t flags = args.u32(4);
  if (args.failed()) return args.reject();
  return result(env, syscall(kSysMoveMount, from_fd, from.c_str(), to_fd, to.c_str(), flags));
}

// mountSetattr(dirfd, path, flags, attrSet, attrClr, propagation, usernsFd).
napi_value mount_setattr_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name path(args, 1);
  const uint32_t flags = args.u32(2);
  mount_attr attr = {};
  attr.attr_set = args.u32(3);
  attr.attr_clr = args.u32(4);
  attr.propagation = args.u32(5);
  const int userns = args.fd(6);
  if (args.failed()) return args.reject();
  attr.userns_fd = userns < 0 ? 0 : static_cast<uint64_t>(userns);
  return result(env, syscall(kSysMountSetattr, dirfd, path.c_str(), flags, &attr, sizeof attr));
}

napi_value fsopen_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const ByteString<256> type(args, 0, ENODEV);
  const uint32_t flags = args.u32(1);
  if (args.failed()) return args.reject();
  return result(env, syscall(kSysFsopen, type.c_str(), flags));
}

// fsconfig(fd, command, key, value: string | Buffer | null, aux).
napi_value fsconfig_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const uint32_t command = args.u32(1);
  const Optional<256> key(args, 2, EINVAL);
  const int aux = args.i32(4);
  bool binary = false;
  napi_is_buffer(env, args.raw(3), &binary);
  if (binary) {
    const Bytes value = args.bytes(3);
    if (!args.failed() && (aux < 0 || static_cast<size_t>(aux) > value.size)) {
      args.wrong(4, "at most the size of the buffer");
    }
    if (args.failed()) return args.reject();
    return result(env, syscall(kSysFsconfig, fd, command, key.c_str(), value.data, aux));
  }
  const Optional<PATH_MAX> value(args, 3, ENAMETOOLONG);
  if (args.failed()) return args.reject();
  return result(env, syscall(kSysFsconfig, fd, command, key.c_str(), value.c_str(), aux));
}

napi_value fsmount_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const uint32_t flags = args.u32(1);
  const uint32_t attributes = args.u32(2);
  if (args.failed()) return args.reject();
  return result(env, syscall(kSysFsmount, fd, flags, attributes));
}

napi_value unshare_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int flags = args.i32(0);
  if (args.failed()) return args.reject();
  return result(env, unshare(flags));
}

napi_value setns_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const int type = args.i32(1);
  if (args.failed()) return args.reject();
  return result(env, setns(fd, type));
}

napi_value pivot_root_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Name new_root(args, 0);
  const Name put_old(args, 1);
  if (args.failed()) return args.reject();
  return result(env, syscall(SYS_pivot_root, new_root.c_str(), put_old.c_str()));
}

napi_value fchdir_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  if (args.failed()) return args.reject();
  return result(env, fchdir(fd));
}

}  // namespace

bool register_mount(napi_env env, napi_value exports, State* state) {
  return define(env, exports, state, "mount", mount_) && define(env, exports, state, "umount2", umount2_) &&
         define(env, exports, state, "openTree", open_tree_) &&
         define(env, exports, state, "moveMount", move_mount_) &&
         define(env, exports, state, "mountSetattr", mount_setattr_) &&
         define(env, exports, state, "fsopen", fsopen_) && define(env, exports, state, "fsconfig", fsconfig_) &&
         define(env, exports, state, "fsmount", fsmount_) && define(env, exports, state, "unshare", unshare_) &&
         define(env, exports, state, "setns", setns_) &&
         define(env, exports, state, "pivotRoot", pivot_root_) &&
         define(env, exports, state, "fchdir", fchdir_);
}

}  // namespace lamina
