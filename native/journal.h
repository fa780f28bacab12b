// The recovery journal's records (src/daemon/recovery/journal-log.ts has the format), and what else a successor is to find of an inode
// that is made without JavaScript.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace lamina {

struct JournalHead {
  uint32_t kind;
  uint32_t bytes;
  uint32_t sum;
  uint32_t nlookup;
  double ino;
  double nodeid;
  double other;
  uint32_t small;
  uint32_t text;
};
static_assert(sizeof(JournalHead) == 48);
static_assert(offsetof(JournalHead, nodeid) == 24);

// In `kind`, beside it: upper has certainly none of this inode.
inline constexpr uint32_t kJournalBelow = 0x40000000;

// One half of the journal.
struct JournalHalf {
  uint8_t* records = nullptr;
  uint32_t size = 0;
  uint32_t* tail = nullptr;   // bytes of it that count
  uint32_t* waste = nullptr;  // bytes of what may say nothing any more
  uint32_t* lost = nullptr;   // 1: it has run over
  uint32_t inode = 0;         // records of this kind are no waste when they are written

  // Where the text of the next record goes, of `length` bytes and a NUL; nullptr: there is no room.
  uint8_t* room(size_t length);
  // With the text in its place: the record's place in this half, never 0. A process that is killed in here leaves the tail where it
  // was: what was written behind it is not seen.
  uint32_t append(JournalHead head, size_t length);

 private:
  uint32_t next() const { return *tail == 0 ? 8 : *tail; }
};

// What StateJournal (src/daemon/recovery/state-journal.ts) stores for a LOOKUP or CREATE that makes an inode, in the same order.
struct IssueJournal {
  JournalHalf halves[2];
  uint32_t* half = nullptr;        // which one counts
  double* newest = nullptr;        // the last nodeid that was given out
  uint32_t* forgotten = nullptr;   // entries of the last FORGET that were carried out
  uint32_t* serving = nullptr;     // 1: `request` is the one being served
  uint32_t* references = nullptr;  // how many its answer gives to the kernel
  uint32_t* said = nullptr;        // what it is about to change
  uint8_t* request = nullptr;
  double* first_reference = nullptr;  // nodeid, and how many there are with this one
  double* said_time = nullptr;        // milliseconds since 1970

  // REQUEST_ROOM and SAID.changing in src/daemon/recovery/memory.ts.
  static constexpr size_t kRequestRoom = 2048;
  static constexpr uint32_t kChanging = 1;

  // This request is being served, of which a successor is to see `size` bytes: nothing is changed by it so far, and of what was served
  // before nothing is left to do.
  void begin(const uint8_t* frame, size_t size) const;
  // What it asks for is made next.
  void changing() const;
  // It is answered.
  void changed() const { *said = 0; }
  // The record's place. 0: the journal has run over. `below`: upper certainly has none of it.
  uint32_t issue(uint64_t nodeid, uint64_t directory, uint32_t type, uint64_t ino, std::string_view name, bool below) const;
};

}  // namespace lamina
