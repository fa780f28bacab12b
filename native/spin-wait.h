// Whether to ask the device again for a while before going to sleep.
//
// A core that has nothing to do is halted, and waking it for the next request costs more than serving it: 30 to 60 us in a
// virtual machine. A program that works in the mount sends its next request soon after the last answer, so asking again meanwhile
// answers it at once. What that costs is bounded: it stops where requests do not come that quickly, where other programs want the
// core (whoever uses up his share waits longest when it counts), and on a single core.
#pragma once

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

#include <algorithm>
#include <cstdint>

namespace lamina {

class SpinWait {
 public:
  // No request is there, at `now` (ns).
  void nothing(uint64_t now) {
    if (since_ == 0) since_ = now;
  }

  // A request has come.
  void arrived(uint64_t now) {
    if (since_ == 0) return;
    const uint64_t gap = std::min(now - since_, kCounted);
    mean_ = mean_ - mean_ / 8 + gap / 8;
    since_ = 0;
    if (++gaps_ % kLookedAt != 0) return;
    const long preempted = preemptions();
    if (preempted != preempted_) rested_ = now + kRest;
    preempted_ = preempted;
  }

  // True as long as asking again is likely to be cheaper than sleeping. Who waits for this core has it meanwhile: it may be the
  // caller who was just answered; but if it is one who keeps it, we had better be asleep and be woken.
  bool wait(uint64_t now) {
    if (!several_cores_ || mean_ > kWorth || now < rested_ || now - since_ > kLongest) return false;
    sched_yield();
    if (uv_hrtime() - now > kTaken) rested_ = now + kRest;
    return true;
  }

 private:
  static constexpr uint64_t kLongest = 100'000;    // ns; of a gap that is waited for
  static constexpr uint64_t kWorth = 150'000;      // ns; the mean gap with which waiting begins: one that includes waking up
  static constexpr uint64_t kRest = 10'000'000;    // ns; without waiting, after the core was taken away for somebody else
  static constexpr uint64_t kTaken = 50'000;       // ns; so long another one had the core that we had offered
  static constexpr uint32_t kLookedAt = 8;         // gaps; whether the core was taken away is asked so rarely, it costs a system call
  static constexpr uint64_t kCounted = 1'000'000;  // ns; a longer gap says no more than this one

  // How often the core was taken from this thread.
  static long preemptions() {
    struct rusage usage;
    return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nivcsw : 0;
  }

  static bool several_cores() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) return sysconf(_SC_NPROCESSORS_ONLN) > 1;
    return CPU_COUNT(&set) > 1;
  }

  const bool several_cores_ = several_cores();
  uint64_t since_ = 0;         // ns; 0: a request is being served
  uint64_t mean_ = kCounted;   // ns; of the gaps between an answer and the next request
  uint32_t gaps_ = 0;
  long preempted_ = 0;         // when that was looked at last
  uint64_t rested_ = 0;        // ns; when waiting may begin again
};

}  // namespace lamina
