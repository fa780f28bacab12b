#include "patience.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <new>

#include "args.h"
#include "kernel.h"
#include "register.h"

namespace lamina {

std::atomic<std::atomic<uint8_t>*> covered_descriptors{nullptr};

namespace {

// A byte for each, of which pages are touched as descriptors are: address space, not memory. Descriptors beyond are not covered.
constexpr int kDescriptors = 1 << 20;
// Longer than a filesystem that works takes, shorter than what the callers of others notice. Doubled each time it was too short, so
// that a call that always takes longer is answered in the end.
constexpr int64_t kLimitMs = 250;
constexpr int64_t kLongestLimitMs = 30'000;
// So long after the last silence the limit is what it was at first.
constexpr int64_t kForgetMs = 60'000;
constexpr size_t kStack = 512 * 1024;
// So long an answer counts. As long as a request waits for one: a busy mount asks a few times a second.
constexpr int64_t kBeatMs = kLimitMs;
// A page, and a multiple of the block of any disk, which is what O_DIRECT wants of addresses and lengths.
constexpr size_t kBlock = 4096;

std::atomic<Remote*> remotes[256];
std::atomic<napi_threadsafe_function> listener{nullptr};

// Whether this thread serves a request that has changed nothing of an upper layer so far.
thread_local bool unchanged = false;

int64_t now_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Remote* look_up_remote(std::atomic<uint8_t>* covered, int fd) {
  if (fd < 0 || fd >= kDescriptors) return nullptr;
  const uint8_t number = covered[fd].load(std::memory_order_acquire);
  return number == 0 ? nullptr : remotes[number].load(std::memory_order_acquire);
}

int close_fd(int fd) {
  Remote* const remote = remote_of(fd);
  if (remote == nullptr) return close(fd);
  // A file without a name goes with its last descriptor, for which a disk that has stopped would have to be waited for.
  if (remote->on_disk() && remote->refusal() == 0) {
    covered_descriptors.load(std::memory_order_acquire)[fd].store(0, std::memory_order_release);
    return close(fd);
  }
  remote->close_later(fd);
  return 0;
}

long open_cached(int dirfd, const char* path, uint64_t flags, uint64_t resolve) {
  open_how how = {};
  how.flags = flags | O_CLOEXEC;
  how.resolve = resolve | kResolveCached;
  return syscall(kSysOpenat2, dirfd, path, &how, sizeof how);
}

bool may_change(int fd) {
  Remote* const remote = remote_of(fd);
  if (remote == nullptr || !remote->upper()) return true;
  if (unchanged && !remote->beats()) return false;
  unchanged = false;
  return true;
}

Remote::Remote(uint8_t number, uint32_t use) : number_(number), use_(use), limit_(kLimitMs) {}

int Remote::refusal() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return silent_ ? kSilent + number_ : 0;
}

bool Remote::beats() {
  const int refused = refusal();
  if (refused != 0) {
    errno = refused;
    return false;
  }
  if (pulse_ < 0 || now_ms() - beat_ < kBeatMs) return true;
  int none = 0;
  const auto read = [fd = pulse_](int*) -> long {
    alignas(kBlock) char block[kBlock];
    return pread(fd, block, sizeof block, 0);
  };
  // An error is an answer.
  if (call(&none, read) < 0 && errno > kSilent) return false;
  beat_ = now_ms();
  return true;
}

void Remote::cover(int fd) {
  // The number was another file's.
  if (read_to_end_ == fd) read_to_end_ = -1;
  std::atomic<uint8_t>* const covered = covered_descriptors.load(std::memory_order_acquire);
  if (fd >= 0 && fd < kDescriptors) covered[fd].store(number_, std::memory_order_release);
}

void Remote::close_later(int fd) {
  // Its number is given out again only when it is closed.
  covered_descriptors.load(std::memory_order_acquire)[fd].store(0, std::memory_order_release);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (start()) {
      closing_.push_back(fd);
      work_.notify_one();
      return;
    }
  }
  close(fd);
}

void Remote::close_unwanted(long fd) {
  if (fd >= 0) close(static_cast<int>(fd));
}

