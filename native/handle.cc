// File handles (name_to_handle_at) and the identity of a filesystem: what overlayfs's origin and index are made of.
#include <fcntl.h>
#include <sys/ioctl.h>

#include <string>

#include "args.h"
#include "kernel.h"
#include "patience.h"
#include "register.h"

namespace lamina {
namespace {

// struct file_handle with room for the largest handle (MAX_HANDLE_SZ, linux/exportfs.h).
struct Handle {
  uint32_t handle_bytes;
  int32_t handle_type;
  unsigned char f_handle[MAX_HANDLE_SZ];
};
static_assert(sizeof(Handle) == 8 + 128);

// nameToHandle(dirfd, name, flags): [type, handle, mountId] or -errno.
napi_value name_to_handle(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name name(args, 1);
  int flags = args.i32(2);
  if (args.failed()) return args.reject();
  if (name.empty()) flags |= AT_EMPTY_PATH;
  struct Named {
    Handle handle = {};
    int mount_id = 0;
  } named;
  const auto ask = [dirfd, flags](const char* path, Named* to) {
    to->handle.handle_bytes = MAX_HANDLE_SZ;
    return syscall(SYS_name_to_handle_at, dirfd, path, &to->handle, &to->mount_id, flags);
  };
  Remote* const remote = remote_of(dirfd);
  const long rc = remote == nullptr ? ask(name.c_str(), &named)
                                    : remote->call(&named, [ask, path = std::string(name.c_str())](Named* to) {
                                        return ask(path.c_str(), to);
                                      });
  if (rc < 0) return result(env, -1);
  const auto& [handle, mount_id] = named;
  napi_value out = nullptr;
  napi_value bytes = nullptr;
  if (napi_create_array_with_length(env, 3, &out) != napi_ok ||
      napi_create_buffer_copy(env, handle.handle_bytes, handle.f_handle, nullptr, &bytes) != napi_ok) {
    return nullptr;
  }
  napi_set_element(env, out, 0, integer(env, handle.handle_type));
  napi_set_element(env, out, 1, bytes);
  napi_set_element(env, out, 2, integer(env, mount_id));
  return out;
}

// openByHandle(mountFd, type, handle, flags): descriptor or -errno.
napi_value open_by_handle(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int mount_fd = args.fd(0);
  const int type = args.i32(1);
  const Bytes bytes = args.bytes(2);
  const int flags = args.i32(3);
  if (args.failed()) return args.reject();
  if (bytes.size > MAX_HANDLE_SZ) return failure(env, EINVAL);
  Handle handle = {};
  handle.handle_bytes = static_cast<uint32_t>(bytes.size);
  handle.handle_type = type;
  for (size_t i = 0; i < bytes.size; i++) handle.f_handle[i] = bytes.data[i];
  const auto ask = [mount_fd, handle, flags]() mutable {
    long fd;
    do fd = syscall(SYS_open_by_handle_at, mount_fd, &handle, flags | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    return fd;
  };
  Remote* const remote = remote_of(mount_fd);
  if (remote != nullptr) return result(env, remote->open(ask));
  auto here = ask;
  return result(env, here());
}

// getFsUuid(fd): Buffer of 16 bytes, or -errno (ENOTTY before Linux 6.9, or a filesystem without one).
napi_value get_fs_uuid(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  if (args.failed()) return args.reject();
  fsuuid2 uuid = {};
  if (ioctl(fd, kFsIocGetFsUuid, &uuid) < 0) return result(env, -1);
  if (uuid.len != sizeof uuid.uuid) return failure(env, ENOTTY);
  napi_value out = nullptr;
  napi_create_buffer_copy(env, sizeof uuid.uuid, uuid.uuid, nullptr, &out);
  return out;
}

}  // namespace

bool register_handle(napi_env env, napi_value exports, State* state) {
  return define(env, exports, state, "nameToHandle", name_to_handle) &&
         define(env, exports, state, "openByHandle", open_by_handle) &&
         define(env, exports, state, "getFsUuid", get_fs_uuid);
}

}  // namespace lamina
