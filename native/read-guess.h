// Whether a file that was just looked up will be read next, judged by what became of those before it. Threads: main thread only.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace lamina {

class ReadGuess {
 public:
  // A file with data that was looked up. True: it is likely to be read.
  bool looked_up(uint64_t nodeid) {
    uint64_t& oldest = last_[next_++ % last_.size()];
    if (oldest != 0) confidence_ = std::max(confidence_ - kMissed, 0);
    oldest = nodeid;
    return confidence_ >= kEnough;
  }

  void read(uint64_t nodeid) {
    const auto at = std::find(last_.begin(), last_.end(), nodeid);
    if (at == last_.end()) return;
    *at = 0;
    confidence_ = std::min(confidence_ + 1, kMost);
  }

 private:
  // One that is not read outweighs so many that are: opening costs as much as it saves.
  static constexpr int kMissed = 2;
  static constexpr int kEnough = 4;
  static constexpr int kMost = 16;

  // Looked up and not read yet, 0 for others. Several callers take turns.
  std::array<uint64_t, 8> last_{};
  size_t next_ = 0;
  int confidence_ = 0;
};

}  // namespace lamina
