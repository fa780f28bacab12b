// What tells one content of a file from another, as far as statx(2) can: a number of 52 bits, never 0. The upper 26 bits say which file it is,
// how long, and when it was written; the lower ones when its inode was last changed.
//
// It is compared with the one of the moment at which the kernel was told of the file: src/overlay/changes.ts.
#pragma once

#include <cstdint>

namespace lamina {

inline uint64_t mixed(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15;
  return hash ^ (hash >> 29);
}

// For the kernel's struct statx as either header has it.
template <typename Statx>
double stamp_of(const Statx& st) {
  constexpr uint64_t kHalf = (uint64_t{1} << 26) - 1;
  uint64_t content = mixed(st.stx_ino, (uint64_t{st.stx_dev_major} << 32) | st.stx_dev_minor);
  content = mixed(content, st.stx_size);
  content = mixed(content, static_cast<uint64_t>(st.stx_mtime.tv_sec));
  content = mixed(content, st.stx_mtime.tv_nsec);
  const uint64_t change = mixed(mixed(st.stx_ino, static_cast<uint64_t>(st.stx_ctime.tv_sec)), st.stx_ctime.tv_nsec);
  return static_cast<double>((((content >> 32) & kHalf) << 26) | (((change >> 32) & kHalf) | 1));
}

}  // namespace lamina
