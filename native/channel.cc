// The life of a channel, and its part of the loop. What it is: channel.h.
#include "channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "fuse-abi.h"

namespace lamina {
namespace {

// One wakeup serves at most so much before timers and other descriptors have their turn.
constexpr int kBudgetRequests = 256;
constexpr uint64_t kBudgetNs = 4'000'000;
// Nothing has come for so long: JavaScript is left, so that what it has queued is run.
constexpr uint64_t kIdleNs = 10'000;
static_assert(Answers::kBatchBytes <= abi::FUSE_MIN_READ_BUFFER);

// Whether what was forgotten may be told to JavaScript after a request with this opcode. Not where that needs room, which an object
// that is gone and forgotten still takes.
bool goes_before_forgets(uint32_t opcode) {
  return opcode == abi::FUSE_LOOKUP || opcode == abi::FUSE_GETATTR || opcode == abi::FUSE_GETXATTR ||
         opcode == abi::FUSE_UNLINK || opcode == abi::FUSE_RMDIR || opcode == abi::FUSE_READ ||
         opcode == abi::FUSE_READDIR || opcode == abi::FUSE_READDIRPLUS;
}

}  // namespace

Channel::~Channel() {
  auto& live = channels_->live;
  live.erase(std::remove(live.begin(), live.end(), this), live.end());
}

// 0, or -errno: nothing was started then.
int Channel::begin() {
  uv_loop_t* loop = nullptr;
  napi_value name = nullptr;
  napi_value object = nullptr;
  if (napi_get_uv_event_loop(env_, &loop) != napi_ok ||
      napi_get_reference_value(env_, this_ref_, &object) != napi_ok ||
      napi_create_string_utf8(env_, "lamina:fuse", NAPI_AUTO_LENGTH, &name) != napi_ok) {
    return -EINVAL;
  }
  const int flags = fcntl(device_->fd(), F_GETFL);
  if (flags < 0 || fcntl(device_->fd(), F_SETFL, flags | O_NONBLOCK) < 0) return -errno;
  int rc = uv_async_init(loop, &async_, on_wake);
  if (rc != 0) return rc;
  open_handles_++;
  async_.data = this;
  uv_unref(reinterpret_cast<uv_handle_t*>(&async_));
  started_ = true;
  rc = uv_poll_init(loop, &poll_, device_->fd());
  if (rc == 0) {
    open_handles_++;
    polling_ = true;
    poll_.data = this;
    rc = uv_poll_start(&poll_, UV_READABLE, on_readable);
  }
  uint32_t references = 0;
  if (rc == 0 && (napi_async_init(env_, object, name, &context_) != napi_ok ||
                  napi_add_async_cleanup_hook(env_, on_environment_end, this, &hook_) != napi_ok ||
                  napi_reference_ref(env_, this_ref_, &references) != napi_ok)) {
    rc = -ENOMEM;
  }
  if (rc != 0) shut();
  return rc;
}

// Closes everything, once. Threads that still work on something are not waited for: on_wake() joins them.
void Channel::shut() {
  if (closed_) return;
  closed_ = true;
  plane_->stop();
  notifier_->stop();
  name_notifier_->stop();
  device_.reset();
  block_.reset();
  if (polling_) uv_close(reinterpret_cast<uv_handle_t*>(&poll_), on_handle_closed);
  if (on_frame_ != nullptr) napi_delete_reference(env_, on_frame_);
  if (on_end_ != nullptr) napi_delete_reference(env_, on_end_);
  if (on_notified_ != nullptr) napi_delete_reference(env_, on_notified_);
  if (kept_memory_ != nullptr) napi_delete_reference(env_, kept_memory_);
  on_frame_ = on_end_ = on_notified_ = kept_memory_ = nullptr;
  uint32_t references = 0;
  // The finalizer deletes the channel, so from here on the object may be collected.
  if (started_ && !collected_) napi_reference_unref(env_, this_ref_, &references);
  close_async_when_drained();
}

void Channel::close_async_when_drained() {
  if (!closed_ || async_closing_ || !plane_->drained() || !notifier_->drained() || !name_notifier_->drained()) return;
  plane_->join();
  notifier_->join();
  name_notifier_->join();
  if (!started_) return;
  async_closing_ = true;
  uv_close(reinterpret_cast<uv_handle_t*>(&async_), on_handle_closed);
}

void Channel::on_handle_closed(uv_handle_t* handle) {
  auto* channel = static_cast<Channel*>(handle->data);
  channel->open_handles_--;
  channel->release_when_done();
}

void Channel::release_when_done() {
  if (open_handles_ > 0) return;
  // Not in shut(): JavaScript may call close() from within a callback scope of this context.
  if (context_ != nullptr) napi_async_destroy(env_, context_);
  context_ = nullptr;
  if (hook_ != nullptr) {
    napi_remove_async_cleanup_hook(hook_);
    hook_ = nullptr;
  }
  if (collected_) delete this;
}

void Channel::on_collected(napi_env env, void* self, void*) {
  auto* channel = static_cast<Channel*>(self);
  channel->collected_ = true;
  if (channel->this_ref_ != nullptr) napi_delete_reference(env, channel->this_ref_);
  channel->this_ref_ = nullptr;
  channel->shut();
  channel->release_when_done();
}

// The environment goes away, perhaps with requests open. Threads are waited for: their code may be unloaded next.
void Channel::on_environment_end(napi_async_cleanup_hook_handle, void* self) {
  auto* channel = static_cast<Channel*>(self);
  channel->shut();
  channel->plane_->join();
  channel->notifier_->join();
  channel->name_notifier_->join();
  channel->close_async_when_drained();
}

// ---- the loop

void Channel::wake(void* self) { uv_async_send(&static_cast<Channel*>(self)->async_); }

void Channel::on_wake(uv_async_t* async) {
  auto* channel = static_cast<Channel*>(async->data);
  if (channel->closed_) {
    channel->close_async_when_drained();
  } else if (!channel->ended_) {
    if (channel->paused_) channel->resume();
    channel->deliver_changed();
    channel->tell_notified();
  }
}

// READs that are JavaScript's after all.
void Channel::deliver_changed() {
  Entered entered;
  for (const auto& frame : plane_->changed()) {
    if (closed_ || !enter(&entered)) break;
    put_input(frame.data(), frame.size());
    deliver(&entered, nullptr, frame.size());
  }
  leave(&entered);
}

// What the kernel has taken of notifications.
void Channel::tell_notified() {
  const uint64_t number = notified_->load(std::memory_order_acquire);
  if (closed_ || on_notified_ == nullptr || number == told_notified_) return;
  told_notified_ = number;
  // Who waited for it goes on now, and must not be taken for somebody who began before.
  pollfd device = {device_->fd(), POLLIN, 0};
  if (poll(&device, 1, 0) == 0) plane_->told(number);
  Entered entered;
  napi_value on_notified = nullptr;
  if (enter(&entered) && napi_get_reference_value(env_, on_notified_, &on_notified) == napi_ok) {
    call(on_notified, entered.receiver, static_cast<double>(number));
  }
  leave(&entered);
}

void Channel::pause() {
  paused_ = true;
  uv_poll_stop(&poll_);
}

void Channel::resume() {
  paused_ = false;
  uv_poll_start(&poll_, UV_READABLE, on_readable);
}

void Channel::on_readable(uv_poll_t* poll, int status, int) {
  auto* channel = static_cast<Channel*>(poll->data);
  channel->wakeups_++;
  // status is EBADF where the device went away under epoll; reading says what happened.
  (void)status;
  channel->drain();
}

bool Channel::enter(Entered* entered) {
  if (entered->handles != nullptr) return entered->on_frame != nullptr;
  if (napi_open_handle_scope(env_, &entered->handles) != napi_ok) return false;
  return napi_get_reference_value(env_, this_ref_, &entered->receiver) == napi_ok &&
         entered->receiver != nullptr &&
         napi_open_callback_scope(env_, entered->receiver, context_, &entered->callbacks) == napi_ok &&
         napi_get_reference_value(env_, on_frame_, &entered->on_frame) == napi_ok;
}

// Runs the microtasks and ticks that the calls have queued.
void Channel::leave(Entered* entered) {
  if (entered->callbacks != nullptr) napi_close_callback_scope(env_, entered->callbacks);
  if (entered->handles != nullptr) napi_close_handle_scope(env_, entered->handles);
  *entered = Entered{};
}

void Channel::call(napi_value function, napi_value receiver, double argument) {
  napi_value value = nullptr;
  if (napi_create_double(env_, argument, &value) != napi_ok) return;
  if (napi_call_function(env_, receiver, function, 1, &value, nullptr) != napi_pending_exception) return;
  // onFrame and onEnd do not throw; if one does, it is an uncaught exception like any other.
  napi_value error = nullptr;
  if (napi_get_and_clear_last_exception(env_, &error) == napi_ok) napi_fatal_exception(env_, error);
}

void Channel::drain() {
  Entered entered;
  const uint64_t begin = uv_hrtime();
  uint64_t idle = 0;  // since when nothing has come
  for (int served = 0; served < kBudgetRequests && !closed_; served++) {
    if (!plane_->room()) {
      pause();
      break;
    }
    if (!kept_ && block_ == nullptr && (block_ = plane_->blocks().take()) == nullptr) break;  // no memory: at the next turn
    // What a successor is to find it must find however soon this process dies: a FORGET that was read is not sent again.
    const Memory& frame = kept_ ? *input_ : *block_;
    const uint64_t notified = notified_->load(std::memory_order_acquire);
    const ssize_t n = kept_ ? read(device_->fd(), frame.data(), frame.size()) : plane_->receive(*block_);
    if (n < 0) {
      // ENOENT: the request was interrupted before it could be read.
      if (errno == EINTR || errno == ENOENT) continue;
      if (errno != EAGAIN) {
        const int errnum = errno;
        leave(&entered);
        end(errnum);
        return;
      }
      // Whatever the kernel sent before it was told has come.
      plane_->told(notified);
      const uint64_t now = uv_hrtime();
      spin_.nothing(now);
      if (served == 0 || work_ || now - begin > kBudgetNs || !spin_.wait(now)) break;
      // Leaving and entering again costs as much as some requests do: worth it once nothing comes for a while.
      if (idle == 0) idle = now;
      if (now - idle > kIdleNs) leave(&entered);
      served--;
      continue;
    }
    idle = 0;
    spin_.arrived(uv_hrtime());
    if (!serve(&entered, frame, static_cast<size_t>(n))) break;
    if (uv_hrtime() - begin > kBudgetNs) break;
  }
  if (!closed_) deliver_forgets(&entered);
  leave(&entered);
}

// One request of `size` bytes in `frame`, which is input_ where a successor is to see it. False: JavaScript cannot be entered.
bool Channel::serve(Entered* entered, const Memory& frame, size_t size) {
  uint32_t opcode = 0;
  if (size >= sizeof(abi::fuse_in_header)) {
    memcpy(&opcode, frame.data() + offsetof(abi::fuse_in_header, opcode), sizeof opcode);
  }
  if (opcode < 64) requests_[opcode]++;
  const bool alone = !asks_all_;
  if (alone && (opcode == abi::FUSE_FORGET || opcode == abi::FUSE_BATCH_FORGET)) {
    // One for which there is no room goes to JavaScript by itself: in which order they are carried out is no matter.
    names_.forgotten(frame.data(), size);
    if (answers_.forget(frame.data(), size)) return !answers_.is_full() || deliver_forgets(entered);
  } else if (answers_.has_forgotten() && !goes_before_forgets(opcode) && !deliver_forgets_before(entered, frame, size)) {
    return false;
  }
  if (closed_) return true;  // by what JavaScript was told: nobody can be answered
  if (alone) {
    if (const auto reply = answers_.answer(frame.data(), size)) {
      device_->send(reply->data, reply->size);
      return true;
    }
    if (const auto reply = attributes_.answer(plane_->files(), names_, frame.data(), size)) {
      device_->send(reply->data, reply->size);
      return true;
    }
    if (const auto reply = names_.answer(frame.data(), size)) {
      const bool taken = device_->send(reply->data, reply->size) >= 0;
      names_.sent(reply->nodeid, taken);
      if (taken && reply->file != 0 && guess_.looked_up(reply->file)) {
        if (const auto file = open_lower(reply->file)) plane_->expect_read(*file);
      }
      return true;
    }
    if (create(frame.data(), size)) return true;
  }
  const bool io = (opcode == abi::FUSE_READ || opcode == abi::FUSE_WRITE) && DataPlane::valid(frame.data(), size);
  if (io && serve_io(frame, opcode)) return true;
  answers_.asked(frame.data(), size);
  names_.asked(frame.data(), size);
  return deliver(entered, kept_ ? nullptr : &frame, size);
}

// A CREATE that needs no JavaScript.
bool Channel::create(const uint8_t* frame, size_t size) {
  if (!attributes_.shows()) return false;
  const auto created = names_.create(frame, size);
  if (!created.has_value()) return false;
  const uint64_t nodeid = created->reply.nodeid;
  plane_->files().put(nodeid, std::make_shared<File>(created->fd, true, created->ino));
  // An ordinary user's daemon could not open it for writing a second time.
  constexpr mode_t own = S_IRUSR | S_IWUSR;
  if (geteuid() != 0 && (created->mode & own) != own) plane_->files().pin(nodeid, true);
  answers_.created(nodeid);
  names_.sent(nodeid, device_->send(created->reply.data, created->reply.size) >= 0);
  return true;
}

// A READ or WRITE whose file is known, or can be found without JavaScript.
bool Channel::serve_io(const Memory& frame, uint32_t opcode) {
  std::unique_ptr<Memory>* const block = kept_ ? nullptr : &block_;
  uint64_t nodeid = 0;
  memcpy(&nodeid, frame.data() + offsetof(abi::fuse_in_header, nodeid), sizeof nodeid);
  if (opcode == abi::FUSE_READ) guess_.read(nodeid);
  if (plane_->serve(frame.data(), block)) return true;
  if (opcode != abi::FUSE_READ || open_lower(nodeid) == nullptr) return false;
  return plane_->serve(frame.data(), block);
}

// The data of a lower file, from now on in the table of files; or nullptr.
std::shared_ptr<File> Channel::open_lower(uint64_t nodeid) {
  const auto lower = names_.lower(nodeid);
  const int fd = lower.has_value() ? Names::open(*lower) : -1;
  if (fd < 0) return nullptr;
  auto file = std::make_shared<File>(fd, false, lower->ino, lower->told);
  plane_->files().put(nodeid, file);
  return file;
}

// Hands a frame to JavaScript: `frame`, or what is in input_ already.
bool Channel::deliver(Entered* entered, const Memory* frame, size_t size) {
  if (!enter(entered)) return false;
  frames_to_js_++;
  if (frame != nullptr) memcpy(input_->data(), frame->data(), size);
  call(entered->on_frame, entered->receiver, static_cast<double>(size));
  return true;
}

// With a request of `size` bytes in `frame` that is not a FORGET.
bool Channel::deliver_forgets_before(Entered* entered, const Memory& frame, size_t size) {
  if (!kept_) return deliver_forgets(entered);
  std::unique_ptr<Memory> aside = plane_->blocks().take();
  if (aside == nullptr) return true;  // no memory: later
  memcpy(aside->data(), frame.data(), size);
  const bool delivered = deliver_forgets(entered);
  put_input(aside->data(), size);
  plane_->blocks().give(std::move(aside));
  return delivered;
}

// First what it is: a successor would carry out a FORGET with another number once more.
void Channel::put_input(const uint8_t* frame, size_t size) {
  constexpr size_t opcode = offsetof(abi::fuse_in_header, opcode);
  memcpy(input_->data() + opcode, frame + opcode, sizeof(uint32_t));
  std::atomic_signal_fence(std::memory_order_seq_cst);
  memcpy(input_->data(), frame, size);
}

bool Channel::deliver_forgets(Entered* entered) {
  if (!answers_.has_forgotten()) return true;
  if (!enter(entered)) return false;
  return deliver(entered, nullptr, answers_.forgotten(input_->data()));
}

// The device said that it is over. JavaScript hears of it once.
void Channel::end(int errnum) {
  if (ended_ || closed_) return;
  ended_ = true;
  uv_poll_stop(&poll_);
  napi_handle_scope handles = nullptr;
  napi_callback_scope callbacks = nullptr;
  napi_value receiver = nullptr;
  napi_value on_end = nullptr;
  if (napi_open_handle_scope(env_, &handles) != napi_ok) return;
  if (napi_get_reference_value(env_, this_ref_, &receiver) == napi_ok && receiver != nullptr &&
      napi_get_reference_value(env_, on_end_, &on_end) == napi_ok &&
      napi_open_callback_scope(env_, receiver, context_, &callbacks) == napi_ok) {
    call(on_end, receiver, errnum);
    napi_close_callback_scope(env_, callbacks);
  }
  napi_close_handle_scope(env_, handles);
}

}  // namespace lamina
