// The JavaScript class Channel: its constructor and methods, with what they are given checked.
#include <fcntl.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <new>

#include "args.h"
#include "capability.h"
#include "channel.h"
#include "fuse-abi.h"
#include "register.h"

namespace lamina {
namespace {

constexpr size_t kMaxBuffer = 64 * 1024 * 1024;
constexpr size_t kMaxMessage = 256 * 1024;

// Slots of counters(); src/fuse/transport-device.ts reads the same order. Below 64: requests by opcode.
enum CounterSlot : size_t {
  kFramesToJs = 64, kReadsInline, kReadsThreaded, kWritesInline, kWritesThreaded, kBytesRead, kBytesWritten,
  kRegistered, kWakeups, kFollowed, kNamesAnswered, kAttributesAnswered, kCounterSlots,
};

// A notification: written by a thread of its own, because the kernel may first want a lock that a request holds which
// only the loop's thread can answer. What the kernel says to it is of no interest: ENOENT is "I do not have that".
class NotifyTask final : public Task {
 public:
  NotifyTask(std::shared_ptr<Device> device, std::unique_ptr<uint8_t[]> message, size_t size,
             std::shared_ptr<std::atomic<uint64_t>> done, void (*wake)(void*), void* data)
      : device_(std::move(device)), message_(std::move(message)), size_(size), done_(std::move(done)), wake_(wake), wake_data_(data) {}
  void run() override {
    device_->write(message_.get(), size_);
    if (done_ == nullptr) return;
    done_->fetch_add(1, std::memory_order_release);
    wake_(wake_data_);
  }

