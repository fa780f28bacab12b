#include "work-queue.h"

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

}  // namespace

// Under mutex_.
bool WorkQueue::grow() {
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
  const bool started = pthread_create(&thread, &attr, thread_main, this) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attr);
  if (started) {
    threads_.push_back(thread);
  } else {
    live_.fetch_sub(1, std::memory_order_acq_rel);
  }
  return started;
}

void WorkQueue::submit(std::unique_ptr<Task> task) {
  pending_.fetch_add(1, std::memory_order_acq_rel);
  {
    const Locked lock(&mutex_);
    if (!stopping_ && idle_ <= tasks_.size() && threads_.size() < max_threads_) grow();
    if (!threads_.empty() && (!stopping_ || task->must_run())) {
      tasks_.push_back(std::move(task));
      pthread_cond_signal(&ready_);
      return;
    }
  }
  if (!stopping_ || task->must_run()) task->run();
  task.reset();
  pending_.fetch_sub(1, std::memory_order_acq_rel);
}

void* WorkQueue::thread_main(void* self) {
  auto* queue = static_cast<WorkQueue*>(self);
  pthread_setname_np(pthread_self(), "lamina-io");
  queue->loop();
  // The owner may destroy the queue as soon as live_ is 0 and the thread was joined; join() waits for this return.
  void (*const exited)(void*) = queue->exited_;
  void* const data = queue->data_;
  queue->live_.fetch_sub(1, std::memory_order_acq_rel);
  exited(data);
  return nullptr;
}

void WorkQueue::loop() {
  for (;;) {
    std::unique_ptr<Task> task;
    bool run = true;
    {
      const Locked lock(&mutex_);
      idle_++;
      while (tasks_.empty() && !stopping_) pthread_cond_wait(&ready_, &mutex_);
      idle_--;
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
      run = !stopping_ || task->must_run();
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
}

void WorkQueue::join() {
  stop();
  for (const pthread_t thread : threads_) pthread_join(thread, nullptr);
  threads_.clear();
}

}  // namespace lamina
