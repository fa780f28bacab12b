// LOOKUP without JavaScript. What that is, and why it is right: names.h.
#include "names.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "creator.h"
#include "fuse-attr.h"
#include "patience.h"
#include "stamp.h"

namespace lamina {
namespace {

constexpr std::string_view kMarkerPrefix = ".wh.";
constexpr size_t kMostName = 255;
// Of the names that are known in one directory.
constexpr size_t kMostSlots = size_t{1} << 16;

uint32_t hash_of(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  const auto folded = static_cast<uint32_t>(hash ^ (hash >> 32));
  return folded == 0 ? 1 : folded;
}

// The name that a LOOKUP asks for, or another request `args` bytes further on; empty where the frame has none.
std::string_view name_of(const uint8_t* frame, size_t size, size_t args = 0) {
  const size_t at = sizeof(abi::fuse_in_header) + args;
  if (size <= at) return {};
  const auto* name = reinterpret_cast<const char*>(frame + at);
  const size_t length = strnlen(name, size - at);
  return length == size - at ? std::string_view{} : std::string_view{name, length};
}

// Not a name that only JavaScript understands, or refuses.
bool is_plain(std::string_view name) {
  return !name.empty() && name.size() <= kMostName && name != "." && name != ".." &&
         name.substr(0, kMarkerPrefix.size()) != kMarkerPrefix && name.find('/') == std::string_view::npos;
}

// A whole request that was not sent before, to a daemon that died: what that did of it is known to JavaScript.
bool is_new(const abi::fuse_in_header& header, size_t size) {
  return header.len == size && header.total_extlen == 0 && (header.unique & abi::FUSE_UNIQUE_RESEND) == 0;
}

int open_beneath(int dirfd, const char* name, uint64_t flags) {
  struct open_how how = {};
  how.flags = flags | O_RDONLY | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  return static_cast<int>(syscall(SYS_openat2, dirfd, name, &how, sizeof how));
}

}  // namespace

// ---- the names that are known

bool Names::Set::has(uint32_t hash) const {
  if (slots_.empty()) return false;
  const size_t mask = slots_.size() - 1;
  for (size_t at = hash & mask; slots_[at] != 0; at = (at + 1) & mask) {
    if (slots_[at] == hash) return true;
  }
  return false;
}

bool Names::Set::add(uint32_t hash) {
  if (has(hash)) return true;
  if ((count_ + 1) * 4 > slots_.size() * 3) {
    const size_t size = slots_.empty() ? 64 : slots_.size() * 2;
    if (size > kMostSlots) return false;
    std::vector<uint32_t> old(size);
    old.swap(slots_);
    count_ = 0;
    for (const uint32_t each : old) {
      if (each != 0) put(each);
    }
  }
  put(hash);
  return true;
}

void Names::Set::put(uint32_t hash) {
  const size_t mask = slots_.size() - 1;
  size_t at = hash & mask;
  while (slots_[at] != 0) at = (at + 1) & mask;
  slots_[at] = hash;
  count_++;
}

// ---- directories

Names::Names() : shared_(Memory::map((kFirst + kMostIssued * kWords) * sizeof(double))) {}

Names::~Names() {
  for (Directory& each : directories_) clear(&each);
}

Names::Directory* Names::find(uint64_t nodeid) {
  // 0 is nobody's, and stands for an empty place.
  for (size_t i = 0; i < nodeids_.size() && nodeid != 0; i++) {
    if (nodeids_[i] == nodeid) return &directories_[i];
  }
  return nullptr;
}

void Names::forgotten(const uint8_t* frame, size_t size) {
  abi::fuse_in_header header;
  if (size < sizeof header) return;
  memcpy(&header, frame, sizeof header);
  if (header.opcode == abi::FUSE_FORGET) return drop(header.nodeid);
  abi::fuse_forget_one one;
  for (size_t at = sizeof header + sizeof(abi::fuse_batch_forget_in); at + sizeof one <= size; at += sizeof one) {
    memcpy(&one, frame + at, sizeof one);
    drop(one.nodeid);
  }
}

Names::Directory* Names::place_for(size_t reals) {
  const size_t place = next_++ % directories_.size();
  clear(&directories_[place]);
  // Those that were followed first make room.
  for (size_t i = next_; descriptors_ + reals > kMostDescriptors; i++) clear(&directories_[i % directories_.size()]);
  return &directories_[place];
}

void Names::clear(Directory* directory) {
  for (size_t i = 0; i < directory->count; i++) close(directory->reals[i].fd);
  descriptors_ -= directory->count;
  nodeids_[place_of(*directory)] = 0;
  *directory = Directory{};
}

void Names::drop(uint64_t nodeid) {
  if (Directory* directory = find(nodeid)) clear(directory);
}

void Names::follow(uint64_t nodeid, const std::array<Real, kMostReals>& reals, size_t count,
                   std::optional<std::string_view> known, const Rules& rules) {
  rules_ = rules;
  for (size_t i = 0; i < count; i++) {
    // Asking a filesystem that may fall silent is for JavaScript, which can put the request off.
    if (remote_of(reals[i].fd) != nullptr) return;
  }
  if (Directory* const known_already = find(nodeid)) {
    if (!known_already->only_missing && known_already->count == count) {
      // What is known in it is exact, but for names that were forgotten; and markers may have been looked for since.
      for (size_t i = 0; i < count; i++) known_already->reals[i].markers = reals[i].markers;
      if (known.has_value()) know(known_already, *known);
      return;
    }
    clear(known_already);
  }
  Directory* const directory = place_for(count);
  nodeids_[place_of(*directory)] = nodeid;
  directory->id = ++last_id_;
  for (size_t i = 0; i < count; i++) {
    Real real = reals[i];
    struct statx st;
    real.fd = fcntl(real.fd, F_DUPFD_CLOEXEC, 3);
    if (real.fd < 0) return clear(directory);
    directory->reals[directory->count++] = real;
    descriptors_++;
    if (statx(real.fd, "", AT_EMPTY_PATH, STATX_TYPE, &st) != 0) return clear(directory);
    directory->reals[i].dev_major = st.stx_dev_major;
    directory->reals[i].dev_minor = st.stx_dev_minor;
  }
  directory->only_missing = !known.has_value();
  if (known.has_value()) know(directory, *known);
}

void Names::know(Directory* directory, std::string_view names) {
  directory->known = Set{};
  while (!names.empty()) {
    const size_t end = names.find('\0');
    if (!directory->known.add(hash_of(names.substr(0, end)))) directory->only_missing = true;
    names.remove_prefix(end == std::string_view::npos ? names.size() : end + 1);
  }
}

// ---- answers

std::optional<Names::Reply> Names::answer(const uint8_t* frame, size_t size) {
  abi::fuse_in_header header;
  if (size < sizeof header) return std::nullopt;
  memcpy(&header, frame, sizeof header);
  if (header.opcode != abi::FUSE_LOOKUP || !is_new(header, size)) return std::nullopt;
  Directory* const directory = find(header.nodeid);
  const std::string_view name = name_of(frame, size);
  if (directory == nullptr || !is_plain(name)) return std::nullopt;
  // A disk may be asked from here on, and not answer.
  if (journal_.has_value()) journal_->begin(frame, sizeof header);
  bool markers = false;
  for (size_t i = 0; i < directory->count; i++) {
    const Real& real = directory->reals[i];
    struct statx st;
    if (statx(real.fd, name.data(), AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, &st) != 0) {
      if (errno != ENOENT) return std::nullopt;
      markers = markers || real.markers;
      continue;
    }
    if (S_ISCHR(st.stx_mode) && st.stx_rdev_major == 0 && st.stx_rdev_minor == 0) return missing(header.unique);
    if (real.upper || markers) return std::nullopt;
    return issue(directory, i, st, name, header.unique);
  }
  return missing(header.unique);
}

std::optional<Names::Reply> Names::missing(uint64_t unique) {
  answered_++;
  constexpr size_t length = sizeof reply_.header + sizeof reply_.entry;
  reply_.header = {length, 0, unique};
  reply_.entry = {};
  reply_.entry.entry_valid = rules_.valid;
  reply_.entry.entry_valid_nsec = rules_.valid_nsec;
  return Reply{&reply_, length};
}

bool Names::shows(const Real& real, const struct statx& st) {
  return st.stx_ino < real.ino_limit && st.stx_dev_major == real.dev_major && st.stx_dev_minor == real.dev_minor;
}

std::optional<Names::Reply> Names::issue(Directory* directory, size_t at, const struct statx& st, std::string_view name,
                                         uint64_t unique) {
  const Real& real = directory->reals[at];
  const uint32_t hash = hash_of(name);
  if (directory->only_missing || issued_count() == kMostIssued || !(S_ISREG(st.stx_mode) || S_ISLNK(st.stx_mode)) ||
      (rules_.links_apart && st.stx_nlink > 1) || !shows(real, st) || directory->known.has(hash)) {
    return std::nullopt;
  }
  if (!directory->known.add(hash)) {
    directory->only_missing = true;
    return std::nullopt;
  }
  answered_++;
  const uint64_t nodeid = number(*directory, at, st, name);
  if (S_ISREG(st.stx_mode)) put(*directory, nodeid, at, name, real.ino_base + st.stx_ino, {stamp_of(st), st.stx_size});
  constexpr size_t length = sizeof reply_.header + sizeof reply_.entry;
  reply_.header = {length, 0, unique};
  reply_.entry = entry_of(nodeid, st, real);
  return Reply{&reply_, length, nodeid, S_ISREG(st.stx_mode) && st.stx_size > 0 ? nodeid : 0};
}

uint64_t Names::number(const Directory& directory, size_t at, const struct statx& st, std::string_view name) {
  const Real& real = directory.reals[at];
  const uint64_t ino = real.ino_base + st.stx_ino;
  const double nodeid = ++doubles()[kNewest];
  double* const words = words_of(issued_count());
  words[kNodeid] = nodeid;
  words[kDirectory] = static_cast<double>(nodeid_of(directory));
  words[kBelow] = real.upper ? -1 : static_cast<double>(at - (directory.reals[0].upper ? 1 : 0));
  words[kIno] = static_cast<double>(ino);
  words[kOwnIno] = static_cast<double>(st.stx_ino);
  words[kType] = st.stx_mode & S_IFMT;
  words[kReferences] = 1;
  words[kSlot] = 0;
  words[kStamp] = stamp_of(st);
  words[kSize] = static_cast<double>(st.stx_size);
  names_.append(name).push_back('\0');
  doubles()[kCount] += 1;
  if (journal_.has_value()) {
    words[kSlot] = journal_->issue(static_cast<uint64_t>(nodeid), nodeid_of(directory), st.stx_mode & S_IFMT, ino, name, !real.upper);
  }
  return static_cast<uint64_t>(nodeid);
}

abi::fuse_entry_out Names::entry_of(uint64_t nodeid, const struct statx& st, const Real& real) const {
  abi::fuse_entry_out entry{};
  entry.nodeid = nodeid;
  entry.entry_valid = entry.attr_valid = rules_.valid;
  entry.entry_valid_nsec = entry.attr_valid_nsec = rules_.valid_nsec;
  entry.attr = attr_of(st, real.ino_base + st.stx_ino);
  return entry;
}

void Names::sent(uint64_t nodeid, bool taken) {
  if (nodeid == 0) return;
  if (journal_.has_value()) journal_->changed();
  if (taken || issued_count() == 0) return;
  double* const words = words_of(issued_count() - 1);
  if (words[kNodeid] == static_cast<double>(nodeid)) words[kReferences] = 0;
}

// ---- new files

std::optional<Names::Created> Names::create(const uint8_t* frame, size_t size) {
  abi::fuse_in_header header;
  abi::fuse_create_in in;
  if (size < sizeof header + sizeof in) return std::nullopt;
  memcpy(&header, frame, sizeof header);
  if (header.opcode != abi::FUSE_CREATE || !is_new(header, size)) return std::nullopt;
  memcpy(&in, frame + sizeof header, sizeof in);
  Directory* const directory = find(header.nodeid);
  const std::string_view name = name_of(frame, size, sizeof in);
  if (directory == nullptr || !is_plain(name)) return std::nullopt;
  const Real& real = directory->reals[0];
  if (!real.upper || real.markers || directory->only_missing || issued_count() == kMostIssued ||
      !directory->known.add(hash_of(name))) {
    return std::nullopt;
  }
  if (journal_.has_value()) {
    journal_->begin(frame, size);
    journal_->changing();
  }
  int fd = -1;
  {
    const AsCreator creator(header.uid, header.gid, in.umask);
    constexpr int flags = O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC;
    if (creator.ok()) fd = openat(real.fd, name.data(), flags, in.mode & 07777);
  }
  if (fd < 0) return std::nullopt;
  struct statx st;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &st) != 0 || !shows(real, st)) {
    // JavaScript makes it anew, and shows it as it has to be.
    unlinkat(real.fd, name.data(), 0);
    close(fd);
    return std::nullopt;
  }
  answered_++;
  const uint64_t nodeid = number(*directory, 0, st, name);
  reply_.header = {sizeof reply_, 0, header.unique};
  reply_.entry = entry_of(nodeid, st, real);
  // The page cache belongs to the inode, not to one opening of it.
  reply_.open = {0, abi::FOPEN_KEEP_CACHE, 0};
  return Created{{&reply_, sizeof reply_, nodeid}, fd, real.ino_base + st.stx_ino, st.stx_mode};
}

