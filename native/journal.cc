// The recovery journal's records (src/daemon/recovery/journal-log.ts has the format), written in one call. Written in JavaScript, by
// loops over bytes and words, they cost a new inode 2 to 5 us until TurboFan had compiled that, which is as long as most mounts see new
// files; so 0.7 to 1.4, with all else that the journal is told of it.
#include "journal.h"

#include <time.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <new>

#include "args.h"
#include "fuse-abi.h"
#include "register.h"

namespace lamina {
namespace {

// Word index of the first field that the sum is over: what comes before changes in place, or is in it from the start.
constexpr uint32_t kSummed = offsetof(JournalHead, nodeid) / 4;
constexpr uint32_t kForgottenAll = 0xffffffff;

struct Writer {
  napi_ref memory = nullptr;  // keeps the ArrayBuffer
  JournalHalf half;
};

// The order of stores is what a death between them is understood by; on the machine it is that of the program.
void then() { std::atomic_signal_fence(std::memory_order_seq_cst); }

size_t bytes_of(size_t length) { return (sizeof(JournalHead) + length + 7) & ~size_t{7}; }

// Of a record whose head is complete but for the sum.
uint32_t sum_of(const uint8_t* record, uint32_t bytes, uint32_t kind) {
  uint32_t hash = bytes ^ kind;
  for (uint32_t at = kSummed * 4; at < bytes; at += 4) {
    uint32_t word;
    memcpy(&word, record + at, sizeof word);
    hash = (hash ^ word) * 0x9e3779b1u;
    hash ^= hash >> 15;
  }
  return hash;
}

// append(kind, nodeid, other, small, text, [nlookup, ino]): the record's place in this half, never 0; or 0 when there is no room.
napi_value append(napi_env env, napi_callback_info info) {
  size_t count = 7;
  napi_value values[7];
  void* data = nullptr;
  if (napi_get_cb_info(env, info, &count, values, nullptr, &data) != napi_ok) return nullptr;
  JournalHalf& half = static_cast<Writer*>(data)->half;
  JournalHead head{};
  size_t length = 0;
  if (count < 5 || napi_get_value_uint32(env, values[0], &head.kind) != napi_ok ||
      napi_get_value_double(env, values[1], &head.nodeid) != napi_ok ||
      napi_get_value_double(env, values[2], &head.other) != napi_ok ||
      napi_get_value_uint32(env, values[3], &head.small) != napi_ok ||
      napi_get_value_string_latin1(env, values[4], nullptr, 0, &length) != napi_ok ||
      (count > 5 && napi_get_value_uint32(env, values[5], &head.nlookup) != napi_ok) ||
      (count > 6 && napi_get_value_double(env, values[6], &head.ino) != napi_ok)) {
    napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", "a record is two numbers, a number and a text");
    return nullptr;
  }
  uint8_t* const text = half.room(length);
  uint32_t slot = 0;
  if (text != nullptr) {
    napi_get_value_string_latin1(env, values[4], reinterpret_cast<char*>(text), length + 1, nullptr);
    slot = half.append(head, length);
  }
  napi_value out = nullptr;
  napi_create_uint32(env, slot, &out);
  return out;
}

// journalWriter(memory, half, size, tail, waste, lost, inode): `append` for the half of `size` bytes that begins at byte `half`; `tail`,
// `waste` and `lost` are where those words are; records of kind `inode` are no waste.
napi_value journal_writer(napi_env env, napi_callback_info info) {
  Args args(env, info);
  void* data = nullptr;
  size_t length = 0;
  if (args.failed() || napi_get_arraybuffer_info(env, args.raw(0), &data, &length) != napi_ok) args.wrong(0, "an ArrayBuffer");
  std::array<uint32_t, 6> numbers{};
  for (size_t i = 0; i < numbers.size(); i++) numbers[i] = args.u32(i + 1);
  const auto [half, size, tail, waste, lost, inode] = numbers;
  if (!args.failed() && (half % 8 != 0 || half > length || size > length - half)) args.wrong(1, "a half of the memory");
  for (size_t i = 2; i < 5; i++) {
    if (!args.failed() && (numbers[i] % 4 != 0 || numbers[i] + size_t{4} > length)) args.wrong(i + 1, "the place of a word");
  }
  if (args.failed()) return args.reject();
  auto* const bytes = static_cast<uint8_t*>(data);
  const auto word = [bytes](uint32_t at) { return reinterpret_cast<uint32_t*>(bytes + at); };
  auto* writer = new (std::nothrow) Writer{nullptr, {bytes + half, size, word(tail), word(waste), word(lost), inode}};
  if (writer == nullptr) return failure(env, ENOMEM);
  const auto drop = [](napi_env its_env, void* gone, void*) {
    napi_delete_reference(its_env, static_cast<Writer*>(gone)->memory);
    delete static_cast<Writer*>(gone);
  };
  napi_value function = nullptr;
  if (napi_create_function(env, "append", NAPI_AUTO_LENGTH, append, writer, &function) != napi_ok ||
      napi_create_reference(env, args.raw(0), 1, &writer->memory) != napi_ok) {
    delete writer;
    return nullptr;
  }
  if (napi_add_finalizer(env, function, writer, drop, nullptr, nullptr) != napi_ok) {
    napi_delete_reference(env, writer->memory);
    delete writer;
    return nullptr;
  }
  return function;
}

}  // namespace

uint8_t* JournalHalf::room(size_t length) {
  // Behind the text there is a NUL, which belongs to no record when the text ends with one. A tail that is not what was written is a
  // damaged one, and nothing can be written to.
  const uint32_t slot = next();
  if (slot % 8 != 0 || slot > size || length > size || bytes_of(length) + 8 > size - slot) {
    *lost = 1;
    return nullptr;
  }
  memset(records + slot + bytes_of(length) - 8, 0, 8);
  return records + slot + sizeof(JournalHead);
}

uint32_t JournalHalf::append(JournalHead head, size_t length) {
  const uint32_t slot = next();
  uint8_t* const record = records + slot;
  head.bytes = static_cast<uint32_t>(bytes_of(length));
  head.text = static_cast<uint32_t>(length);
  head.sum = 0;
  memcpy(record, &head, sizeof head);
  const uint32_t sum = sum_of(record, head.bytes, head.kind);
  memcpy(record + offsetof(JournalHead, sum), &sum, sizeof sum);
  __atomic_store_n(tail, slot + head.bytes, __ATOMIC_RELEASE);
  if (head.kind != inode) *waste += head.bytes;
  return slot;
}

void IssueJournal::begin(const uint8_t* frame, size_t size) const {
  *forgotten = kForgottenAll;
  then();
  *serving = 0;
  then();
  memcpy(request, frame, std::min(size, kRequestRoom));
  *references = 0;
  *said = 0;
  then();
  *serving = 1;
  then();
}

void IssueJournal::changing() const {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  *said_time = static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec / 1'000'000);
  then();
  *said = kChanging;
  then();
}

uint32_t IssueJournal::issue(uint64_t nodeid, uint64_t directory, uint32_t type, uint64_t ino, std::string_view name,
                             bool below) const {
  JournalHalf log = halves[*half & 1];
  *newest = static_cast<double>(nodeid);
  then();
  uint8_t* const text = log.room(name.size());
  if (text == nullptr) return 0;
  memcpy(text, name.data(), name.size());
  JournalHead head{};
  head.kind = log.inode;
  head.ino = static_cast<double>(ino);
  head.nodeid = static_cast<double>(nodeid);
  head.other = static_cast<double>(directory);
  head.small = type >> 12;
  const uint32_t slot = log.append(head, name.size());
  if (below) {
    const uint32_t kind = head.kind | kJournalBelow;
    memcpy(log.records + slot, &kind, sizeof kind);
    then();
  }
  first_reference[0] = static_cast<double>(nodeid);
  first_reference[1] = 1;
  then();
  *references = 1;
  then();
  const uint32_t one = 1;
  memcpy(log.records + slot + offsetof(JournalHead, nlookup), &one, sizeof one);
  return slot;
}

bool register_journal(napi_env env, napi_value exports, State* state) {
  return define(env, exports, state, "journalWriter", journal_writer);
}

}  // namespace lamina
