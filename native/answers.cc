// What requests are answered with, without JavaScript. What that is, and why it is right: answers.h.
#include "answers.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>

#include "fuse-attr.h"
#include "patience.h"

namespace lamina {
namespace {

// Names that the kernel and everyday tools ask each file for, though hardly any has them: the first write to a file, ls -l, cp -a. None
// that a layer's filesystem sets by itself on a file that is there (security.ima).
enum Name : uint8_t { kOther = 0, kCapability = 1, kSelinux = 2, kAccessAcl = 4, kDefaultAcl = 8 };

Name name_of(std::string_view name) {
  if (name == "security.capability") return kCapability;
  if (name == "security.selinux") return kSelinux;
  if (name == "system.posix_acl_access") return kAccessAcl;
  if (name == "system.posix_acl_default") return kDefaultAcl;
  return kOther;
}

template <typename T>
bool read_at(const uint8_t* frame, size_t size, size_t at, T* to) {
  if (at > size || size - at < sizeof *to) return false;
  memcpy(to, frame + at, sizeof *to);
  return true;
}

// The name that a GETXATTR asks for, from a frame that may have anything in it.
Name asked_name(const uint8_t* frame, size_t size) {
  constexpr size_t at = sizeof(abi::fuse_in_header) + sizeof(abi::fuse_getxattr_in);
  if (size <= at) return kOther;
  const auto* name = reinterpret_cast<const char*>(frame + at);
  const size_t length = strnlen(name, size - at);
  return length == size - at ? kOther : name_of({name, length});
}

}  // namespace

Answers::~Answers() {
  for (const Followed& each : directories_) {
    if (each.fd >= 0) close(each.fd);
  }
}

void Answers::asked(const uint8_t* frame, size_t size) {
  abi::fuse_in_header header;
  opcode_ = 0;
  if (!read_at(frame, size, 0, &header)) return;
  unique_ = header.unique;
  nodeid_ = header.nodeid;
  opcode_ = header.opcode;
  name_ = opcode_ == abi::FUSE_GETXATTR ? asked_name(frame, size) : kOther;
  if (opcode_ == abi::FUSE_FORGET) unfollow(nodeid_);
  if (opcode_ == abi::FUSE_BATCH_FORGET) {
    abi::fuse_forget_one one;
    size_t at = sizeof header + sizeof(abi::fuse_batch_forget_in);
    for (; read_at(frame, size, at, &one); at += sizeof one) unfollow(one.nodeid);
  }
}

void Answers::replied(const uint8_t* reply, size_t size) {
  abi::fuse_out_header header;
  // A reply that comes later is to another request than the one that is known here.
  if (opcode_ == 0 || !read_at(reply, size, 0, &header) || header.unique != unique_) return;
  const uint32_t opcode = opcode_;
  opcode_ = 0;
  constexpr size_t payload = sizeof header;
  if (opcode == abi::FUSE_GETXATTR) {
    if (header.error == -ENODATA && name_ != kOther) absent(nodeid_, name_);
    has_xattrs_ = header.error != -ENOSYS;
  } else if (opcode == abi::FUSE_CREATE || opcode == abi::FUSE_MKNOD) {
    abi::fuse_entry_out entry;
    if (header.error == 0 && read_at(reply, size, payload, &entry)) created(entry.nodeid);
  } else if (opcode == abi::FUSE_GETATTR) {
    abi::fuse_attr_out out;
    Followed* directory = followed(nodeid_);
    if (directory == nullptr || directory->known) return;
    if (header.error != 0 || !read_at(reply, size, payload, &out)) return unfollow(nodeid_);
    directory->ino = out.attr.ino;
    directory->attr_valid = out.attr_valid;
    directory->attr_valid_nsec = out.attr_valid_nsec;
    directory->known = true;
  }
}

void Answers::created(uint64_t nodeid) {
  // It has no capabilities until somebody gives it some, which is what its first write asks.
  if (has_xattrs_) absent(nodeid, kCapability);
}

std::optional<Answers::Reply> Answers::answer(const uint8_t* frame, size_t size) {
  abi::fuse_in_header header;
  if (!read_at(frame, size, 0, &header) || header.len != size) return std::nullopt;
  if (header.opcode == abi::FUSE_GETATTR) {
    const Followed* directory = followed(header.nodeid);
    if (directory == nullptr || !directory->known || !attributes(*directory, header.unique)) return std::nullopt;
    return Reply{&reply_, sizeof reply_};
  }
  if (header.opcode == abi::FUSE_GETXATTR && is_absent(header.nodeid, asked_name(frame, size))) {
    reply_.header = {sizeof reply_.header, -ENODATA, header.unique};
    return Reply{&reply_.header, sizeof reply_.header};
  }
  abi::fuse_release_in release;
  if (header.opcode == abi::FUSE_RELEASE && read_at(frame, size, sizeof header, &release) && release.fh == 0) {
    reply_.header = {sizeof reply_.header, 0, header.unique};
    return Reply{&reply_.header, sizeof reply_.header};
  }
  return std::nullopt;
}

// ---- attributes of directories

Answers::Followed* Answers::followed(uint64_t nodeid) {
  for (Followed& each : directories_) {
    if (each.fd >= 0 && each.nodeid == nodeid) return &each;
  }
  return nullptr;
}

size_t Answers::following() const {
  return static_cast<size_t>(
      std::count_if(directories_.begin(), directories_.end(), [](const Followed& each) { return each.fd >= 0; }));
}

void Answers::follow(uint64_t nodeid, int fd, bool one_link) {
  // Asking a filesystem that may fall silent is for JavaScript, which can put the request off.
  if (followed(nodeid) != nullptr || remote_of(fd) != nullptr) return;
  const int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (own < 0) return;
  Followed& place = directories_[next_++ % directories_.size()];
  if (place.fd >= 0) close(place.fd);
  place = Followed{nodeid, own, one_link};
}

void Answers::unfollow(uint64_t nodeid) {
  Followed* directory = followed(nodeid);
  if (directory == nullptr) return;
  close(directory->fd);
  *directory = Followed{};
}

bool Answers::attributes(const Followed& of, uint64_t unique) {
  struct statx st;
  if (statx(of.fd, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, &st) != 0) return false;
  reply_.header = {sizeof reply_, 0, unique};
  reply_.attr = {of.attr_valid, of.attr_valid_nsec, 0, attr_of(st, of.ino)};
  if (of.one_link) reply_.attr.attr.nlink = 1;
  return true;
}

// ---- attributes (xattr) that are not there

uint64_t* Answers::slot(uint64_t nodeid) const {
  return reinterpret_cast<uint64_t*>(absent_->data()) + nodeid % kSlots;
}

bool Answers::is_absent(uint64_t nodeid, uint8_t name) const {
  if (absent_ == nullptr || name == kOther) return false;
  const uint64_t known = *slot(nodeid);
  return known >> 8 == nodeid && (known & name) != 0;
}

void Answers::absent(uint64_t nodeid, uint8_t name) {
  if (absent_ == nullptr) absent_ = Memory::map(kSlots * sizeof(uint64_t));
  if (absent_ == nullptr || nodeid >> 56 != 0) return;
  uint64_t* const known = slot(nodeid);
  *known = *known >> 8 == nodeid ? *known | name : nodeid << 8 | name;
}

void Answers::changed(uint64_t nodeid) {
  unfollow(nodeid);
  if (absent_ != nullptr && *slot(nodeid) >> 8 == nodeid) *slot(nodeid) = 0;
}

// ---- FORGET

void Answers::keep_forgets(std::shared_ptr<Memory> memory) {
  kept_forgets_ = std::move(memory);
  forgets_ = reinterpret_cast<Forgets*>(kept_forgets_->data());
}

bool Answers::forget(const uint8_t* frame, size_t size) {
  abi::fuse_in_header header;
  if (!read_at(frame, size, 0, &header) || header.len != size) return false;
  constexpr size_t body = sizeof header;
  const size_t before = forget_count();
  size_t count = 1;
  if (header.opcode == abi::FUSE_FORGET) {
    abi::fuse_forget_in in;
    if (!read_at(frame, size, body, &in) || before == kMostForgets) return false;
    forgets_->entries[before] = {header.nodeid, in.nlookup};
  } else {
    abi::fuse_batch_forget_in in;
    if (!read_at(frame, size, body, &in) || in.count > kMostForgets - before) return false;
    if (size - body - sizeof in < in.count * sizeof(abi::fuse_forget_one)) return false;
    count = in.count;
    memcpy(&forgets_->entries[before], frame + body + sizeof in, count * sizeof(abi::fuse_forget_one));
  }
  for (size_t i = before; i < before + count; i++) unfollow(forgets_->entries[i].nodeid);
  __atomic_store_n(&forgets_->state, header.unique << 16 | (before + count), __ATOMIC_RELEASE);
  return true;
}

size_t Answers::forgotten(uint8_t* frame) {
  const size_t count = forget_count();
  const size_t entries = count * sizeof(abi::fuse_forget_one);
  abi::fuse_in_header header{};
  abi::fuse_batch_forget_in in{};
  const size_t size = sizeof header + sizeof in + entries;
  header.len = static_cast<uint32_t>(size);
  header.unique = forgets_->state >> 16;
  in.count = static_cast<uint32_t>(count);
  auto* const opcode = reinterpret_cast<uint32_t*>(frame + offsetof(abi::fuse_in_header, opcode));
  // No request until all of it is there.
  __atomic_store_n(opcode, 0, __ATOMIC_RELAXED);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  memcpy(frame, &header, sizeof header);
  memcpy(frame + sizeof header, &in, sizeof in);
  memcpy(frame + sizeof header + sizeof in, forgets_->entries.data(), entries);
  __atomic_store_n(opcode, abi::FUSE_BATCH_FORGET, __ATOMIC_RELEASE);
  __atomic_store_n(&forgets_->state, 0, __ATOMIC_RELEASE);
  return size;
}

}  // namespace lamina
