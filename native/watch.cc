// Directories watched by inotify: what changes in them is read in batches, from the loop.
//
// watchOpen(callback): a descriptor, or -errno; `callback` is called when there is something to read, as long as the environment lives.
// It keeps no loop alive.
#include <sys/inotify.h>
#include <unistd.h>
#include <uv.h>

#include <cerrno>
#include <cstring>
#include <new>

#include "args.h"
#include "kernel.h"
#include "register.h"

namespace lamina {
namespace {

// Changes of what is in a directory, and of itself.
constexpr uint32_t kMask = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF |
                           IN_MOVE_SELF | IN_ONLYDIR;
constexpr size_t kBatchBytes = 64 * 1024;

struct Watcher {
  napi_env env = nullptr;
  napi_ref callback = nullptr;
  napi_async_cleanup_hook_handle hook = nullptr;
  uv_poll_t poll{};
};

void closed(uv_handle_t* handle) {
  auto* watcher = static_cast<Watcher*>(handle->data);
  napi_remove_async_cleanup_hook(watcher->hook);
  delete watcher;
}

void environment_ends(napi_async_cleanup_hook_handle, void* data) {
  auto* watcher = static_cast<Watcher*>(data);
  napi_delete_reference(watcher->env, watcher->callback);
  uv_close(reinterpret_cast<uv_handle_t*>(&watcher->poll), closed);
}

void readable(uv_poll_t* poll, int, int) {
  auto* watcher = static_cast<Watcher*>(poll->data);
  napi_handle_scope scope = nullptr;
  napi_value callback = nullptr;
  napi_value receiver = nullptr;
  if (napi_open_handle_scope(watcher->env, &scope) != napi_ok) return;
  if (napi_get_reference_value(watcher->env, watcher->callback, &callback) == napi_ok &&
      napi_get_global(watcher->env, &receiver) == napi_ok) {
    // It does not throw; if it does, it is an uncaught exception like any other.
    napi_value error = nullptr;
    if (napi_make_callback(watcher->env, nullptr, receiver, callback, 0, nullptr, nullptr) == napi_pending_exception &&
        napi_get_and_clear_last_exception(watcher->env, &error) == napi_ok) {
      napi_fatal_exception(watcher->env, error);
    }
  }
  napi_close_handle_scope(watcher->env, scope);
}

napi_value watch_open(napi_env env, napi_callback_info info) {
  Args args(env, info);
  napi_valuetype type = napi_undefined;
  if (napi_typeof(env, args.raw(0), &type) != napi_ok || type != napi_function) args.wrong(0, "a function");
  if (args.failed()) return args.reject();
  uv_loop_t* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok) return failure(env, EINVAL);
  const int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (fd < 0) return result(env, -1);
  auto* watcher = new (std::nothrow) Watcher;
  if (watcher == nullptr || uv_poll_init(loop, &watcher->poll, fd) != 0) {
    delete watcher;
    close(fd);
    return failure(env, ENOMEM);
  }
  watcher->env = env;
  watcher->poll.data = watcher;
  if (napi_create_reference(env, args.raw(0), 1, &watcher->callback) != napi_ok ||
      napi_add_async_cleanup_hook(env, environment_ends, watcher, &watcher->hook) != napi_ok ||
      uv_poll_start(&watcher->poll, UV_READABLE, readable) != 0) {
    // Out of memory: the handle stays with the loop, idle.
    close(fd);
    return failure(env, ENOMEM);
  }
  uv_unref(reinterpret_cast<uv_handle_t*>(&watcher->poll));
  return integer(env, fd);
}

// watchAdd(fd, dirfd): the number of the watch on the directory behind `dirfd`, the same for the same directory; or -errno.
napi_value watch_add(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const int dirfd = args.fd(1);
  if (args.failed()) return args.reject();
  return result(env, inotify_add_watch(fd, ProcFd(dirfd).c_str(), kMask));
}

napi_value watch_remove(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const int watch = args.i32(1);
  if (args.failed()) return args.reject();
  return result(env, inotify_rm_watch(fd, watch));
}

// watchRead(fd): what has happened: of each event the watch (-1: events were lost), its mask, and a name or ''; undefined when there is nothing.
napi_value watch_read(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  if (args.failed()) return args.reject();
  alignas(struct inotify_event) char batch[kBatchBytes];
  const ssize_t size = read(fd, batch, sizeof batch);
  if (size <= 0) return nullptr;
  napi_value out = nullptr;
  if (napi_create_array(env, &out) != napi_ok) return nullptr;
  uint32_t count = 0;
  for (ssize_t at = 0; at < size;) {
    const auto* event = reinterpret_cast<const struct inotify_event*>(batch + at);
    at += static_cast<ssize_t>(sizeof *event + event->len);
    napi_value name = nullptr;
    const size_t length = event->len > 0 ? strnlen(event->name, event->len) : 0;
    if (napi_create_string_latin1(env, event->name, length, &name) != napi_ok) return nullptr;
    napi_set_element(env, out, count++, integer(env, event->wd));
    napi_set_element(env, out, count++, integer(env, event->mask));
    napi_set_element(env, out, count++, name);
  }
  return out;
}

}  // namespace

bool register_watch(napi_env env, napi_value exports, State* state) {
  return define(env, exports, state, "watchOpen", watch_open) && define(env, exports, state, "watchAdd", watch_add) &&
         define(env, exports, state, "watchRemove", watch_remove) && define(env, exports, state, "watchRead", watch_read);
}

}  // namespace lamina
