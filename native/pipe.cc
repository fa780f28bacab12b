#include "pipe.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <utility>

namespace lamina {

std::unique_ptr<Pipe> Pipe::open() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return nullptr;
  std::unique_ptr<Pipe> pipe(new (std::nothrow) Pipe(ends[0], ends[1]));
  if (pipe == nullptr) {
    ::close(ends[0]);
    ::close(ends[1]);
    return nullptr;
  }
  if (fcntl(pipe->in_, F_SETPIPE_SZ, static_cast<int>(kRoom)) < static_cast<int>(kRoom)) return nullptr;
  return pipe;
}

Pipe::~Pipe() {
  ::close(out_);
  ::close(in_);
}

ssize_t Pipe::receive(int device) {
  const ssize_t n = splice(device, nullptr, in_, nullptr, kRoom, SPLICE_F_NONBLOCK);
  if (n > 0) left_ = static_cast<size_t>(n);
  return n;
}

bool Pipe::read(uint8_t* data, size_t size) {
  while (size > 0) {
    const ssize_t n = ::read(out_, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    data += n;
    size -= static_cast<size_t>(n);
    left_ -= static_cast<size_t>(n);
  }
  return true;
}

ssize_t Pipe::write(int fd, uint64_t offset, size_t size) {
  auto at = static_cast<off64_t>(offset);
  const ssize_t n = splice(out_, nullptr, fd, &at, size, 0);
  if (n > 0) left_ -= static_cast<size_t>(n);
  return n;
}

std::unique_ptr<Pipe> PipePool::take() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (closed_ || used_ == kMost) return nullptr;
    used_++;
    keep_ = true;
    if (!free_.empty()) {
      std::unique_ptr<Pipe> pipe = std::move(free_.back());
      free_.pop_back();
      return pipe;
    }
  }
  std::unique_ptr<Pipe> pipe = Pipe::open();
  const std::lock_guard<std::mutex> lock(mutex_);
  if (pipe == nullptr) {
    used_--;
    // It will fail again; memory does as well.
    closed_ = true;
  }
  return pipe;
}

void PipePool::give(std::unique_ptr<Pipe> pipe) {
  const std::lock_guard<std::mutex> lock(mutex_);
  used_--;
  if (pipe->left() == 0 && keep_ && !closed_) free_.push_back(std::move(pipe));
}

void PipePool::trim() {
  const std::lock_guard<std::mutex> lock(mutex_);
  keep_ = false;
  free_.clear();
}

void PipePool::close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  free_.clear();
}

}  // namespace lamina
