// Memory shared with another process: a file (a memfd) seen as an ArrayBuffer.
#include <sys/mman.h>
#include <sys/stat.h>

#include <new>

#include "args.h"
#include "kernel.h"
#include "register.h"

namespace lamina {
namespace {

struct Mapping {
  void* data;
  size_t size;
};

// mapFile(fd, length): an ArrayBuffer over the file's first bytes, shared with everybody who maps it; or -errno. It is unmapped
// when it is collected. Pages behind the file's end would kill the process, so the file must be as long as that.
napi_value map_file(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const int64_t length = args.i64(1);
  if (!args.failed() && length <= 0) args.wrong(1, "a length");
  if (args.failed()) return args.reject();
  struct stat st;
  if (fstat(fd, &st) != 0) return result(env, -1);
  if (st.st_size < length) return failure(env, EINVAL);
  const auto size = static_cast<size_t>(length);
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return result(env, -1);
  auto* mapping = new (std::nothrow) Mapping{data, size};
  if (mapping == nullptr) {
    munmap(data, size);
    return failure(env, ENOMEM);
  }
  const auto drop = [](napi_env, void*, void* hint) {
    auto* gone = static_cast<Mapping*>(hint);
    munmap(gone->data, gone->size);
    delete gone;
  };
  napi_value buffer = nullptr;
  if (napi_create_external_arraybuffer(env, data, size, drop, mapping, &buffer) != napi_ok) {
    munmap(data, size);
    delete mapping;
    return failure(env, ENOMEM);
  }
  return buffer;
}

}  // namespace

bool register_map(napi_env env, napi_value exports, State* state) {
  return define(env, exports, state, "mapFile", map_file);
}

}  // namespace lamina
