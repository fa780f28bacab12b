#include "work-queue.h"

#include <time.h>

#include <csignal>
#include <utility>

namespace lamina {
namespace {

class Locked {
 public:
  explicit Locked(pthread_mutex_t* mutex) : mutex_(mutex) { pthread_mutex_lock(mutex_); }
  ~Locked() { pthread_mutex_unlock(mutex_); }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;

 private:
  pthread_mutex_t* mutex_;
};

// File I/O needs little stack; the default of 8 MiB each is address space only, but counts against RLIMIT_AS.
constexpr size_t kStack = 256 * 1024;
// A task that has waited so long waits for more than its turn.
constexpr int64_t kLateMs = 250;

int64_t now_ms() {
  timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<int64_t>(ts.tv_sec) * 1000 + ts.tv_nsec / 1'000'000;
}

}  // namespace

WorkQueue::WorkQueue(size_t max_threads, size_t max_reserves, void (*exited)(void*), void* data)
    : max_threads_(max_threads), max_reserves_(max_reserves), exited_(exited), data_(data) {
  pthread_condattr_t attr;
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_cond_init(&waiting_, &attr);
  pthread_condattr_destroy(&attr);
}

WorkQueue::~WorkQueue() {
  join();
  pthread_cond_destroy(&waiting_);
}

// Under mutex_.
bool WorkQueue::grow(bool reserve) {
  pthread_attr_t attr;
  if (pthread_attr_init(&attr) != 0) return false;
  pthread_attr_setstacksize(&attr, kStack);
  // Signals are for the main thread, which libuv wakes with them.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  live_.fetch_add(1, std::memory_order_acq_rel);
  const bool started = pthread_create(&thread, &attr, reserve ? reserve_main : thread_main, this) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attr);
  if (started) {
    threads_.push_back(thread);
    if (reserve) reserves_++;
  } else {
    live_.fetch_sub(1, std::memory_order_acq_rel);
  }
  return started;
}

void WorkQueue::submit(std::unique_ptr<Task> task) {
  pending_.fetch_add(1, std::memory_order_acq_rel);
  {
    const Locked lock(&mutex_);
    if (!stopping_ && idle_ <= tasks_.size() && threads_.size() - reserves_ < max_threads_) grow(false);
    if (!threads_.empty() && (!stopping_ || task->must_run())) {
      tasks_.push_back({std::move(task), now_ms()});
      pthread_cond_signal(&ready_);
      if (idle_ < tasks_.size()) keep_reserve();
      return;
    }
  }
  if (!stopping_ || task->must_run()) task->run();
  task.reset();
  pending_.fetch_sub(1, std::memory_order_acq_rel);
}

// Under mutex_. There is one that sees what waits.
void WorkQueue::keep_reserve() {
  if (idle_reserves_ > 0) {
    pthread_cond_signal(&waiting_);
  } else if (!stopping_ && reserves_ < max_reserves_) {
    // Where it cannot be started there is none.
    grow(true);
  }
}

void* WorkQueue::thread_main(void* self) {
  static_cast<WorkQueue*>(self)->live(false);
  return nullptr;
}

void* WorkQueue::reserve_main(void* self) {
  static_cast<WorkQueue*>(self)->live(true);
  return nullptr;
}

void WorkQueue::live(bool reserve) {
  pthread_setname_np(pthread_self(), "lamina-io");
  loop(reserve);
  // The owner may destroy the queue as soon as live_ is 0 and the thread was joined; join() waits for this return.
  void (*const exited)(void*) = exited_;
  void* const data = data_;
  live_.fetch_sub(1, std::memory_order_acq_rel);
  exited(data);
}

// Under mutex_. False: there will be nothing more to do.
bool WorkQueue::wait(bool reserve) {
  if (reserve) return wait_for_late();
  idle_++;
  while (tasks_.empty() && !stopping_) pthread_cond_wait(&ready_, &mutex_);
  idle_--;
  return !tasks_.empty();
}

// Under mutex_.
bool WorkQueue::wait_for_late() {
  idle_reserves_++;
  while (!stopping_) {
    if (tasks_.empty()) {
      pthread_cond_wait(&waiting_, &mutex_);
      continue;
    }
    const int64_t late = tasks_.front().since + kLateMs;
    if (now_ms() >= late) break;
    const timespec until = {static_cast<time_t>(late / 1000), static_cast<long>(late % 1000 * 1'000'000)};
    pthread_cond_timedwait(&waiting_, &mutex_, &until);
  }
  idle_reserves_--;
  return !tasks_.empty();
}

void WorkQueue::loop(bool reserve) {
  for (;;) {
    std::unique_ptr<Task> task;
    bool run = true;
    {
      const Locked lock(&mutex_);
      if (!wait(reserve)) return;
      task = std::move(tasks_.front().task);
      tasks_.pop_front();
      run = !stopping_ || task->must_run();
      if (!tasks_.empty() && reserve) keep_reserve();
    }
    if (run) task->run();
    task.reset();
    pending_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

void WorkQueue::stop() {
  const Locked lock(&mutex_);
  stopping_ = true;
  pthread_cond_broadcast(&ready_);
  pthread_cond_broadcast(&waiting_);
}

void WorkQueue::join() {
  stop();
  for (const pthread_t thread : threads_) pthread_join(thread, nullptr);
  threads_.clear();
}

}  // namespace lamina
