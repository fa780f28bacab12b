// GETATTR and STATX of files, and SETATTR of the mode, owner and times of upper files, without JavaScript: of files in the table whose
// attributes are shown as they are (File::ino), and of lower files that are as they were found (names.h). Unpacking an archive sends two or three
// SETATTRs a file; programs that ask for the time of birth, as those in JavaScript do, send a STATX behind each LOOKUP.
//
// What fails is left to JavaScript, which does it again: setting the same twice is the same as setting it once. So a successor does what
// was asked of a daemon that died, whether that had done it or not.
//
// Threads: main thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "file-table.h"
#include "fuse-abi.h"
#include "names.h"

namespace lamina {

class FileAttributes {
 public:
  // From now on they are answered, and are true for so long.
  void show(uint64_t valid, uint32_t valid_nsec) {
    shows_ = true;
    valid_ = valid;
    valid_nsec_ = valid_nsec;
  }

  bool shows() const { return shows_; }

  // The whole reply to a frame of `size` bytes; none where JavaScript has to be asked. The memory is valid until the next call.
  struct Reply {
    const void* data;
    size_t size;
  };
  std::optional<Reply> answer(const FileTable& files, const Names& names, const uint8_t* frame, size_t size);

  uint64_t answered() const { return answered_; }

 private:
  bool shows_ = false;
  uint64_t valid_ = 0;
  uint32_t valid_nsec_ = 0;
  uint64_t answered_ = 0;

  struct {
    abi::fuse_out_header header;
    union {
      abi::fuse_attr_out attr;
      abi::fuse_statx_out statx;
    };
  } reply_{};
};

}  // namespace lamina