// ---- what JavaScript answers

void Names::asked(const uint8_t* frame, size_t size) {
  abi::fuse_in_header header;
  if (size < sizeof header) return;
  memcpy(&header, frame, sizeof header);
  if (header.opcode != abi::FUSE_LOOKUP && header.opcode != abi::FUSE_READDIRPLUS) return;
  Directory* const directory = find(header.nodeid);
  if (directory == nullptr || directory->only_missing) return;
  // What it is answered is not looked at: it may be answered later.
  if (header.opcode == abi::FUSE_READDIRPLUS || !directory->known.add(hash_of(name_of(frame, size)))) {
    directory->only_missing = true;
    directory->known = Set{};
  }
}

// ---- files of lower layers

void Names::put(const Directory& directory, uint64_t nodeid, size_t real, std::string_view name, uint64_t ino, const Told& told) {
  if (lower_.empty()) lower_.resize(kMostLower);
  lower_[nodeid % kMostLower] = {nodeid, directory.id, ino, told, place_of(directory), static_cast<uint8_t>(real), std::string(name)};
}

void Names::tell(uint64_t nodeid, uint64_t directory, size_t below, std::string_view name, uint64_t ino, const Told& told) {
  const Directory* const in = find(directory);
  if (in == nullptr) return;
  const size_t real = below + (in->reals[0].upper ? 1 : 0);
  if (real < in->count) put(*in, nodeid, real, name, ino, told);
}

