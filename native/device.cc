#include "device.h"

#include <sys/uio.h>
#include <unistd.h>

#include <cstring>

#include "fuse-abi.h"

namespace lamina {

// close(2) is never retried: the descriptor is gone also when it says EINTR.
Device::~Device() {
  if (fd_ >= 0) close(fd_);
}

int Device::write(const void* data, size_t size) const {
  ssize_t n;
  do {
    n = ::write(fd_, data, size);
  } while (n < 0 && errno == EINTR);
  return n < 0 ? -errno : 0;
}

int Device::reply(uint64_t unique, int error, const void* payload, size_t size) const {
  const abi::fuse_out_header header = {static_cast<uint32_t>(sizeof(abi::fuse_out_header) + size), error, unique};
  if (size == 0) return write(&header, sizeof header);
  const iovec parts[2] = {{const_cast<abi::fuse_out_header*>(&header), sizeof header},
                          {const_cast<void*>(payload), size}};
  ssize_t n;
  do {
    n = writev(fd_, parts, 2);
  } while (n < 0 && errno == EINTR);
  return taken(n < 0 ? -errno : 0, unique);
}

int Device::send(const void* reply, size_t size) const {
  abi::fuse_out_header header;
  memcpy(&header, reply, sizeof header);
  return taken(write(reply, size), header.unique);
}

int Device::taken(int rc, uint64_t unique) const {
  // The kernel did not take it, but somebody still waits.
  if (rc == -EINVAL || rc == -ENOMEM || rc == -EFAULT) reply(unique, -EIO, nullptr, 0);
  return rc;
}

}  // namespace lamina
