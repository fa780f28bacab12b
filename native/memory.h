// Page-aligned memory for messages of up to a megabyte: pages that are never touched cost nothing.
#pragma once

#include <sys/mman.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

namespace lamina {

class Memory {
 public:
  // nullptr when there is none.
  static std::unique_ptr<Memory> map(size_t size) {
    void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return nullptr;
    auto* memory = new (std::nothrow) Memory(static_cast<uint8_t*>(data), size);
    if (memory == nullptr) munmap(data, size);
    return std::unique_ptr<Memory>(memory);
  }

  // The same bytes of a file, shared with whoever maps them; `offset` is a multiple of the page size.
  static std::unique_ptr<Memory> map_file(int fd, off_t offset, size_t size) {
    void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
    if (data == MAP_FAILED) return nullptr;
    auto* memory = new (std::nothrow) Memory(static_cast<uint8_t*>(data), size);
    if (memory == nullptr) munmap(data, size);
    return std::unique_ptr<Memory>(memory);
  }

  ~Memory() { munmap(data_, size_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  Memory(uint8_t* data, size_t size) : data_(data), size_(size) {}

  uint8_t* data_;
  size_t size_;
};

// Blocks of one size that go to a thread with a WRITE in them and come back. Used from any thread.
class BlockPool {
 public:
  explicit BlockPool(size_t size) : size_(size) {}

  std::unique_ptr<Memory> take() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!free_.empty()) {
        std::unique_ptr<Memory> block = std::move(free_.back());
        free_.pop_back();
        return block;
      }
    }
    return Memory::map(size_);
  }

  void give(std::unique_ptr<Memory> block) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (free_.size() < kKept) free_.push_back(std::move(block));
  }

 private:
  static constexpr size_t kKept = 8;

  const size_t size_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Memory>> free_;
};

}  // namespace lamina