void Names::untell(uint64_t nodeid) {
  if (!lower_.empty() && lower_[nodeid % kMostLower].nodeid == nodeid) lower_[nodeid % kMostLower] = {};
}

std::optional<Names::Lower> Names::lower(uint64_t nodeid) const {
  if (lower_.empty() || nodeid == 0) return std::nullopt;
  const LowerFile& file = lower_[nodeid % kMostLower];
  if (file.nodeid != nodeid) return std::nullopt;
  const Directory& in = directories_[file.place];
  if (in.id != file.directory) return std::nullopt;
  return Lower{in.reals[file.real].fd, file.name.c_str(), file.ino, file.told};
}

int Names::open(const Lower& file) {
  int fd = open_beneath(file.dirfd, file.name, O_NOATIME);
  // O_NOATIME is for owners and CAP_FOWNER only.
  if (fd < 0 && errno == EPERM) fd = open_beneath(file.dirfd, file.name, 0);
  if (fd < 0) return fd;
  struct statx st;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &st) == 0 && stamp_of(st) == file.told.stamp) return fd;
  // Another file, or another content: JavaScript tells the kernel first.
  close(fd);
  return -1;
}

// ---- what is issued

std::string Names::take() {
  std::string names;
  names.swap(names_);
  doubles()[kCount] = 0;
  return names;
}

}  // namespace lamina
