// LOOKUP and CREATE without JavaScript, in directories that JavaScript has said the rules of: what a name stands for is seen by asking each real
// directory in turn, as long as none has it; and what is found is shown as it is.
//
// Answered are names that no real directory has, and those that a whiteout hides; and files and symlinks of a lower layer, if nothing
// that JavaScript would have to look at can hide or change them. An inode that is made so is *issued*: JavaScript is told of it before
// it is told of anything else, and has its table complete whenever it runs. Where it lies is kept: its data is opened and its attributes are
// read here, too, until JavaScript opens it or says that something has become of it; and so are those of files that JavaScript tells.
//
// A regular file is made in the place that it has in upper, if upper has the directory and no marker could hide what lies below the new name: by one
// system call, under the ids and the umask of who asks, as JavaScript does it. It is issued in the same way, and open for READ and WRITE.
//
// It must not give one object two inodes. So the names that are known in a directory are kept (as hashes: a name that only looks known
// is JavaScript's): those that it had when the rules were said, and those that were looked up since. All other ways in which a
// known name can come into a directory put it into upper, where what is found is left to JavaScript; but for READDIRPLUS, which
// ends it for that directory.
//
// Threads: main thread only.
#pragma once

#include <sys/stat.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "file-table.h"
#include "fuse-abi.h"
#include "journal.h"
#include "memory.h"

namespace lamina {

class Names {
 public:
  // One of the real directories that merge, top first.
  struct Real {
    int fd = -1;
    bool upper = false;
    // `.wh.` markers may be in it, which hide names of the directories below.
    bool markers = false;
    // st_ino is shown as it is with `ino_base` added, where it is below `ino_limit`.
    uint64_t ino_base = 0;
    uint64_t ino_limit = 0;
    uint32_t dev_major = 0;
    uint32_t dev_minor = 0;
  };
  static constexpr size_t kMostReals = 4;

  // How answers are to be made in all directories.
  struct Rules {
    uint64_t valid = 0;
    uint32_t valid_nsec = 0;
    // Files with several names are looked at by JavaScript.
    bool links_apart = false;
  };

  Names();
  ~Names();
  Names(const Names&) = delete;
  Names& operator=(const Names&) = delete;

  // False: no memory.
  bool made() const { return shared_ != nullptr; }
  // What JavaScript sees: doubles. The number of the newest inode, which both sides count up; how many were issued and not taken;
  // and of each the words of kWords.
  const std::shared_ptr<Memory>& shared() const { return shared_; }

  // A successor is to find there what is issued. It lives as long as this.
  void keep(const IssueJournal& journal) { journal_ = journal; }

  // From now on names in the directory are answered, until drop(). Descriptors are duplicated. `known`: names of inodes that JavaScript
  // has in it, each with a NUL behind it; none where they are too many: then only what is missing is answered.
  void follow(uint64_t nodeid, const std::array<Real, kMostReals>& reals, size_t count, std::optional<std::string_view> known,
              const Rules& rules);
  // What was said of it is true no longer.
  void drop(uint64_t nodeid);
  // The same for all in a FORGET or BATCH_FORGET.
  void forgotten(const uint8_t* frame, size_t size);
  // Descriptors that are held for it.
  size_t following() const { return descriptors_; }
  uint64_t answered() const { return answered_; }

  // The whole reply to a LOOKUP of `size` bytes; none where JavaScript has to be asked. The memory is valid until the next call.
  struct Reply {
    const void* data;
    size_t size;
    uint64_t nodeid = 0;  // of the inode that was issued; 0 none
    uint64_t file = 0;    // the same, of a file with data
  };
  std::optional<Reply> answer(const uint8_t* frame, size_t size);
  // A reply that issued this inode was sent, and taken by the kernel or not.
  void sent(uint64_t nodeid, bool taken);

  // The same for a CREATE: a regular file that was made in upper, open for reading and writing. The descriptor is the caller's. Where nothing
  // was made, in whatever way that failed, JavaScript has to be asked, and says why it cannot be.
  struct Created {
    Reply reply;
    int fd;
    uint64_t ino;
    mode_t mode;
  };
  std::optional<Created> create(const uint8_t* frame, size_t size);

  // A request that JavaScript is to answer.
  void asked(const uint8_t* frame, size_t size);

