// What requests may be answered without entering JavaScript, from what its earlier answers said and cannot change unseen:
// attributes of directories, attributes (xattr) that a file does not have, the RELEASE of what was opened without a handle, and
// FORGETs, which nobody waits for.
//
// Nothing here knows the overlay. It holds because every change of the view comes as a request through this channel, and because
// a nodeid is never given out twice. What it answers is what the same GETATTR or GETXATTR would be answered by JavaScript.
//
// Threads: main thread only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "fuse-abi.h"
#include "memory.h"

namespace lamina {

class Answers {
 public:
  Answers() = default;
  ~Answers();
  Answers(const Answers&) = delete;
  Answers& operator=(const Answers&) = delete;

  // A request that JavaScript is to answer next, and the reply that it gives: what is learned from the two.
  void asked(const uint8_t* frame, size_t size);
  void replied(const uint8_t* reply, size_t size);

  // A new file has this nodeid.
  void created(uint64_t nodeid);

  // From the reply to the GETATTR that JavaScript is at on, the attributes of that directory are those of the object behind `fd`,
  // which is duplicated; with a link count of 1 where the links cannot be counted.
  void follow(uint64_t nodeid, int fd, bool one_link);
  size_t following() const;
  // What is known of it may no longer be true.
  void changed(uint64_t nodeid);

  // The whole reply to a frame of `size` bytes, header included; none where JavaScript has to be asked. The memory is valid until
  // the next call.
  struct Reply {
    const void* data;
    size_t size;
  };
  std::optional<Reply> answer(const uint8_t* frame, size_t size);

  static constexpr size_t kMostForgets = 128;

  // What was taken in of FORGETs. `state` is written last, in one store: how many entries there are in its low 16 bits, above them those
  // of the `unique` of the last frame. So a successor that sees this memory and that frame knows whether the one is in the other.
  // src/daemon/recovery/memory.ts reads it.
  struct Forgets {
    uint64_t state;
    std::array<abi::fuse_forget_one, kMostForgets> entries;
  };
  // From now on they are in `memory`, as long as this lives: it begins with a Forgets, in which nothing is.
  void keep_forgets(std::shared_ptr<Memory> memory);

  // Takes in a FORGET or BATCH_FORGET. False: it is no complete one, or there is no more room.
  bool forget(const uint8_t* frame, size_t size);
  bool has_forgotten() const { return forget_count() > 0; }
  bool is_full() const { return forget_count() == kMostForgets; }
  // Writes what was taken in as one BATCH_FORGET of at most kBatchBytes, and begins anew. Its size. At every moment one of the two
  // has all of it: a successor looks at `frame` only when it is a FORGET, and not when its `unique` is that in `state`.
  size_t forgotten(uint8_t* frame);

  static constexpr size_t kBatchBytes =
      sizeof(abi::fuse_in_header) + sizeof(abi::fuse_batch_forget_in) + kMostForgets * sizeof(abi::fuse_forget_one);

 private:
  // A directory whose attributes are asked after every change in it.
  struct Followed {
    uint64_t nodeid = 0;
    int fd = -1;
    bool one_link = false;
    bool known = false;  // the fields below are those of a reply
    uint64_t ino = 0;
    uint64_t attr_valid = 0;
    uint32_t attr_valid_nsec = 0;
  };

  Followed* followed(uint64_t nodeid);
  void unfollow(uint64_t nodeid);
  bool attributes(const Followed& of, uint64_t unique);
  bool is_absent(uint64_t nodeid, uint8_t name) const;
  void absent(uint64_t nodeid, uint8_t name);

  // The request that JavaScript is at.
  uint64_t unique_ = 0;
  uint64_t nodeid_ = 0;
  uint32_t opcode_ = 0;
  uint8_t name_ = 0;

  // A GETXATTR was answered: not by ENOSYS, which the kernel has to hear, since it then asks no more.
  bool has_xattrs_ = false;

  std::array<Followed, 32> directories_;
  size_t next_ = 0;

  // Which of a few names a nodeid is known not to have: nodeid << 8 | names, at nodeid modulo kSlots. Nodeids are counted up, so
  // those in use together hardly ever share a slot.
  static constexpr size_t kSlots = size_t{1} << 17;
  uint64_t* slot(uint64_t nodeid) const;
  std::unique_ptr<Memory> absent_;

  size_t forget_count() const { return forgets_->state & 0xffff; }

  Forgets own_forgets_{};
  std::shared_ptr<Memory> kept_forgets_;
  Forgets* forgets_ = &own_forgets_;

  struct {
    abi::fuse_out_header header;
    abi::fuse_attr_out attr;
  } reply_{};
};

}  // namespace lamina
