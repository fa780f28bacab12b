// The data of one WRITE, wherever it is: in a pipe, in a block of the pool, in a copy of its own, or in memory of the caller's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "fuse-abi.h"
#include "memory.h"
#include "pipe.h"

namespace lamina {

class File;

class WriteData {
 public:
  // In memory that outlives this, or that `block` keeps.
  explicit WriteData(const uint8_t* data, std::unique_ptr<Memory> block = nullptr)
      : data_(data), block_(std::move(block)) {}
  explicit WriteData(std::unique_ptr<uint8_t[]> copy) : data_(copy.get()), copy_(std::move(copy)) {}
  explicit WriteData(std::unique_ptr<Pipe> pipe) : pipe_(std::move(pipe)) {}
  WriteData(WriteData&&) = default;
  WriteData& operator=(WriteData&&) = default;

  // Does the WRITE that the thread `pid` asks for. How many bytes were written, or -errno where there were none. Preconditions: once.
  ssize_t write(const File& file, const abi::fuse_write_in& in, uint32_t pid);
  // Gives back what was borrowed.
  void release(BlockPool* blocks, PipePool* pipes);

 private:
  ssize_t write_all(const File& file, const abi::fuse_write_in& in);
  ssize_t write_some(int fd, uint64_t offset, size_t size);

  const uint8_t* data_ = nullptr;
  std::unique_ptr<Memory> block_;
  std::unique_ptr<uint8_t[]> copy_;
  std::unique_ptr<Pipe> pipe_;
};

}  // namespace lamina