  // Regular files of lower layers that are as they were found: those that were issued, and those that JavaScript tells. Not symlinks: nothing is
  // registered for these, so nobody would say that they were copied up. The name is valid until the next call.
  struct Lower {
    int dirfd;
    const char* name;
    uint64_t ino;
    Told told;
  };
  std::optional<Lower> lower(uint64_t nodeid) const;
  // A file in the real directory `below` (0 is the topmost lower one) of a directory that is answered.
  void tell(uint64_t nodeid, uint64_t directory, size_t below, std::string_view name, uint64_t ino, const Told& told);
  // It is not any more, or JavaScript has opened it.
  void untell(uint64_t nodeid);
  // Its data, opened for reading, if it is what the kernel was told of; or -1.
  static int open(const Lower& file);

  // The names of what is issued, in the order of the shared words, each with a NUL behind it. It is JavaScript's from now on.
  std::string take();

 private:
  // Names that are known: hashes, 0 for none.
  class Set {
   public:
    // False: there is no more room.
    bool add(uint32_t hash);
    bool has(uint32_t hash) const;

   private:
    void put(uint32_t hash);
    std::vector<uint32_t> slots_;
    size_t count_ = 0;
  };

  struct Directory {
    uint64_t id = 0;   // of this use of the place
    size_t count = 0;  // of reals; 0: unused
    std::array<Real, kMostReals> reals;
    bool only_missing = false;
    Set known;
  };

  // What is at nodeid modulo kMostLower. Nodeids are counted up, so those in use together hardly ever share a place.
  struct LowerFile {
    uint64_t nodeid = 0;
    uint64_t directory = 0;  // the id of what is in the place
    uint64_t ino = 0;
    Told told;
    uint8_t place = 0;
    uint8_t real = 0;
    std::string name;
  };
  static constexpr size_t kMostLower = 16384;

  // Doubles of one that is issued: kBelow is which of the directory's lower ones has it, or -1 for upper; kOwnIno is its number in its own
  // filesystem; kReferences 1, or 0 where the kernel did not take it; kSlot where the journal has it, or 0; kStamp and kSize what the kernel was told.
  // src/fuse/transport-device.ts reads them.
  enum Word : size_t { kNodeid, kDirectory, kBelow, kIno, kOwnIno, kType, kReferences, kSlot, kStamp, kSize, kWords };
  static constexpr size_t kNewest = 0;
  static constexpr size_t kCount = 1;
  static constexpr size_t kFirst = 2;
  static constexpr size_t kMostIssued = 128;
  static constexpr size_t kMostDirectories = 128;
  static constexpr size_t kMostDescriptors = 128;
  static_assert(kMostDirectories <= 256 && kMostReals <= kMostDescriptors);

  double* doubles() const { return reinterpret_cast<double*>(shared_->data()); }
  double* words_of(size_t i) const { return doubles() + kFirst + i * kWords; }
  size_t issued_count() const { return static_cast<size_t>(doubles()[kCount]); }
  const Directory* find(uint64_t nodeid) const { return const_cast<Names*>(this)->find(nodeid); }
  Directory* find(uint64_t nodeid);
  void put(const Directory& directory, uint64_t nodeid, size_t real, std::string_view name, uint64_t ino, const Told& told);
  std::optional<Reply> missing(uint64_t unique);
  std::optional<Reply> issue(Directory* directory, size_t real, const struct statx& st, std::string_view name, uint64_t unique);
  // Whether what lies there can be shown with its own number.
  static bool shows(const Real& real, const struct statx& st);
  // Gives it the next nodeid, and writes down all that JavaScript and a successor are to know of it.
  uint64_t number(const Directory& directory, size_t real, const struct statx& st, std::string_view name);
  abi::fuse_entry_out entry_of(uint64_t nodeid, const struct statx& st, const Real& real) const;
  // An empty place, with room for that many descriptors.
  Directory* place_for(size_t reals);
  uint8_t place_of(const Directory& directory) const { return static_cast<uint8_t>(&directory - directories_.data()); }
  uint64_t nodeid_of(const Directory& directory) const { return nodeids_[place_of(directory)]; }
  void clear(Directory* directory);
  static void know(Directory* directory, std::string_view names);

  Rules rules_;
  std::optional<IssueJournal> journal_;
  std::array<Directory, kMostDirectories> directories_;
  std::array<uint64_t, kMostDirectories> nodeids_{};  // theirs, together since all are looked through; 0 where a place is empty
  size_t descriptors_ = 0;
  size_t next_ = 0;
  std::shared_ptr<Memory> shared_;
  std::string names_;             // of those that are issued
  std::vector<LowerFile> lower_;  // empty before the first
  uint64_t last_id_ = 0;
  uint64_t answered_ = 0;

  struct {
    abi::fuse_out_header header;
    abi::fuse_entry_out entry;
    abi::fuse_open_out open;  // of a CREATE only
  } reply_{};
};

}  // namespace lamina
