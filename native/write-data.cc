#include "write-data.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <utility>

#include "data-plane.h"

namespace lamina {
namespace {

// FUSE_WRITE_KILL_SUIDGID, as the VFS does for a writer without CAP_FSETID: setgid without group execution is the
// mark of mandatory locking and stays. security.capability is removed by the write itself.
int kill_suidgid(int fd) {
  struct stat st;
  if (fstat(fd, &st) != 0) return -reply_errno(errno);
  mode_t mode = st.st_mode & ~static_cast<mode_t>(S_ISUID);
  if ((mode & S_IXGRP) != 0) mode &= ~static_cast<mode_t>(S_ISGID);
  if (mode == st.st_mode) return 0;
  return fchmod(fd, mode & 07777) == 0 ? 0 : -reply_errno(errno);
}

}  // namespace

ssize_t WriteData::write(const File& file, const abi::fuse_write_in& in) {
  const int fd = file.fd();
  if ((in.write_flags & abi::FUSE_WRITE_KILL_SUIDGID) != 0) {
    const int rc = kill_suidgid(fd);
    if (rc < 0) return rc;
  }
  if (file.account() != nullptr) {
    return file.account()->write(file.nodeid(), fd, in.offset, in.size,
                                 [&](size_t size) { return write_some(fd, in.offset, size); });
  }
  return write_some(fd, in.offset, in.size);
}

ssize_t WriteData::write_some(int fd, uint64_t offset, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t n = data_ == nullptr ? pipe_->write(fd, offset + done, size - done)
                                       : pwrite(fd, data_ + done, size - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    // A filesystem without splice_write: what is in the pipe goes through memory.
    if (n < 0 && errno == EINVAL && data_ == nullptr && done == 0) {
      copy_.reset(new (std::nothrow) uint8_t[size]);
      if (copy_ == nullptr || !pipe_->read(copy_.get(), size)) return -EIO;
      data_ = copy_.get();
      continue;
    }
    if (n < 0) return done > 0 ? static_cast<ssize_t>(done) : -reply_errno(errno);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return static_cast<ssize_t>(done);
}

void WriteData::release(BlockPool* blocks, PipePool* pipes) {
  if (block_ != nullptr) blocks->give(std::move(block_));
  if (pipe_ != nullptr) pipes->give(std::move(pipe_));
}

}  // namespace lamina
