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

}  // namespace lamina