// Under mutex_.
bool Remote::start() {
  if (started_) return true;
  pthread_attr_t attr;
  if (pthread_attr_init(&attr) != 0) return false;
  pthread_attr_setstacksize(&attr, kStack);
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  // Signals are for the main thread.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  started_ = pthread_create(&thread, &attr, thread_main, this) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attr);
  return started_;
}

bool Remote::answered(const std::shared_ptr<Question>& question) {
  if (upper() && !unchanged) {
    question->ask();
    return true;
  }
  std::unique_lock<std::mutex> lock(mutex_);
  if (silent_) {
    errno = kSilent + number_;
    return false;
  }
  if (!start()) {
    // No thread can be had: as on any other filesystem.
    lock.unlock();
    question->ask();
    return true;
  }
  const int64_t begin = now_ms();
  if (limit_ > kLimitMs && begin - last_silence_ > kForgetMs) limit_ = kLimitMs;
  next_ = question;
  running_ = true;
  work_.notify_one();
  if (done_.wait_for(lock, std::chrono::milliseconds(limit_), [&] { return !running_; })) return true;
  silent_ = true;
  if (next_ != nullptr) {
    // It was not even begun: the thread is busy with closing what may not be closed so soon.
    next_.reset();
    running_ = false;
  }
  last_silence_ = now_ms();
  limit_ = std::min(limit_ * 2, kLongestLimitMs);
  errno = kSilent + number_;
  return false;
}

void* Remote::thread_main(void* self) {
  pthread_setname_np(pthread_self(), "lamina-remote");
  static_cast<Remote*>(self)->loop();
  return nullptr;
}

void Remote::loop() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    work_.wait(lock, [&] { return next_ != nullptr || !closing_.empty(); });
    if (next_ == nullptr) {
      const int fd = closing_.back();
      closing_.pop_back();
      lock.unlock();
      close(fd);
      lock.lock();
    } else {
      const std::shared_ptr<Question> question = std::move(next_);
      next_.reset();
      lock.unlock();
      question->ask();
      lock.lock();
      running_ = false;
      if (!silent_) {
        done_.notify_one();
        continue;
      }
      lock.unlock();
      question->abandoned();
      lock.lock();
    }
    if (!silent_) continue;
    silent_ = false;
    const napi_threadsafe_function function = listener.load(std::memory_order_acquire);
    if (function != nullptr) {
      napi_call_threadsafe_function(function, reinterpret_cast<void*>(static_cast<uintptr_t>(number_)),
                                    napi_tsfn_nonblocking);
    }
  }
}

