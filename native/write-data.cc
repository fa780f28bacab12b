#include "write-data.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <utility>

#include "data-plane.h"
#include "suidgid.h"

namespace lamina {
namespace {

// The capabilities of a file, which every write(2) takes from it, and a write through a mapping does not: given back afterwards. A file
// that has them is hardly ever mapped for writing.
class KeptCapability {
 public:
  explicit KeptCapability(int fd) : fd_(fd), size_(fgetxattr(fd, kName, value_, sizeof value_)) {}
  ~KeptCapability() {
    if (size_ > 0) fsetxattr(fd_, kName, value_, static_cast<size_t>(size_), 0);
  }
  KeptCapability(const KeptCapability&) = delete;
  KeptCapability& operator=(const KeptCapability&) = delete;

 private:
  static constexpr const char* kName = "security.capability";
  const int fd_;
  char value_[64];
  const ssize_t size_;
};

}  // namespace

ssize_t WriteData::write(const File& file, const abi::fuse_write_in& in, uint32_t pid) {
  // security.capability is removed by the write itself.
  if ((in.write_flags & abi::FUSE_WRITE_KILL_SUIDGID) != 0) {
    const int error = kill_suidgid(file.fd(), static_cast<pid_t>(pid));
    if (error != 0) return -reply_errno(error);
  }
  // Pages that were written through a mapping, or gathered by the kernel, which took what it had to when they were written.
  if ((in.write_flags & abi::FUSE_WRITE_CACHE) != 0) {
    const KeptCapability kept(file.fd());
    return write_all(file, in);
  }
  return write_all(file, in);
}

ssize_t WriteData::write_all(const File& file, const abi::fuse_write_in& in) {
  const int fd = file.fd();
  uint64_t offset = in.offset;
  if (file.told().appends && (in.flags & O_APPEND) != 0) {
    struct stat st;
    if (fstat(fd, &st) != 0) return -reply_errno(errno);
    offset = static_cast<uint64_t>(st.st_size);
  }
  if (file.account() != nullptr) {
    return file.account()->write(file.nodeid(), fd, offset, in.size,
                                 [&](size_t size) { return write_some(fd, offset, size); });
  }
  return write_some(fd, offset, in.size);
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
