// Threads that run tasks in the order they were submitted: started when first needed, as many as are busy at once.
//
// Threads: stop() and join() are for one thread, the owner's. The others are for any.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstddef>
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
  WorkQueue(size_t max_threads, void (*exited)(void*), void* data)
      : max_threads_(max_threads), exited_(exited), data_(data) {}
  ~WorkQueue() { join(); }
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
  static void* thread_main(void* self);
  void loop();
  bool grow();

  const size_t max_threads_;
  void (*const exited_)(void*);
  void* const data_;

  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t ready_ = PTHREAD_COND_INITIALIZER;
  // Under mutex_.
  std::deque<std::unique_ptr<Task>> tasks_;
  size_t idle_ = 0;
  bool stopping_ = false;
  std::vector<pthread_t> threads_;

  std::atomic<size_t> pending_{0};
  std::atomic<size_t> live_{0};
};

}  // namespace lamina
