// System calls on a filesystem that may fall silent (a network's, FUSE, a disk's): made on a thread of that filesystem's own, and
// waited for only so long. Then the caller gets kSilent, and further calls get it at once, until the call that is stuck has come back.
//
// Only calls that change nothing are made so: whoever got kSilent does not know whether the call was, or will be, carried out.
//
// Of a disk, what the kernel has in memory is asked for on the spot: open_cached() never waits, and attributes of an open file are
// there. Only what it cannot tell goes over the thread.
//
// An upper layer is changed as well. Its calls are given up only while the request has changed nothing, for then it can be run anew;
// after that they are waited for where they are made, however long it takes. A request's first change is refused (may_change()) while
// the filesystem is silent. Whether it is does not show in what the kernel has in memory, which answers for a disk that has stopped;
// so before a first change a block is read past that (the pulse), where that was not done just before.
//
// Threads: remote_of() and close_fd() are for any thread, everything else for the main thread.
#pragma once

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace lamina {

// The kernel's errnos are below 4096. The filesystem's number is added.
inline constexpr int kSilent = 10000;

// A call on its way. Whoever asked may be gone when it comes back, so it owns what it needs.
class Question {
 public:
  Question() = default;
  virtual ~Question() = default;
  Question(const Question&) = delete;
  Question& operator=(const Question&) = delete;

  // On the filesystem's thread.
  virtual void ask() = 0;
  // There, too: nobody waits for the result any more.
  virtual void abandoned() {}

  long rc = -1;
  int error = 0;
};

// How a filesystem is used: bits, the same as in src/sys/patience.ts.
inline constexpr uint32_t kOnDisk = 1;
inline constexpr uint32_t kUpper = 2;

// One filesystem. Made once, never destroyed: its thread may never come back.
class Remote {
 public:
  Remote(uint8_t number, uint32_t use);
  Remote(const Remote&) = delete;
  Remote& operator=(const Remote&) = delete;

  // What `run(&out)` gives, and its errno; -1 and kSilent + number where it does not come in time.
  template <typename Out, typename Run>
  long call(Out* out, Run run) {
    class Call final : public Question {
     public:
      explicit Call(Run run) : run_(std::move(run)) {}
      void ask() override {
        rc = run_(&out);
        error = errno;
      }
      Out out{};

     private:
      Run run_;
    };
    const auto question = std::make_shared<Call>(std::move(run));
    if (!answered(question)) return -1;
    if (question->rc >= 0) *out = std::move(question->out);
    errno = question->error;
    return question->rc;
  }

  // The same where `run()` gives a descriptor, which belongs to this filesystem then.
  template <typename Run>
  long open(Run run) {
    class Call final : public Question {
     public:
      explicit Call(Run run) : run_(std::move(run)) {}
      void ask() override {
        rc = run_();
        error = errno;
      }
      void abandoned() override { close_unwanted(rc); }

     private:
      Run run_;
    };
    const auto question = std::make_shared<Call>(std::move(run));
    if (!answered(question)) return -1;
    if (question->rc >= 0) cover(static_cast<int>(question->rc));
    errno = question->error;
    return question->rc;
  }

  // Whether what the kernel has in memory is asked for on the spot.
  bool on_disk() const { return (use_ & kOnDisk) != 0; }
  bool upper() const { return (use_ & kUpper) != 0; }

  // Calls on `fd` are made here from now on.
  void cover(int fd);
  // Any thread. close(2) may wait as well: FUSE asks the server.
  void close_later(int fd);
  // The next entries of directory `fd` are known to be none: asked once.
  void read_to_end(int fd) { read_to_end_ = fd; }
  bool was_read_to_end(int fd) {
    if (read_to_end_ != fd) return false;
    read_to_end_ = -1;
    return true;
  }
  // Why nothing must begin that cannot be given up: kSilent and the number, while it is silent; else 0.
  int refusal();
  // The file in which beats() reads; it stays open.
  void set_pulse(int fd) { pulse_ = fd; }
  // False, and errno: something must not begin that cannot be given up. Asks the disk, but for where it has answered a moment ago.
  bool beats();

 private:
  // False, and errno: no answer in time.
  bool answered(const std::shared_ptr<Question>& question);
  bool start();
  void loop();
  static void* thread_main(void* self);
  static void close_unwanted(long fd);

  const uint8_t number_;
  const uint32_t use_;
  // Main thread. Descriptors, or -1.
  int read_to_end_ = -1;
  int pulse_ = -1;
  // When it answered, milliseconds.
  int64_t beat_ = 0;
  std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable done_;
  // Under mutex_.
  std::shared_ptr<Question> next_;
  std::vector<int> closing_;
  bool started_ = false;
  bool running_ = false;
  // Somebody was told so, and is to hear when the thread is free again.
  bool silent_ = false;
  // Milliseconds, and when it was last too short.
  int64_t limit_;
  int64_t last_silence_ = 0;
};

// By descriptor, the number of its filesystem; nullptr as long as there is none.
extern std::atomic<std::atomic<uint8_t>*> covered_descriptors;
Remote* look_up_remote(std::atomic<uint8_t>* covered, int fd);

// The filesystem that `fd` was opened on, nullptr for one that never falls silent.
inline Remote* remote_of(int fd) {
  std::atomic<uint8_t>* const covered = covered_descriptors.load(std::memory_order_acquire);
  return covered == nullptr ? nullptr : look_up_remote(covered, fd);
}

// close(2), without waiting where that may take long.
int close_fd(int fd);

// openat2(2) of what the kernel finds without asking the disk: a descriptor, or -1 and ENOENT. With any other errno the disk has to be
// asked. `flags` create and cut nothing.
long open_cached(int dirfd, const char* path, uint64_t flags, uint64_t resolve);

// Before a call that changes something through `fd`. False, and errno: the filesystem is silent, and the request may be given up since
// it has changed nothing yet.
bool may_change(int fd);

}  // namespace lamina
