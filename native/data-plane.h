// READ and WRITE of registered files, without JavaScript: inline where that cannot block, else on threads.
//
// Order: two WRITEs of one nodeid are never reordered. A READ is ordered against nothing: the kernel does not have a
// READ and a WRITE of the same page in flight, and two processes that race are not ordered by anybody.
//
// A lower file may change while it is read. What was read is answered if the file is afterwards still what the kernel was told of; else the
// READ is JavaScript's (serve() false, or changed()), which tells the kernel and gives it back. A READ that ends before the size that
// the kernel knows makes it lower that size, but not where it was told of a change since it sent the READ: then it would show zeros. So
// such a READ is answered EINTR: the kernel reads ahead first, and asks again for what it could not get.
//
// Threads: everything here is for the main thread but what the tasks do, who share Shared.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "device.h"
#include "file-table.h"
#include "fuse-abi.h"
#include "memory.h"
#include "pipe.h"
#include "work-queue.h"

namespace lamina {

// Whether the disk is one to wait for on the main thread: one request that took long there (a full journal, dirty throttling, a slow
// disk) sends those of the next moment to threads. Nanoseconds of CLOCK_MONOTONIC.
class Slowness {
 public:
  bool slow(uint64_t now) const { return now < until_; }
  void took(uint64_t begin, uint64_t end) { until_ = end - begin > kSlow ? end + kFor : 0; }

 private:
  static constexpr uint64_t kSlow = 2'000'000;
  static constexpr uint64_t kFor = 500'000'000;
  uint64_t until_ = 0;
};

// What tasks count; everything else is counted by the main thread.
struct ThreadCounters {
  std::atomic<uint64_t> bytes_read{0};
  std::atomic<uint64_t> bytes_written{0};
};

class DataPlane {
 public:
  struct Counters {
    uint64_t reads_inline = 0;
    uint64_t reads_threaded = 0;
    uint64_t writes_inline = 0;
    uint64_t writes_threaded = 0;
    uint64_t bytes_read = 0;
    uint64_t bytes_written = 0;
  };

  // `wake` is called with `data` on any thread: a thread has ended, or there is room() again.
  DataPlane(std::shared_ptr<Device> device, size_t block_size, void (*wake)(void*), void* data);
  ~DataPlane();
  DataPlane(const DataPlane&) = delete;
  DataPlane& operator=(const DataPlane&) = delete;

  FileTable& files() { return files_; }
  BlockPool& blocks() { return *blocks_; }

  // Reads one request of the device into `block`: of a large WRITE, where one is to be expected, only the head; its data then waits in a
  // pipe for serve(). The size of all of it, or -1 and errno.
  ssize_t receive(Memory& block);

  // Serves a READ or WRITE whose nodeid is registered for it; false: it is not, and nothing was done.
  // `block` is the memory that `frame` lies in, or nullptr: a large WRITE takes it along to a thread and leaves
  // another in its place (or none, when memory is out: check it).
  // `compare`: whether a lower file is looked at once more, which JavaScript has done for what it gives back.
  // Preconditions: valid().
  bool serve(uint8_t* frame, std::unique_ptr<Memory>* block, bool compare = true);

  // READs whose file had changed when a thread had read it, for JavaScript; each as it came.
  std::vector<std::vector<uint8_t>> changed();

  // The kernel is being told, by notification number `number`, that what it has of a file is no longer true.
  void telling(uint64_t nodeid, uint64_t number);
  // It was told of all up to this one, and had no request waiting since.
  void told(uint64_t number);

  // The file will be read from its beginning soon: a disk that has to be asked is asked now, and not waited for.
  static void expect_read(const File& file);

  // Whether this is a complete READ or WRITE.
  static bool valid(const uint8_t* frame, size_t size);

  // False when so much is queued that no more requests should be read until `wake`.
  bool room();

  Counters counters() const;

  // Queued READs are dropped, queued WRITEs are still done, files close when no task has them. Does not wait.
  void stop();
  bool drained() const { return queue_.drained() && far_queue_.drained(); }
  // Waits for the threads, and lets go of the device. Preconditions: stop().
  void join();

  struct Shared;

 private:
  // False: the file has changed.
  bool read(const uint8_t* frame, const std::shared_ptr<File>& file, bool compare);
  enum class Inline : uint8_t { kAnswered, kBlocks, kChanged };
  Inline read_inline(const abi::fuse_in_header& header, const abi::fuse_read_in& in, File& file, bool compare);
  void write(const uint8_t* frame, const std::shared_ptr<File>& file, std::unique_ptr<Memory>* block);
  bool write_may_block(const abi::fuse_in_header& header, const abi::fuse_write_in& in, const File& file) const;
  // Whether the device has more requests.
  bool others_wait() const;
  ssize_t receive_piped(Memory& block);
  void expect(const uint8_t* frame, size_t size);

  std::shared_ptr<Device> device_;
  const std::shared_ptr<BlockPool> blocks_;
  const std::shared_ptr<PipePool> pipes_;
  FileTable files_;
  // What the next large WRITE is received through, or has been.
  std::unique_ptr<Pipe> pipe_;
  // Requests since the last large WRITE. So many, and the next one is not expected to be one.
  static constexpr int kPatience = 4;
  int unexpected_ = kPatience;
  std::unique_ptr<Memory> read_buffer_;
  Counters counters_;
  // Of which files the kernel is being told, and by which notification last.
  std::unordered_map<uint64_t, uint64_t> telling_;
  Slowness writes_;
  std::shared_ptr<Shared> shared_;
  WorkQueue queue_;
  // What is for filesystems that may fall silent, which must not take the threads that others need.
  WorkQueue far_queue_;
};

}  // namespace lamina
