#include "file-attributes.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cstring>

#include "fuse-attr.h"
#include "stamp.h"
#include "suidgid.h"

namespace lamina {
namespace {

// Changes that are made here. Beside them a SETATTR may name a handle, which changes nothing.
constexpr uint32_t kChanges = abi::FATTR_MODE | abi::FATTR_UID | abi::FATTR_GID | abi::FATTR_ATIME | abi::FATTR_MTIME |
                              abi::FATTR_ATIME_NOW | abi::FATTR_MTIME_NOW;
constexpr uint32_t kTimes = abi::FATTR_ATIME | abi::FATTR_MTIME;
constexpr uint32_t kKnown = kChanges | abi::FATTR_FH | abi::FATTR_LOCKOWNER | abi::FATTR_KILL_SUIDGID;
constexpr mode_t kModeBits = 07777;

timespec time_of(bool given, bool now, uint64_t sec, uint32_t nsec) {
  if (!given) return {0, UTIME_OMIT};
  if (now) return {0, UTIME_NOW};
  return {static_cast<time_t>(sec), static_cast<long>(nsec)};
}

// A new owner of a file with setgid and without group execution: who gives it decides whether that stays, which JavaScript looks at.
bool needs_giver(int fd, const abi::fuse_setattr_in& in) {
  struct stat st;
  return (in.valid & (abi::FATTR_UID | abi::FATTR_GID)) != 0 && (in.valid & abi::FATTR_MODE) == 0 &&
         (fstat(fd, &st) != 0 || ((st.st_mode & S_ISGID) != 0 && (st.st_mode & S_IXGRP) == 0));
}

// Owner goes before mode, because chown clears setuid.
bool change(int fd, const abi::fuse_setattr_in& in, uint32_t pid) {
  if ((in.valid & (abi::FATTR_UID | abi::FATTR_GID)) != 0) {
    const uid_t uid = (in.valid & abi::FATTR_UID) != 0 ? in.uid : static_cast<uid_t>(-1);
    const gid_t gid = (in.valid & abi::FATTR_GID) != 0 ? in.gid : static_cast<gid_t>(-1);
    if (fchown(fd, uid, gid) != 0) return false;
  }
  if ((in.valid & abi::FATTR_MODE) != 0) {
    if (fchmod(fd, in.mode & kModeBits) != 0) return false;
  } else if ((in.valid & abi::FATTR_KILL_SUIDGID) != 0 && kill_suidgid(fd, static_cast<pid_t>(pid)) != 0) {
    // What chown(2) takes away: here also where the filesystem has not.
    return false;
  }
  if ((in.valid & kTimes) == 0) return true;
  const timespec times[2] = {
      time_of((in.valid & abi::FATTR_ATIME) != 0, (in.valid & abi::FATTR_ATIME_NOW) != 0, in.atime, in.atimensec),
      time_of((in.valid & abi::FATTR_MTIME) != 0, (in.valid & abi::FATTR_MTIME_NOW) != 0, in.mtime, in.mtimensec),
  };
  return futimens(fd, times) == 0;
}

// Whose attributes they are, as statx(2) takes it, and the st_ino that is shown.
struct Object {
  int dirfd;
  const char* name;
  uint64_t ino;
  double stamp;
};

std::optional<Object> object_of(uint64_t nodeid, const File* file, const Names& names) {
  if (file != nullptr) {
    // Where the filesystem may fall silent JavaScript can put the request off.
    return file->ino() == 0 || file->far() ? std::nullopt : std::optional(Object{file->fd(), "", file->ino(), file->told().stamp});
  }
  const auto lower = names.lower(nodeid);
  return lower.has_value() ? std::optional(Object{lower->dirfd, lower->name, lower->ino, lower->told.stamp}) : std::nullopt;
}

}  // namespace

std::optional<FileAttributes::Reply> FileAttributes::answer(const FileTable& files, const Names& names, const uint8_t* frame,
                                                            size_t size) {
  abi::fuse_in_header header;
  if (!shows_ || size < sizeof header) return std::nullopt;
  memcpy(&header, frame, sizeof header);
  const uint32_t opcode = header.opcode;
  if ((opcode != abi::FUSE_GETATTR && opcode != abi::FUSE_SETATTR && opcode != abi::FUSE_STATX) || header.len != size ||
      header.total_extlen != 0) {
    return std::nullopt;
  }
  const File* const file = files.peek(header.nodeid);
  const auto object = object_of(header.nodeid, file, names);
  if (!object.has_value()) return std::nullopt;
  if (opcode == abi::FUSE_SETATTR) {
    abi::fuse_setattr_in in;
    if (file == nullptr || !file->writable() || size < sizeof header + sizeof in) return std::nullopt;
    memcpy(&in, frame + sizeof header, sizeof in);
    // Nothing at all is chown(-1, -1), which takes setuid.
    if ((in.valid & ~kKnown) != 0 || (in.valid & kChanges) == 0 || needs_giver(file->fd(), in) || !change(file->fd(), in, header.pid)) return std::nullopt;
  }
  struct statx st;
  const bool birth = opcode == abi::FUSE_STATX;
  const uint32_t mask = birth ? STATX_BASIC_STATS | STATX_BTIME : STATX_BASIC_STATS;
  if (statx(object->dirfd, object->name, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, mask, &st) != 0) {
    return std::nullopt;
  }
  // A lower file that has changed: the kernel has to let go of its data before it hears of that.
  if (object->stamp != 0 && stamp_of(st) != object->stamp) return std::nullopt;
  answered_++;
  const size_t length = sizeof reply_.header + (birth ? sizeof reply_.statx : sizeof reply_.attr);
  reply_.header = {static_cast<uint32_t>(length), 0, header.unique};
  if (birth) {
    reply_.statx = {valid_, valid_nsec_, 0, {}, statx_of(st, object->ino)};
  } else {
    reply_.attr = {valid_, valid_nsec_, 0, attr_of(st, object->ino)};
  }
  return Reply{&reply_, length};
}

}  // namespace lamina
