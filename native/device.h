// /dev/fuse, as one connection has it open. For any thread.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace lamina {

// The errno that a reply may have: the kernel refuses a reply with a larger one, and its caller would wait for ever.
inline int reply_errno(int errnum) { return errnum > 0 && errnum <= 511 ? errnum : EIO; }

// The connection. The descriptor is closed when the last thread that may still answer on it lets go.
class Device {
 public:
  explicit Device(int fd) : fd_(fd) {}
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  int fd() const { return fd_; }
  // Leaves the descriptor to whoever gave it.
  void disown() { fd_ = -1; }
  // 0, or -errno.
  int write(const void* data, size_t size) const;
  // A reply with `error` <= 0 and, if that is 0, a payload. 0, or -errno: then nobody waits for it, or has got EIO in its place.
  int reply(uint64_t unique, int error, const void* payload, size_t size) const;
  // The same of a whole one, header included.
  int send(const void* reply, size_t size) const;

 private:
  int taken(int rc, uint64_t unique) const;

  int fd_;
};

}  // namespace lamina
