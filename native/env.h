// What one JavaScript environment (the main thread, or one worker thread) keeps between calls.
// There are no globals: an addon that is loaded in several threads has one State in each.
#pragma once

#include <node_api.h>
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace lamina {

// Slots of one Stat in the shared Float64Array. src/sys/attr.ts reads the same order.
enum StatSlot : size_t {
  kMode, kNlink, kUid, kGid, kSize, kBlocks, kBlksize, kDev, kRdev,
  kIno, kInoHi, kInoLo,
  kAtime, kAtimeNsec, kMtime, kMtimeNsec, kCtime, kCtimeNsec, kBtime, kBtimeNsec,
  kAttributes, kMntId, kMask, kStamp,
  kErrno,  // statMany only: 0, or the errno of this name
  kStatStride,
};

inline constexpr size_t kDirentBytes = 256 * 1024;
// The smallest linux_dirent64 record is 24 bytes (19 of header, a one byte name, its NUL, padding to 8).
inline constexpr size_t kDirentMax = kDirentBytes / 24 + 1;
// The largest has a name of 255 bytes.
inline constexpr size_t kDirentLargest = 280;

// Which newer syscalls this kernel (and its seccomp filter) has; decided once per environment.
struct Features {
  bool xattrat = false;    // setxattrat and its family, Linux 6.13
  bool fchmodat2 = false;  // Linux 6.6
};

struct State {
  double* stat = nullptr;  // kStatStride doubles, the same memory as exports.statBuffer

  // getdents: the kernel's records, and what JavaScript reads of them. Allocated at first use.
  std::unique_ptr<char[]> dirent;
  uint8_t* dirent_types = nullptr;
  double* dirent_inos = nullptr;
  napi_ref dirent_types_ref = nullptr;
  napi_ref dirent_inos_ref = nullptr;

  Features features;

  // Set when the environment is going away: jobs on other threads stop at their next block.
  std::shared_ptr<std::atomic<bool>> stopping = std::make_shared<std::atomic<bool>>(false);
};

// Adds a function to `exports`; its callback finds `state` as its data. False when an exception is pending.
bool define(napi_env env, napi_value exports, State* state, const char* name, napi_callback callback);

}  // namespace lamina
