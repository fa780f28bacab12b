// Directory listings: one getdents64 a call, its names as one array, types and inode numbers in shared memory.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <new>

#include "args.h"
#include "kernel.h"
#include "patience.h"
#include "register.h"

namespace lamina {
namespace {

bool shared_array(napi_env env, napi_typedarray_type type, size_t length, size_t width, void** data,
                  napi_ref* ref) {
  napi_value memory = nullptr;
  napi_value view = nullptr;
  return napi_create_arraybuffer(env, length * width, data, &memory) == napi_ok &&
         napi_create_typedarray(env, type, length, memory, 0, &view) == napi_ok &&
         napi_create_reference(env, view, 1, ref) == napi_ok;
}

bool allocate(napi_env env, State& state) {
  if (state.dirent != nullptr) return true;
  void* types = nullptr;
  void* inos = nullptr;
  if (!shared_array(env, napi_uint8_array, kDirentMax, 1, &types, &state.dirent_types_ref) ||
      !shared_array(env, napi_float64_array, kDirentMax, sizeof(double), &inos, &state.dirent_inos_ref)) {
    return false;
  }
  state.dirent_types = static_cast<uint8_t*>(types);
  state.dirent_inos = static_cast<double*>(inos);
  state.dirent.reset(new (std::nothrow) char[kDirentBytes]);
  return state.dirent != nullptr;
}

// direntBuffers(): [types: Uint8Array, inos: Float64Array], what the last getdents filled.
napi_value dirent_buffers(napi_env env, napi_callback_info info) {
  Args args(env, info);
  napi_value out = nullptr;
  napi_value types = nullptr;
  napi_value inos = nullptr;
  if (!allocate(env, args.state()) ||
      napi_get_reference_value(env, args.state().dirent_types_ref, &types) != napi_ok ||
      napi_get_reference_value(env, args.state().dirent_inos_ref, &inos) != napi_ok ||
      napi_create_array_with_length(env, 2, &out) != napi_ok || napi_set_element(env, out, 0, types) != napi_ok ||
      napi_set_element(env, out, 1, inos) != napi_ok) {
    napi_throw_error(env, nullptr, "out of memory");
    return nullptr;
  }
  return out;
}

// As much as there is room for, and whether that was all: a directory of usual size is one change of thread.
struct Batch {
  std::unique_ptr<char[]> entries;
  bool last = false;
};

// Several hundred entries; memory that the allocator has at hand.
constexpr size_t kBatchBytes = 32 * 1024;
static_assert(kBatchBytes <= kDirentBytes);

long read_batch(int fd, Batch* to) {
  to->entries.reset(new (std::nothrow) char[kBatchBytes]);
  if (to->entries == nullptr) {
    errno = ENOMEM;
    return -1;
  }
  size_t filled = 0;
  while (filled + kDirentLargest <= kBatchBytes) {
    const long bytes = syscall(SYS_getdents64, fd, to->entries.get() + filled, kBatchBytes - filled);
    // What was read before comes first; the error comes again.
    if (bytes < 0) return filled > 0 ? static_cast<long>(filled) : -1;
    if (bytes == 0) {
      to->last = true;
      break;
    }
    filled += static_cast<size_t>(bytes);
  }
  return static_cast<long>(filled);
}

long read_entries(int fd, char* to) {
  Remote* const remote = remote_of(fd);
  if (remote == nullptr) return syscall(SYS_getdents64, fd, to, kDirentBytes);
  if (remote->was_read_to_end(fd)) return 0;
  Batch batch;
  const long bytes = remote->call(&batch, [fd](Batch* all) { return read_batch(fd, all); });
  if (bytes <= 0) return bytes;
  memcpy(to, batch.entries.get(), static_cast<size_t>(bytes));
  if (batch.last) remote->read_to_end(fd);
  return bytes;
}

// getdents(fd): the names of one batch without "." and "..", undefined at the end, or -errno.
napi_value getdents_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  if (args.failed()) return args.reject();
  State& state = args.state();
  if (!allocate(env, state)) return failure(env, ENOMEM);
  for (;;) {
    const long bytes = read_entries(fd, state.dirent.get());
    if (bytes < 0) return result(env, -1);
    if (bytes == 0) return nullptr;  // undefined
    napi_value names = nullptr;
    if (napi_create_array(env, &names) != napi_ok) return nullptr;
    uint32_t count = 0;
    for (long at = 0; at < bytes;) {
      const char* record = state.dirent.get() + at;
      // The buffer is aligned by operator new and every d_reclen is a multiple of 8.
      const auto* entry = reinterpret_cast<const linux_dirent64*>(record);
      at += entry->d_reclen;
      const char* name = entry->d_name;
      if (name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'))) continue;
      napi_value text = nullptr;
      if (napi_create_string_latin1(env, name, strlen(name), &text) != napi_ok ||
          napi_set_element(env, names, count, text) != napi_ok) {
        return nullptr;
      }
      state.dirent_types[count] = entry->d_type;
      state.dirent_inos[count] = static_cast<double>(entry->d_ino);
      count++;
    }
    // A batch that held nothing but "." and ".." is not the end.
    if (count > 0) return names;
  }
}

// hasPrefix(dirfd, prefix, most): whether an entry of the directory begins with it. 0 no, 1 yes, 2 not known: it has more than `most`
// entries, cannot be read, or its filesystem may fall silent.
napi_value has_prefix(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  const Name prefix(args, 1);
  uint32_t left = args.u32(2);
  if (args.failed()) return args.reject();
  if (remote_of(dirfd) != nullptr) return integer(env, 2);
  const ScopedFd dir(openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir.ok()) return integer(env, 2);
  alignas(8) char records[16 * 1024];
  const size_t length = strlen(prefix.c_str());
  for (;;) {
    const long bytes = syscall(SYS_getdents64, dir.get(), records, sizeof records);
    if (bytes < 0) return integer(env, 2);
    if (bytes == 0) return integer(env, 0);
    for (long at = 0; at < bytes; left--) {
      const auto* entry = reinterpret_cast<const linux_dirent64*>(records + at);
      if (strncmp(entry->d_name, prefix.c_str(), length) == 0) return integer(env, 1);
      if (left == 0) return integer(env, 2);
      at += entry->d_reclen;
    }
  }
}

}  // namespace

bool register_dir(napi_env env, napi_value exports, State* state) {
  return define(env, exports, state, "getdents", getdents_) && define(env, exports, state, "hasPrefix", has_prefix) &&
         define(env, exports, state, "direntBuffers", dirent_buffers);
}

}  // namespace lamina