namespace {

// coverDescriptor(fd, number from 1 to 255; 0: not any more, use: kOnDisk | kUpper): 0 or -errno. Descriptors opened from it are covered
// with it. One number is used in one way.
napi_value cover_descriptor(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  const uint32_t number = args.u32(1);
  const uint32_t use = args.u32(2);
  if (args.failed()) return args.reject();
  if (fd < 0 || fd >= kDescriptors || number > 255) return failure(env, EINVAL);
  std::atomic<uint8_t>* covered = covered_descriptors.load(std::memory_order_acquire);
  if (covered == nullptr) {
    void* memory = mmap(nullptr, kDescriptors, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return failure(env, ENOMEM);
    // Zero is a byte's first value, and an atomic byte is a byte.
    static_assert(sizeof(std::atomic<uint8_t>) == 1);
    covered = static_cast<std::atomic<uint8_t>*>(memory);
    covered_descriptors.store(covered, std::memory_order_release);
  }
  if (number == 0) {
    covered[fd].store(0, std::memory_order_release);
    return integer(env, 0);
  }
  Remote* remote = remotes[number].load(std::memory_order_acquire);
  if (remote == nullptr) {
    remote = new (std::nothrow) Remote(static_cast<uint8_t>(number), use);
    if (remote == nullptr) return failure(env, ENOMEM);
    remotes[number].store(remote, std::memory_order_release);
  }
  remote->cover(fd);
  return integer(env, 0);
}

// coverAlike(fd, like): `fd` is on the filesystem of `like`.
napi_value cover_alike(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int fd = args.fd(0);
  Remote* const remote = remote_of(args.fd(1));
  if (args.failed()) return args.reject();
  if (remote != nullptr) remote->cover(fd);
  return nullptr;
}

long write_block(int fd) {
  // Nothing that a filesystem could make smaller, and keep beside the file's attributes.
  alignas(kBlock) uint32_t block[kBlock / sizeof(uint32_t)];
  uint32_t next = 1;
  for (uint32_t& word : block) {
    next ^= next << 13;
    next ^= next >> 17;
    next ^= next << 5;
    word = next;
  }
  const ssize_t n = pwrite(fd, block, sizeof block, 0);
  if (n >= 0 && n < static_cast<ssize_t>(sizeof block)) errno = EIO;
  return n == static_cast<ssize_t>(sizeof block) ? 0 : -1;
}

// makePulse(dirfd): a file without a name, one block of which is on the disk and not in memory; or -errno.
napi_value make_pulse(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int dirfd = args.fd(0);
  if (args.failed()) return args.reject();
  constexpr int flags = O_RDWR | O_DIRECT | O_CLOEXEC;
  int fd = openat(dirfd, ".", O_TMPFILE | flags, 0600);
  if (fd < 0) {
    constexpr const char* name = "pulse";
    fd = openat(dirfd, name, O_CREAT | O_EXCL | flags, 0600);
    if (fd >= 0) unlinkat(dirfd, name, 0);
  }
  if (fd >= 0 && write_block(fd) != 0) {
    const int error = errno;
    close(fd);
    return failure(env, error);
  }
  return result(env, fd);
}

// setPulse(fd, pulse): what is asked before the first change through `fd`.
napi_value set_pulse(napi_env env, napi_callback_info info) {
  Args args(env, info);
  Remote* const remote = remote_of(args.fd(0));
  const int pulse = args.fd(1);
  if (args.failed()) return args.reject();
  if (remote != nullptr) remote->set_pulse(pulse);
  return nullptr;
}

// mayChange(fd): 0, or -errno where it is not to be changed now. Does not count as a change.
napi_value may_change_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  Remote* const remote = remote_of(args.fd(0));
  if (args.failed()) return args.reject();
  return result(env, remote == nullptr || remote->beats() ? 0 : -1);
}

void tell(napi_env env, napi_value callback, void*, void* data) {
  if (env == nullptr || callback == nullptr) return;
  napi_value global = nullptr;
  napi_get_global(env, &global);
  const napi_value number = integer(env, static_cast<int64_t>(reinterpret_cast<uintptr_t>(data)));
  napi_call_function(env, global, callback, 1, &number, nullptr);
}

// onAnswer(callback): is called with the number of a filesystem that was silent and has answered. Once.
napi_value on_answer(napi_env env, napi_callback_info info) {
  Args args(env, info);
  napi_value name = nullptr;
  napi_threadsafe_function function = nullptr;
  if (napi_create_string_latin1(env, "lamina.onAnswer", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_threadsafe_function(env, args.raw(0), nullptr, name, 0, 1, nullptr, nullptr, nullptr, tell,
                                      &function) != napi_ok) {
    args.wrong(0, "a function");
    return args.reject();
  }
  // It keeps no process alive.
  napi_unref_threadsafe_function(env, function);
  listener.store(function, std::memory_order_release);
  return nullptr;
}

// serving(on): whether a request begins or ends, which changes nothing until may_change() is asked.
napi_value serving(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const bool on = args.boolean(0);
  if (args.failed()) return args.reject();
  unchanged = on;
  return nullptr;
}

}  // namespace

bool register_patience(napi_env env, napi_value exports, State* state) {
  return define(env, exports, state, "coverDescriptor", cover_descriptor) &&
         define(env, exports, state, "coverAlike", cover_alike) && define(env, exports, state, "makePulse", make_pulse) &&
         define(env, exports, state, "setPulse", set_pulse) && define(env, exports, state, "mayChange", may_change_) &&
         define(env, exports, state, "onAnswer", on_answer) && define(env, exports, state, "serving", serving);
}

}  // namespace lamina
