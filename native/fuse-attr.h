// Attributes as a reply has them.
#pragma once

#include <sys/stat.h>

#include <cstdint>

#include "fuse-abi.h"

namespace lamina {

// Those of a file, a symlink or a directory that is shown as it is, but under the number `ino`.
inline abi::fuse_attr attr_of(const struct statx& st, uint64_t ino) {
  abi::fuse_attr attr{};
  attr.ino = ino;
  attr.size = st.stx_size;
  attr.blocks = st.stx_blocks;
  attr.atime = static_cast<uint64_t>(st.stx_atime.tv_sec);
  attr.mtime = static_cast<uint64_t>(st.stx_mtime.tv_sec);
  attr.ctime = static_cast<uint64_t>(st.stx_ctime.tv_sec);
  attr.atimensec = st.stx_atime.tv_nsec;
  attr.mtimensec = st.stx_mtime.tv_nsec;
  attr.ctimensec = st.stx_ctime.tv_nsec;
  attr.mode = st.stx_mode;
  attr.nlink = st.stx_nlink;
  attr.uid = st.stx_uid;
  attr.gid = st.stx_gid;
  attr.blksize = st.stx_blksize;
  return attr;
}

// The same with the time of birth, where `st` has it.
inline abi::fuse_statx statx_of(const struct statx& st, uint64_t ino) {
  const auto time = [](const struct statx_timestamp& at) { return abi::fuse_sx_time{at.tv_sec, at.tv_nsec, 0}; };
  abi::fuse_statx out{};
  out.mask = STATX_BASIC_STATS | (st.stx_mask & STATX_BTIME);
  out.blksize = st.stx_blksize;
  out.attributes = out.attributes_mask = st.stx_attributes;
  out.nlink = st.stx_nlink;
  out.uid = st.stx_uid;
  out.gid = st.stx_gid;
  out.mode = st.stx_mode;
  out.ino = ino;
  out.size = st.stx_size;
  out.blocks = st.stx_blocks;
  out.atime = time(st.stx_atime);
  if ((st.stx_mask & STATX_BTIME) != 0) out.btime = time(st.stx_btime);
  out.ctime = time(st.stx_ctime);
  out.mtime = time(st.stx_mtime);
  return out;
}

}  // namespace lamina
