// The methods of Channel by which JavaScript says which names are answered without it, and hears what became of that: names.h.
#include <array>
#include <climits>
#include <cstring>
#include <optional>
#include <string>

#include "args.h"
#include "channel.h"

namespace lamina {

// answerNames(nodeid, reals, known, seconds, nanoseconds, linksApart): names in that directory are answered from now on, by the rules of
// names.h. `reals`: for each of the directories that merge, top first, four doubles: its descriptor, which stays the caller's; 1 for
// upper and 2 where `.wh.` markers may be in it; what is added to its st_ino, and below what limit. `known`: names, each with a NUL
// behind it, or undefined.
napi_value Channel::answer_names(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const uint64_t nodeid = nodeid_of(args, 0);
  const Bytes words = args.bytes(1);
  const bool all = !args.missing(2);
  const std::string known = all ? args.text(2) : std::string{};
  Names::Rules rules;
  rules.valid = static_cast<uint64_t>(args.i64(3));
  rules.valid_nsec = args.u32(4);
  rules.links_apart = args.boolean(5);
  constexpr size_t kEach = 4;
  const size_t count = words.size / (kEach * sizeof(double));
  if (!args.failed() && (count == 0 || count > Names::kMostReals)) args.wrong(1, "one to four directories");
  std::array<Names::Real, Names::kMostReals> reals;
  for (size_t i = 0; i < count && !args.failed(); i++) {
    double word[kEach];
    memcpy(word, words.data + i * sizeof word, sizeof word);
    // The comparisons are false for NaN.
    if (!(word[0] >= 0 && word[0] <= INT_MAX && word[1] >= 0 && word[1] <= 3 && word[2] >= 0 && word[2] <= kMaxSafe && word[3] >= 0 &&
          word[3] <= kMaxSafe + 1)) {
      args.wrong(1, "a descriptor, flags and two numbers for each directory");
      break;
    }
    const auto flags = static_cast<uint32_t>(word[1]);
    reals[i].fd = static_cast<int>(word[0]);
    reals[i].upper = (flags & 1) != 0;
    reals[i].markers = (flags & 2) != 0;
    reals[i].ino_base = static_cast<uint64_t>(word[2]);
    reals[i].ino_limit = static_cast<uint64_t>(word[3]);
  }
  if (args.failed()) return args.reject();
  if (!channel->closed_) {
    channel->names_.follow(nodeid, reals, count, all ? std::optional<std::string_view>(known) : std::nullopt, rules);
  }
  return undefined(env);
}

// tellFiles(directory, words, names): files of its lower layers that may be opened for READ without JavaScript, until they are registered or
// unregistered. For each five doubles: nodeid, which of the lower real directories has it, st_ino, and what the kernel was told: stamp and largest
// size; and its name with a NUL behind it.
napi_value Channel::tell_files(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  const uint64_t directory = nodeid_of(args, 0);
  const Bytes words = args.bytes(1);
  const std::string names = args.text(2);
  if (args.failed()) return args.reject();
  std::string_view rest = names;
  double word[5];
  for (size_t at = 0; at + sizeof word <= words.size && !channel->closed_; at += sizeof word) {
    memcpy(word, words.data + at, sizeof word);
    const size_t end = rest.find('\0');
    const bool numbers = word[0] >= 0 && word[0] <= kMaxSafe && word[1] >= 0 && word[1] < Names::kMostReals && word[2] >= 0 &&
                         word[2] <= kMaxSafe && word[3] >= 0 && word[4] >= 0 && word[4] <= kMaxSafe;
    if (end == std::string_view::npos || !numbers) {
      args.wrong(1, "five numbers and a name for each file");
      return args.reject();
    }
    channel->names_.tell(static_cast<uint64_t>(word[0]), directory, static_cast<size_t>(word[1]), rest.substr(0, end),
                         static_cast<uint64_t>(word[2]), {word[3], static_cast<uint64_t>(word[4])});
    rest.remove_prefix(end + 1);
  }
  return undefined(env);
}

// keepIssued(memory, places): a successor is to find in that ArrayBuffer what is issued. `places`: words of 32 bits, byte offsets in it in
// the order of the members of IssueJournal, each half's beginning and tail, and what both halves share.
napi_value Channel::keep_issued(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  Args args(env, info);
  void* data = nullptr;
  size_t length = 0;
  if (args.failed() || napi_get_arraybuffer_info(env, args.raw(0), &data, &length) != napi_ok) args.wrong(0, "an ArrayBuffer");
  const Bytes bytes = args.bytes(1);
  std::array<uint32_t, 17> places{};
  if (!args.failed() && bytes.size != sizeof places) args.wrong(1, "17 words");
  if (args.failed()) return args.reject();
  memcpy(places.data(), bytes.data, sizeof places);
  const auto [half0, tail0, half1, tail1, size, waste, lost, inode, half, newest, forgotten, serving, references, said, request,
              first_reference, said_time] = places;
  for (const uint32_t at : {tail0, tail1, waste, lost, half, newest, forgotten, serving, references, said, request, first_reference,
                            said_time}) {
    if (at % 4 != 0 || at + IssueJournal::kRequestRoom > length) args.wrong(1, "places within the memory");
  }
  if (newest % 8 != 0 || first_reference % 8 != 0 || said_time % 8 != 0) args.wrong(1, "aligned places");
  for (const uint32_t at : {half0, half1}) {
    if (at % 8 != 0 || at > length || size > length - at) args.wrong(1, "halves within the memory");
  }
  if (args.failed()) return args.reject();
  auto* const base = static_cast<uint8_t*>(data);
  const auto word = [base](uint32_t at) { return reinterpret_cast<uint32_t*>(base + at); };
  const auto number = [base](uint32_t at) { return reinterpret_cast<double*>(base + at); };
  if (channel->closed_ || channel->kept_memory_ != nullptr ||
      napi_create_reference(env, args.raw(0), 1, &channel->kept_memory_) != napi_ok) {
    return undefined(env);
  }
  channel->names_.keep({{{base + half0, size, word(tail0), word(waste), word(lost), inode},
                         {base + half1, size, word(tail1), word(waste), word(lost), inode}},
                        word(half),
                        number(newest),
                        word(forgotten),
                        word(serving),
                        word(references),
                        word(said),
                        base + request,
                        number(first_reference),
                        number(said_time)});
  return undefined(env);
}

// takeNames(): the names of the inodes in `issued`, each with a NUL behind it; there is nothing in `issued` any more.
napi_value Channel::take_names(napi_env env, napi_callback_info info) {
  Channel* channel = self(env, info);
  if (channel == nullptr) return nullptr;
  const std::string names = channel->names_.take();
  napi_value out = nullptr;
  return napi_create_string_latin1(env, names.data(), names.size(), &out) == napi_ok ? out : nullptr;
}

}  // namespace lamina
