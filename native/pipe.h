// Pipes through which the data of a large WRITE goes from the device to its file: the pipe holds the pages that the kernel has
// them in, so they are copied once, into the file's own page cache, and never into memory of this process.
//
// Source: fs/fuse/dev.c, fuse_dev_splice_read: the first page of the pipe has the request's head, and each page of data is a
// page of its own. A message that the pipe has no room for would end with EIO, and the device gives none when told of less room than
// its largest WRITE takes.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace lamina {

class Pipe {
 public:
  // The most that any user may have by default (fs.pipe-max-size): a page too small for a WRITE of a megabyte.
  static constexpr size_t kRoom = 1024 * 1024;

  // nullptr where there is none: no descriptors, or this user has too many (fs.pipe-user-pages-soft).
  static std::unique_ptr<Pipe> open();
  ~Pipe();
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  size_t left() const { return left_; }

  // One message of the device. Its size, or -1 and errno. Preconditions: nothing is left.
  ssize_t receive(int device);
  // The next `size` bytes into memory; false when they are not there.
  bool read(uint8_t* data, size_t size);
  // The next `size` bytes into a file: as pwrite(2), or -1 and errno.
  ssize_t write(int fd, uint64_t offset, size_t size);

 private:
  Pipe(int out, int in) : out_(out), in_(in) {}

  const int out_;
  const int in_;
  size_t left_ = 0;
};

// As many pipes as are used at once, up to a few. Used from any thread.
class PipePool {
 public:
  // nullptr: read into memory instead.
  std::unique_ptr<Pipe> take();
  // One in which something is left, after an error, is closed.
  void give(std::unique_ptr<Pipe> pipe);
  // Closes those that nobody has, and those that come back until one is taken again: what a user may have of them is limited.
  void trim();
  // There will be none any more.
  void close();

 private:
  static constexpr size_t kMost = 4;

  std::mutex mutex_;
  // Under mutex_.
  std::vector<std::unique_ptr<Pipe>> free_;
  size_t used_ = 0;
  bool keep_ = true;
  bool closed_ = false;
};

}  // namespace lamina