 private:
  const std::shared_ptr<Device> device_;
  const std::unique_ptr<uint8_t[]> message_;
  const size_t size_;
  const std::shared_ptr<std::atomic<uint64_t>> done_;
  void (*const wake_)(void*);
  void* const wake_data_;
};

napi_value type_error(napi_env env, const char* text) {
  napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", text);
  return nullptr;
}

bool is_function(napi_env env, napi_value value) {
  napi_valuetype type = napi_undefined;
  return napi_typeof(env, value, &type) == napi_ok && type == napi_function;
}

napi_value boolean(napi_env env, bool value) {
  napi_value out = nullptr;
  napi_get_boolean(env, value, &out);
  return out;
}

}  // namespace

// new Channel(fd, bufferSize, onFrame, onEnd, file?, offset?, forgets?). The descriptor is the channel's when nothing is thrown. With a
// file, `input` is that part of it: a successor sees the frame that JavaScript was at when this process was killed; and FORGETs that
// were taken in are in its page at `forgets`.
napi_value Channel::construct(napi_env env, napi_callback_info info) {
  napi_value target = nullptr;
  if (napi_get_new_target(env, info, &target) != napi_ok || target == nullptr) {
    return type_error(env, "Channel is a class: use new");
  }
  napi_value self = nullptr;
  napi_value arguments[4];
  size_t count = 4;
  void* data = nullptr;
  if (napi_get_cb_info(env, info, &count, arguments, &self, &data) != napi_ok) return nullptr;
  Args args(env, info);
  const int64_t fd = args.i64(0);
  const int64_t size = args.i64(1);
  const int shared = args.missing(4) ? -1 : args.fd(4);
  const int64_t offset = args.missing(5) ? 0 : args.i64(5);
  const int64_t forgets_at = args.missing(6) ? 0 : args.i64(6);
  if (args.failed()) return args.reject();
  if (fd < 0 || fd > INT_MAX || fcntl(static_cast<int>(fd), F_GETFD) < 0) {
    return type_error(env, "argument 1 must be an open file descriptor");
  }
  if (size < static_cast<int64_t>(abi::FUSE_MIN_READ_BUFFER) || size > static_cast<int64_t>(kMaxBuffer)) {
    return type_error(env, "argument 2 must be a buffer size between 8 KiB and 64 MiB");
  }
  if (!is_function(env, arguments[2]) || !is_function(env, arguments[3])) {
    return type_error(env, "arguments 3 and 4 must be functions");
  }

  const size_t pages = (static_cast<size_t>(size) + 4095) & ~size_t{4095};
  std::unique_ptr<Memory> block = Memory::map(pages);
  std::shared_ptr<Memory> input = shared < 0 ? Memory::map(pages) : Memory::map_file(shared, offset, pages);
  std::shared_ptr<Memory> output = Memory::map(pages);
  std::shared_ptr<Memory> forgets = shared < 0 ? nullptr : Memory::map_file(shared, forgets_at, 4096);
  if (block == nullptr || input == nullptr || output == nullptr || (shared >= 0 && forgets == nullptr)) {
    napi_throw_error(env, "ENOMEM", "no memory for the channel's buffers");
    return nullptr;
  }
  const auto& channels = *static_cast<std::shared_ptr<Channels>*>(data);
  auto* channel = new (std::nothrow) Channel(env, channels, static_cast<int>(fd), pages);
  if (channel == nullptr || !channel->names_.made()) {
    if (channel != nullptr) channel->device_->disown();
    delete channel;
    napi_throw_error(env, "ENOMEM", "no memory for the channel");
    return nullptr;
  }
  channel->block_ = std::move(block);
  channel->input_ = std::move(input);
  channel->kept_ = shared >= 0;
  if (forgets != nullptr) channel->answers_.keep_forgets(std::move(forgets));
  channel->output_ = std::move(output);
  // On failure from here on the wrap's finalizer, or nobody, owns the channel; an exception is pending.
  if (napi_wrap(env, self, channel, on_collected, nullptr, &channel->this_ref_) != napi_ok) {
    channel->device_->disown();
    delete channel;
    return nullptr;
  }
  if (!channel->expose(self, "input", channel->input_) || !channel->expose(self, "output", channel->output_) ||
      !channel->expose(self, "issued", channel->names_.shared()) ||
      napi_create_reference(env, arguments[2], 1, &channel->on_frame_) != napi_ok ||
      napi_create_reference(env, arguments[3], 1, &channel->on_end_) != napi_ok) {
    channel->device_->disown();
    channel->shut();
    napi_throw_error(env, nullptr, "the channel could not be made");
    return nullptr;
  }
  return self;
}

// An ArrayBuffer over memory that stays mapped as long as either side has it: JavaScript may detach its one.
bool Channel::expose(napi_value object, const char* name, std::shared_ptr<Memory> memory) {
  auto* held = new (std::nothrow) std::shared_ptr<Memory>(memory);
  if (held == nullptr) return false;
  const auto drop = [](napi_env, void*, void* hint) { delete static_cast<std::shared_ptr<Memory>*>(hint); };
  napi_value buffer = nullptr;
  if (napi_create_external_arraybuffer(env_, memory->data(), memory->size(), drop, held, &buffer) != napi_ok) {
    delete held;
    return false;
  }
  const napi_property_descriptor property = {name,    nullptr, nullptr,         nullptr,
                                             nullptr, buffer,  napi_enumerable, nullptr};
  return napi_define_properties(env_, object, 1, &property) == napi_ok;
}

Channel* Channel::self(napi_env env, napi_callback_info info) {
  napi_value object = nullptr;
  void* data = nullptr;
  void* wrapped = nullptr;
  if (napi_get_cb_info(env, info, nullptr, nullptr, &object, &data) == napi_ok &&
      napi_unwrap(env, object, &wrapped) == napi_ok) {
    const auto& live = (*static_cast<std::shared_ptr<Channels>*>(data))->live;
    if (std::find(live.begin(), live.end(), wrapped) != live.end()) return static_cast<Channel*>(wrapped);
  }
  type_error(env, "not a Channel");
  return nullptr;
}

napi_value Channel::start(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  if (channel->closed_) return failure(env, EBADF);
  if (channel->started_) return failure(env, EALREADY);
  return integer(env, channel->begin());
}

// send(length): output[0..length) to the device; 0 or -errno.
napi_value Channel::send(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const int64_t length = args.i64(0);
  if (args.failed()) return args.reject();
  if (length < static_cast<int64_t>(sizeof(abi::fuse_out_header)) ||
      length > static_cast<int64_t>(channel->output_->size())) {
    args.wrong(0, "a length within the output");
    return args.reject();
  }
  if (channel->closed_) return failure(env, EBADF);
  channel->answers_.replied(channel->output_->data(), static_cast<size_t>(length));
  return integer(env, channel->device_->write(channel->output_->data(), static_cast<size_t>(length)));
}

napi_value Channel::send_buffer(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const Bytes message = args.bytes(0);
  if (args.failed()) return args.reject();
  if (message.size < sizeof(abi::fuse_out_header)) return failure(env, EINVAL);
  if (channel->closed_) return failure(env, EBADF);
  return integer(env, channel->device_->write(message.data, message.size));
}

// notify(message): from a thread; the number of one that is about an inode, 0 of others, or where that can no longer be done.
napi_value Channel::notify(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const Bytes message = args.bytes(0);
  if (args.failed()) return args.reject();
  if (message.size < sizeof(abi::fuse_out_header) || message.size > kMaxMessage) {
    args.wrong(0, "a notification");
    return args.reject();
  }
  // Before start() there is no loop to join the thread from.
  if (channel->closed_ || !channel->started_) return integer(env, 0);
  std::unique_ptr<uint8_t[]> copy(new (std::nothrow) uint8_t[message.size]);
  if (copy == nullptr) return integer(env, 0);
  memcpy(copy.get(), message.data, message.size);
  abi::fuse_out_header header;
  abi::fuse_notify_inval_inode_out inode;
  memcpy(&header, copy.get(), sizeof header);
  if (header.error != abi::FUSE_NOTIFY_INVAL_INODE || message.size < sizeof header + sizeof inode) {
    channel->name_notifier_->submit(std::unique_ptr<Task>(
        new NotifyTask(channel->device_, std::move(copy), message.size, nullptr, wake, channel)));
    return integer(env, 0);
  }
  memcpy(&inode, copy.get() + sizeof header, sizeof inode);
  const uint64_t number = ++channel->notifications_;
  channel->plane_->telling(inode.ino, number);
  channel->notifier_->submit(std::unique_ptr<Task>(
      new NotifyTask(channel->device_, std::move(copy), message.size, channel->notified_, wake, channel)));
  return integer(env, static_cast<int64_t>(number));
}

// onNotified(callback): called with the number of the last notification that the kernel has taken, as notify() gave it.
napi_value Channel::on_notified(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  if (!is_function(env, args.raw(0))) args.wrong(0, "a function");
  if (args.failed()) return args.reject();
  if (!channel->closed_ && channel->on_notified_ == nullptr) napi_create_reference(env, args.raw(0), 1, &channel->on_notified_);
  return undefined(env);
}

napi_value Channel::notifying(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  return integer(env, static_cast<int64_t>(channel->notifier_->pending() + channel->name_notifier_->pending()));
}

napi_value Channel::close(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  channel->shut();
  return undefined(env);
}

// registerFile(nodeid, fd, writable, ino?, stamp?, most?, appends?): the descriptor is the channel's, whatever happens. Attributes of a file with
// an `ino` may be answered (showFiles). The last three: Told.
napi_value Channel::register_file(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const uint64_t nodeid = nodeid_of(args, 0);
  const int64_t fd = args.i64(1);
  const bool writable = args.boolean(2);
  const uint64_t ino = args.missing(3) ? 0 : nodeid_of(args, 3);
  Told told;
  if (!args.missing(4)) told.stamp = static_cast<double>(args.i64(4));
  if (!args.missing(5)) told.most = static_cast<uint64_t>(args.i64(5));
  if (!args.missing(6)) told.appends = args.boolean(6);
  if (!args.failed() && (fd < 0 || fd > INT_MAX)) args.wrong(1, "an open file descriptor");
  if (args.failed()) return args.reject();
  auto file = std::make_shared<File>(static_cast<int>(fd), writable, ino, told);
  if (channel->account_ != nullptr) file->charge(channel->account_, nodeid);
  if (channel->closed_) return undefined(env);
  channel->names_.untell(nodeid);
  channel->plane_->files().put(nodeid, std::move(file));
  return undefined(env);
}

// showFiles(seconds, nanoseconds): GETATTR, STATX and SETATTR of files that are registered with their st_ino are answered from now on
// (file-attributes.h), with attributes that are true for so long.
napi_value Channel::show_files(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const int64_t seconds = args.i64(0);
  const uint32_t nanoseconds = args.u32(1);
  if (args.failed()) return args.reject();
  channel->attributes_.show(static_cast<uint64_t>(seconds), nanoseconds);
  return undefined(env);
}

// limit(account): WRITEs of files that are registered from here on are noted there.
napi_value Channel::limit(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  std::shared_ptr<Account> account = account_of(args, 0);
  if (args.failed()) return args.reject();
  channel->account_ = std::move(account);
  return undefined(env);
}

napi_value Channel::unregister_file(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const uint64_t nodeid = nodeid_of(args, 0);
  if (args.failed()) return args.reject();
  channel->names_.untell(nodeid);
  return boolean(env, channel->plane_->files().remove(nodeid));
}

// fileOf(nodeid): a descriptor of the file that is registered, the caller's; -EBADF without one.
napi_value Channel::file_of(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const uint64_t nodeid = nodeid_of(args, 0);
  if (args.failed()) return args.reject();
  const File* file = channel->plane_->files().peek(nodeid);
  if (file == nullptr) return failure(env, EBADF);
  return result(env, fcntl(file->fd(), F_DUPFD_CLOEXEC, 3));
}

napi_value Channel::is_registered(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const uint64_t nodeid = nodeid_of(args, 0);
  if (args.failed()) return args.reject();
  const File* file = channel->plane_->files().peek(nodeid);
  return integer(env, file == nullptr ? 0 : file->writable() ? 2 : 1);
}

napi_value Channel::pin(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const uint64_t nodeid = nodeid_of(args, 0);
  const bool on = args.boolean(1);
  if (args.failed()) return args.reject();
  return boolean(env, channel->plane_->files().pin(nodeid, on));
}

// keepFiles(max): see FileTable::keep.
napi_value Channel::keep_files(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const int64_t max = args.i64(0);
  if (!args.failed() && max < 0) args.wrong(0, "a count");
  if (args.failed()) return args.reject();
  return integer(env, static_cast<int64_t>(channel->plane_->files().keep(static_cast<size_t>(max))));
}

// resubmit(frame): serves a READ or WRITE whose file JavaScript has registered meanwhile. Whatever is wrong with it, it
// is answered here: giving it back would go round for ever.
napi_value Channel::resubmit(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const Bytes frame = args.bytes(0);
  if (args.failed()) return args.reject();
  if (!DataPlane::valid(frame.data, frame.size)) {
    args.wrong(0, "a READ or WRITE frame");
    return args.reject();
  }
  // Before start() there is no loop to join a thread from.
  if (channel->closed_ || !channel->started_) return undefined(env);
  if (channel->plane_->serve(frame.data, nullptr, false)) return undefined(env);
  abi::fuse_in_header header;
  memcpy(&header, frame.data, sizeof header);
  channel->device_->reply(header.unique, -EIO, nullptr, 0);
  return undefined(env);
}

// followAttributes(nodeid, fd, oneLink): after the GETATTR of a directory that is being handled, its further ones are answered with
// the attributes of the object behind `fd`, which stays the caller's.
napi_value Channel::follow_attributes(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const uint64_t nodeid = nodeid_of(args, 0);
  const int fd = args.fd(1);
  const bool one_link = args.boolean(2);
  if (args.failed()) return args.reject();
  if (!channel->closed_) channel->answers_.follow(nodeid, fd, one_link);
  return undefined(env);
}

// answersChanged(nodeid): what was answered about it may no longer be true.
napi_value Channel::answers_changed(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const uint64_t nodeid = nodeid_of(args, 0);
  if (args.failed()) return args.reject();
  channel->answers_.changed(nodeid);
  if (!channel->closed_) channel->names_.drop(nodeid);
  return undefined(env);
}

// hasWork(on): the loop has something to do as soon as no request is there.
napi_value Channel::has_work(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const bool on = args.boolean(0);
  if (args.failed()) return args.reject();
  channel->work_ = on;
  return undefined(env);
}

// askAll(): from now on every request comes to onFrame but READ and WRITE of registered files.
napi_value Channel::ask_all(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  channel->asks_all_ = true;
  return undefined(env);
}

napi_value Channel::backing_open(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const int fd = args.fd(0);
  if (args.failed()) return args.reject();
  if (channel->closed_) return failure(env, EBADF);
  abi::fuse_backing_map map = {};
  map.fd = fd;
  // The kernel writes to the file as whoever makes this call. Without CAP_FSETID such a write takes setuid and setgid from it.
  WithoutCapability dropped(CAP_FSETID);
  if (dropped.error() != 0) return failure(env, dropped.error());
  const int id = ioctl(channel->device_->fd(), abi::FUSE_DEV_IOC_BACKING_OPEN, &map);
  return result(env, id);
}

napi_value Channel::backing_close(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  uint32_t id = args.u32(0);
  if (args.failed()) return args.reject();
  if (channel->closed_) return failure(env, EBADF);
  return result(env, ioctl(channel->device_->fd(), abi::FUSE_DEV_IOC_BACKING_CLOSE, &id));
}

napi_value Channel::counters(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  void* data = nullptr;
  napi_value buffer = nullptr;
  napi_value array = nullptr;
  if (napi_create_arraybuffer(env, kCounterSlots * sizeof(double), &data, &buffer) != napi_ok ||
      napi_create_typedarray(env, napi_float64_array, kCounterSlots, buffer, 0, &array) != napi_ok) {
    return nullptr;
  }
  const DataPlane::Counters io = channel->plane_->counters();
  auto* slots = static_cast<double*>(data);
  for (size_t opcode = 0; opcode < 64; opcode++) slots[opcode] = static_cast<double>(channel->requests_[opcode]);
  slots[kFramesToJs] = static_cast<double>(channel->frames_to_js_);
  slots[kReadsInline] = static_cast<double>(io.reads_inline);
  slots[kReadsThreaded] = static_cast<double>(io.reads_threaded);
  slots[kWritesInline] = static_cast<double>(io.writes_inline);
  slots[kWritesThreaded] = static_cast<double>(io.writes_threaded);
  slots[kBytesRead] = static_cast<double>(io.bytes_read);
  slots[kBytesWritten] = static_cast<double>(io.bytes_written);
  slots[kRegistered] = static_cast<double>(channel->plane_->files().size());
  slots[kFollowed] = static_cast<double>(channel->answers_.following() + channel->names_.following());
  slots[kNamesAnswered] = static_cast<double>(channel->names_.answered());
  slots[kAttributesAnswered] = static_cast<double>(channel->attributes_.answered());
  slots[kWakeups] = static_cast<double>(channel->wakeups_);
  return array;
}

bool Channel::define_class(napi_env env, napi_value exports, std::shared_ptr<Channels>* channels) {
  const auto method = [channels](const char* name, napi_callback callback) {
    return napi_property_descriptor{name,    nullptr, callback,     nullptr,
                                    nullptr, nullptr, napi_default, channels};
  };
  const napi_property_descriptor methods[] = {
      method("start", start),
      method("send", send),
      method("sendBuffer", send_buffer),
      method("notify", notify),
      method("onNotified", on_notified),
      method("notifying", notifying),
      method("close", close),
      method("registerFile", register_file),
      method("showFiles", show_files),
      method("limit", limit),
      method("unregisterFile", unregister_file),
      method("fileOf", file_of),
      method("isRegistered", is_registered),
      method("pin", pin),
      method("keepFiles", keep_files),
      method("resubmit", resubmit),
      method("followAttributes", follow_attributes),
      method("answerNames", answer_names),
      method("tellFiles", tell_files),
      method("keepIssued", keep_issued),
      method("takeNames", take_names),
      method("answersChanged", answers_changed),
      method("hasWork", has_work),
      method("askAll", ask_all),
      method("backingOpen", backing_open),
      method("backingClose", backing_close),
      method("counters", counters),
  };
  napi_value constructor = nullptr;
  return napi_define_class(env, "Channel", NAPI_AUTO_LENGTH, construct, channels, std::size(methods), methods,
                           &constructor) == napi_ok &&
         napi_set_named_property(env, exports, "Channel", constructor) == napi_ok;
}

bool register_channel(napi_env env, napi_value exports, State*) {
  // Channels that are collected after this hook ran have a share of their own.
  auto* channels = new (std::nothrow) std::shared_ptr<Channels>(std::make_shared<Channels>());
  if (channels == nullptr) return false;
  const auto drop = [](void* data) { delete static_cast<std::shared_ptr<Channels>*>(data); };
  return napi_add_env_cleanup_hook(env, drop, channels) == napi_ok &&
         Channel::define_class(env, exports, channels);
}

}  // namespace lamina
