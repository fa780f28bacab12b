// Threads that run tasks in the order they were submitted: started when first needed, as many as are busy at once.
//
// A task may wait for a disk that has stopped, and must not keep others from theirs. So a queue may have a reserve: one more thread when all
// are busy, which takes what has waited for a quarter of a second; while that one is busy there is another.
//
// Threads: stop() and join() are for one thread, the owner's. The others are for any.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

namespace lamina {

class Task {
 public:
  Task() = default;
  virtual ~Task() = default;
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  // On a thread of the queue.
  virtual void run() = 0;
  // Whether it is run also after stop(). Otherwise it is only destroyed.
  virtual bool must_run() const { return false; }
};

class WorkQueue {
 public:
  // `exited` is called with `data` on each thread as its last act, after which drained() may be true.
  WorkQueue(size_t max_threads, size_t max_reserves, void (*exited)(void*), void* data);
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // From any thread of the queue too (a task may submit the next one). When no thread can be started the task is run
  // before submit() returns.
  void submit(std::unique_ptr<Task> task);

  // Tasks that are queued or run.
  size_t pending() const { return pending_.load(std::memory_order_acquire); }

  // No thread starts another task, but those that must run. Does not wait.
  void stop();
  // Preconditions: stop() was called. Whether join() will not wait.
  bool drained() const { return live_.load(std::memory_order_acquire) == 0; }
  // Stops, and waits for the threads.
  void join();

 private:
  struct Waiting {
    std::unique_ptr<Task> task;
    // Milliseconds of CLOCK_MONOTONIC.
    int64_t since;
  };

  static void* thread_main(void* self);
  static void* reserve_main(void* self);
  void live(bool reserve);
  void loop(bool reserve);
  bool wait(bool reserve);
  bool wait_for_late();
  bool grow(bool reserve);
  void keep_reserve();

  const size_t max_threads_;
  const size_t max_reserves_;
  void (*const exited_)(void*);
  void* const data_;

  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t ready_ = PTHREAD_COND_INITIALIZER;
  // For the reserve.
  pthread_cond_t waiting_;
  // Under mutex_.
  std::deque<Waiting> tasks_;
  size_t idle_ = 0;
  size_t idle_reserves_ = 0;
  size_t reserves_ = 0;
  bool stopping_ = false;
  std::vector<pthread_t> threads_;

  std::atomic<size_t> pending_{0};
  std::atomic<size_t> live_{0};
};

}  // namespace lamina
