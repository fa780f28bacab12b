#include "file-table.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "patience.h"
#include "stamp.h"

namespace lamina {

File::File(int fd, bool writable, uint64_t ino, const Told& told)
    : fd_(fd), writable_(writable), ino_(ino), told_(told), far_(remote_of(fd) != nullptr) {
  // RWF_NOWAIT waits as well where it begins to read ahead.
  if (far_) reads = Reads::kThreads;
}

File::~File() { close_fd(fd_); }

void File::without_atime(bool on) {
  if (on == without_atime_) return;
  without_atime_ = on;
  const int flags = fcntl(fd_, F_GETFL);
  // For owners and CAP_FOWNER only; those of lower layers have it already. O_DIRECT and the like stay.
  if (flags >= 0 && writable_) fcntl(fd_, F_SETFL, on ? flags | O_NOATIME : flags & ~O_NOATIME);
}

bool File::unchanged() const {
  struct statx st;
  return told_.stamp == 0 || statx(fd_, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &st) != 0 || stamp_of(st) == told_.stamp;
}

void FileTable::link(Slot* slot) {
  slot->older = newest_;
  slot->newer = nullptr;
  (newest_ != nullptr ? newest_->newer : oldest_) = slot;
  newest_ = slot;
}

void FileTable::unlink(Slot* slot) {
  (slot->older != nullptr ? slot->older->newer : oldest_) = slot->newer;
  (slot->newer != nullptr ? slot->newer->older : newest_) = slot->older;
  slot->older = slot->newer = nullptr;
}

void FileTable::put(uint64_t nodeid, std::shared_ptr<File> file) {
  const auto [at, added] = slots_.try_emplace(nodeid);
  Slot* slot = &at->second;
  slot->file = std::move(file);
  if (added) {
    slot->nodeid = nodeid;
    link(slot);
  } else if (!slot->pinned && slot != newest_) {
    unlink(slot);
    link(slot);
  }
  if (slots_.size() > most_ + kSlack) evict();
}

bool FileTable::remove(uint64_t nodeid) {
  const auto at = slots_.find(nodeid);
  if (at == slots_.end()) return false;
  if (!at->second.pinned) unlink(&at->second);
  slots_.erase(at);
  return true;
}

const std::shared_ptr<File>* FileTable::find(uint64_t nodeid) {
  const auto at = slots_.find(nodeid);
  if (at == slots_.end()) return nullptr;
  Slot* slot = &at->second;
  if (!slot->pinned && slot != newest_) {
    unlink(slot);
    link(slot);
  }
  return &slot->file;
}

const File* FileTable::peek(uint64_t nodeid) const {
  const auto at = slots_.find(nodeid);
  return at == slots_.end() ? nullptr : at->second.file.get();
}

bool FileTable::pin(uint64_t nodeid, bool on) {
  const auto at = slots_.find(nodeid);
  if (at == slots_.end()) return false;
  Slot* slot = &at->second;
  if (slot->pinned != on) {
    slot->pinned = on;
    if (on) {
      unlink(slot);
    } else {
      link(slot);
    }
  }
  return true;
}

size_t FileTable::keep(size_t max) {
  most_ = std::min(max, SIZE_MAX - kSlack);
  return evict();
}

size_t FileTable::evict() {
  size_t closed = 0;
  while (slots_.size() > most_ && oldest_ != nullptr) {
    remove(oldest_->nodeid);
    closed++;
  }
  return closed;
}

void FileTable::clear() {
  slots_.clear();
  oldest_ = newest_ = nullptr;
}

}  // namespace lamina
