// The account of a mount with a size limit: what its upper layer takes, kept at every change.
//
// Each object that is known to the kernel and was changed has a charge, by nodeid. A change is noted afterwards, as the
// difference between what the object takes now and its charge; so whoever notes, in whatever order and from whatever
// thread, the sum is right. What a change is going to take is held beforehand: two changes never get the same room.
#pragma once

#include <cstdint>
#include <mutex>
#include <unordered_map>

#include <sys/types.h>

namespace lamina {

class Account {
 public:
  static constexpr uint64_t kPage = 4096;

  // Bytes. `by_size`: charge sizes, on filesystems that tell allocated blocks late; holes then count as data.
  Account(uint64_t limit, uint64_t used, bool by_size) : limit_(limit), used_(used), by_size_(by_size) {}
  Account(const Account&) = delete;
  Account& operator=(const Account&) = delete;

  uint64_t limit() const { return limit_; }
  uint64_t used();

  // What the object behind `fd` takes, or -errno.
  int64_t weigh(int fd) const;
  // The charge of an object that has none yet.
  void baseline(uint64_t nodeid, uint64_t bytes);
  // Notes what it takes now. Without a charge it is a baseline.
  void settle(uint64_t nodeid, uint64_t bytes);
  // The object is gone from the disk; `bytes` where it has no charge.
  void gone(uint64_t nodeid, uint64_t bytes);
  // The kernel knows it no longer; it stays on the disk.
  void forget(uint64_t nodeid);

  bool hold(uint64_t bytes);
  void release(uint64_t bytes);

  // Bytes of [offset, offset + size) of a file that have no room on disk yet, in pages.
  uint64_t need(int fd, uint64_t offset, uint64_t size) const;

  // Writes as much of [offset, offset + size) as there is room for. `body(n)` writes the first n bytes and gives how many
  // it wrote, or -errno. -ENOSPC when there is no room at all.
  template <typename Body>
  ssize_t write(uint64_t nodeid, int fd, uint64_t offset, size_t size, Body body) {
    const uint64_t first = offset / kPage * kPage;
    uint64_t held = (offset + size + kPage - 1) / kPage * kPage - first;
    if (!hold(held)) size = hold_some(fd, offset, size, &held);
    if (size == 0) return kNoRoom;
    baseline_of(nodeid, fd);
    const ssize_t n = body(size);
    note(nodeid, fd);
    release(held);
    return n;
  }

 private:
  static const ssize_t kNoRoom;

  // The most of a write that fits; what it takes is then held.
  size_t hold_some(int fd, uint64_t offset, size_t size, uint64_t* held);
  void baseline_of(uint64_t nodeid, int fd);
  void note(uint64_t nodeid, int fd);

  const uint64_t limit_;
  std::mutex mutex_;
  uint64_t used_;
  uint64_t held_ = 0;
  const bool by_size_;
  std::unordered_map<uint64_t, uint64_t> charges_;
};

}  // namespace lamina
