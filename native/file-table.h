// The files that READ and WRITE are served from. Threads: the table is for the main thread; files are shared with tasks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>

#include "account.h"

namespace lamina {

// What the kernel was told of a lower file, which may change beneath the mount.
struct Told {
  // stamp.h; 0: it is not a lower one, and is compared with nothing.
  double stamp = 0;
  // The largest size that the kernel may believe in.
  uint64_t most = 0;
  // Of an upper file: the kernel may not know where it ends, so what is appended (O_APPEND) goes to its end, whatever the kernel says.
  bool appends = false;
};

// An open file of a layer. It is closed when neither the table nor a task has it any more.
class File {
 public:
  // How a READ may be tried on the main thread.
  enum class Reads : uint8_t {
    kNowait,   // preadv2(RWF_NOWAIT)
    kMemory,   // tmpfs, which has no RWF_NOWAIT, but does not wait for a disk either
    kThreads,  // neither: FUSE or a network below, or a layer that may fall silent
  };

  // `ino`: its attributes are shown as they are, with this as st_ino; 0: they are JavaScript's to show.
  File(int fd, bool writable, uint64_t ino = 0, const Told& told = {});
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int fd() const { return fd_; }
  bool writable() const { return writable_; }
  uint64_t ino() const { return ino_; }
  const Told& told() const { return told_; }
  // Whether it is still what the kernel was told of. What was read before this was asked is so, too.
  bool unchanged() const;
  // Whether its filesystem may fall silent (patience.h): what would block has threads of its own, and WRITEs do not even try.
  bool far() const { return far_; }

  // Of a mount with a size limit: where WRITEs are noted. Before the first of them.
  void charge(std::shared_ptr<Account> account, uint64_t nodeid) {
    account_ = std::move(account);
    nodeid_ = nodeid;
  }
  Account* account() const { return account_.get(); }
  uint64_t nodeid() const { return nodeid_; }

  // Main thread only.
  Reads reads = Reads::kNowait;
  // Whether READs from now on leave the access time alone, as the descriptor that they come from wants it (O_NOATIME).
  void without_atime(bool on);

 private:
  const int fd_;
  const bool writable_;
  const uint64_t ino_;
  const Told told_;
  const bool far_;
  bool without_atime_ = false;
  std::shared_ptr<Account> account_;
  uint64_t nodeid_ = 0;
};

// nodeid -> File, least recently used first. Pinned files are in the table but not in the order.
class FileTable {
 public:
  FileTable() = default;
  FileTable(const FileTable&) = delete;
  FileTable& operator=(const FileTable&) = delete;

  void put(uint64_t nodeid, std::shared_ptr<File> file);
  bool remove(uint64_t nodeid);
  // The file, which becomes the most recently used; or nullptr.
  const std::shared_ptr<File>* find(uint64_t nodeid);
  // The same without touching the order.
  const File* peek(uint64_t nodeid) const;
  bool pin(uint64_t nodeid, bool on);
  // From now on at most so many are open, or a few more: the least recently used are closed. How many that were.
  size_t keep(size_t max);
  size_t size() const { return slots_.size(); }
  void clear();

 private:
  struct Slot {
    uint64_t nodeid = 0;
    std::shared_ptr<File> file;
    bool pinned = false;
    Slot* older = nullptr;
    Slot* newer = nullptr;
  };

  // Files beyond the limit that are put up with, so that closing is done rarely.
  static constexpr size_t kSlack = 64;

  size_t evict();
  void link(Slot* slot);
  void unlink(Slot* slot);

  // Nodes of an unordered_map stay where they are.
  std::unordered_map<uint64_t, Slot> slots_;
  Slot* oldest_ = nullptr;
  Slot* newest_ = nullptr;
  size_t most_ = SIZE_MAX - kSlack;
};

}  // namespace lamina
