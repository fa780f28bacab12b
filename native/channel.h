// class Channel: one mounted FUSE connection, driven by the event loop.
//
// uv_poll says that the device can be read; drain() reads requests until there are none or its budget is used, hands
// READ and WRITE of registered files to the data plane, answers what answers.h knows, and gives every other frame to JavaScript,
// which is only entered (scopes, microtasks) when there is one for it.
//
// Threads: everything is on the loop's thread, but wake(), which any thread calls to make the loop run on_wake().
//
// Life: made open by JavaScript's constructor; start() makes it hold itself and keep the loop alive; close(), or the end
// of the environment, closes the handles. The object is deleted when its handles are closed, its threads joined and its
// JavaScript object collected, whichever is last.
#pragma once

#include <uv.h>

#include <atomic>
#include <memory>
#include <vector>

#include "account-value.h"
#include "answers.h"
#include "data-plane.h"
#include "env.h"
#include "file-attributes.h"
#include "memory.h"
#include "names.h"
#include "read-guess.h"
#include "spin-wait.h"
#include "work-queue.h"

namespace lamina {

class Channel;

// What the class keeps per environment: its channels, so that a method called on anything else is refused.
struct Channels {
  std::vector<Channel*> live;
};

class Channel {
 public:
  static napi_value construct(napi_env env, napi_callback_info info);
  static bool define_class(napi_env env, napi_value exports, std::shared_ptr<Channels>* channels);

 private:
  Channel(napi_env env, std::shared_ptr<Channels> channels, int fd, size_t buffer_size)
      : env_(env),
        channels_(std::move(channels)),
        device_(std::make_shared<Device>(fd)),
        plane_(std::make_unique<DataPlane>(device_, buffer_size, wake, this)),
        notifier_(std::make_unique<WorkQueue>(1, 0, wake, this)),
        name_notifier_(std::make_unique<WorkQueue>(1, 0, wake, this)) {
    channels_->live.push_back(this);
  }
  ~Channel();

  // ---- methods of the JavaScript class
  static napi_value start(napi_env env, napi_callback_info info);
  static napi_value send(napi_env env, napi_callback_info info);
  static napi_value send_buffer(napi_env env, napi_callback_info info);
  static napi_value notify(napi_env env, napi_callback_info info);
  static napi_value on_notified(napi_env env, napi_callback_info info);
  static napi_value notifying(napi_env env, napi_callback_info info);
  static napi_value close(napi_env env, napi_callback_info info);
  static napi_value register_file(napi_env env, napi_callback_info info);
  static napi_value show_files(napi_env env, napi_callback_info info);
  static napi_value limit(napi_env env, napi_callback_info info);
  static napi_value unregister_file(napi_env env, napi_callback_info info);
  static napi_value file_of(napi_env env, napi_callback_info info);
  static napi_value is_registered(napi_env env, napi_callback_info info);
  static napi_value pin(napi_env env, napi_callback_info info);
  static napi_value keep_files(napi_env env, napi_callback_info info);
  static napi_value resubmit(napi_env env, napi_callback_info info);
  static napi_value follow_attributes(napi_env env, napi_callback_info info);
  static napi_value has_work(napi_env env, napi_callback_info info);
  static napi_value ask_all(napi_env env, napi_callback_info info);
  static napi_value answer_names(napi_env env, napi_callback_info info);
  static napi_value tell_files(napi_env env, napi_callback_info info);
  static napi_value keep_issued(napi_env env, napi_callback_info info);
  static napi_value take_names(napi_env env, napi_callback_info info);
  static napi_value answers_changed(napi_env env, napi_callback_info info);
  static napi_value backing_open(napi_env env, napi_callback_info info);
  static napi_value backing_close(napi_env env, napi_callback_info info);
  static napi_value counters(napi_env env, napi_callback_info info);

  // The channel of `this`, or nullptr with a TypeError pending.
  static Channel* self(napi_env env, napi_callback_info info);

  // ---- the loop
  static void on_readable(uv_poll_t* poll, int status, int events);
  static void on_wake(uv_async_t* async);
  static void on_handle_closed(uv_handle_t* handle);
  static void on_environment_end(napi_async_cleanup_hook_handle hook, void* self);
  static void on_collected(napi_env env, void* self, void* hint);
  static void wake(void* self);

  // JavaScript is entered at the first call of a wakeup and left by leave().
  struct Entered {
    napi_handle_scope handles = nullptr;
    napi_callback_scope callbacks = nullptr;
    napi_value receiver = nullptr;
    napi_value on_frame = nullptr;
  };
  int begin();
  void drain();
  bool serve(Entered* entered, const Memory& frame, size_t size);
  bool create(const uint8_t* frame, size_t size);
  bool serve_io(const Memory& frame, uint32_t opcode);
  std::shared_ptr<File> open_lower(uint64_t nodeid);
  bool deliver(Entered* entered, const Memory* frame, size_t size);
  bool deliver_forgets_before(Entered* entered, const Memory& frame, size_t size);
  bool deliver_forgets(Entered* entered);
  void deliver_changed();
  void put_input(const uint8_t* frame, size_t size);
  void tell_notified();
  void resume();
  void pause();
  void end(int errnum);
  void shut();
  void close_async_when_drained();
  void release_when_done();

  bool enter(Entered* entered);
  void leave(Entered* entered);
  void call(napi_value function, napi_value receiver, double argument);

  bool expose(napi_value object, const char* name, std::shared_ptr<Memory> memory);

  const napi_env env_;
  const std::shared_ptr<Channels> channels_;
  std::shared_ptr<Device> device_;  // null when closed
  std::unique_ptr<DataPlane> plane_;
  std::shared_ptr<Account> account_;
  // Of inodes, which wait for pages; and of names, which wait for directories: whoever has one of these locked may wait for one of those.
  std::unique_ptr<WorkQueue> notifier_;
  std::unique_ptr<WorkQueue> name_notifier_;

  SpinWait spin_;
  std::unique_ptr<Memory> block_;  // what the device is read into; a WRITE takes it along to a thread
  std::shared_ptr<Memory> input_;  // what JavaScript sees of it
  bool kept_ = false;              // a successor sees input_: it is read into at once
  std::shared_ptr<Memory> output_;

  uv_poll_t poll_{};
  uv_async_t async_{};
  int open_handles_ = 0;
  bool started_ = false;
  bool polling_ = false;
  bool paused_ = false;
  bool ended_ = false;
  bool closed_ = false;
  bool async_closing_ = false;
  bool collected_ = false;

  napi_ref this_ref_ = nullptr;  // weak until start()
  napi_ref kept_memory_ = nullptr;  // what names_ keeps its journal in
  napi_ref on_frame_ = nullptr;
  napi_ref on_end_ = nullptr;
  napi_ref on_notified_ = nullptr;  // may be missing
  napi_async_context context_ = nullptr;
  napi_async_cleanup_hook_handle hook_ = nullptr;

  Answers answers_;
  Names names_;
  ReadGuess guess_;
  FileAttributes attributes_;
  bool work_ = false;      // something is to be done as soon as no request is there
  bool asks_all_ = false;  // JavaScript wants to see all that no file is registered for

  // Notifications that were given to the thread, that the kernel has taken, and that JavaScript was told are taken.
  uint64_t notifications_ = 0;
  const std::shared_ptr<std::atomic<uint64_t>> notified_ = std::make_shared<std::atomic<uint64_t>>(0);
  uint64_t told_notified_ = 0;

  uint64_t requests_[64] = {};
  uint64_t frames_to_js_ = 0;
  uint64_t wakeups_ = 0;
};

}  // namespace lamina
