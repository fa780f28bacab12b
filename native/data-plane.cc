#include "data-plane.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <iterator>
#include <mutex>
#include <new>
#include <unordered_map>
#include <utility>
#include <vector>

#include "patience.h"
#include "write-data.h"

namespace lamina {
namespace {

// Up to this, a READ that need not wait and a WRITE are done on the main thread: the copies take less than handing them over. Beyond
// it they would hold up other requests for longer than that (a megabyte is two copies of 100 microseconds), and threads can do
// several at once; so a larger WRITE is done there only when no other request waits.
constexpr uint32_t kInlineRead = 256 * 1024;
constexpr uint32_t kInlineWrite = 256 * 1024;
// Smaller data is copied for a thread; larger data is handed over with the block that it was read into.
constexpr size_t kHandOver = 64 * 1024;
// From here on a WRITE goes through a pipe; below, the calls that this takes cost more than the copy that it saves.
constexpr size_t kSplice = 64 * 1024;
// The largest file: what JavaScript counts exactly (fuse/dispatch.ts).
constexpr uint64_t kMaxFile = (uint64_t{1} << 53) - 1;
constexpr size_t kReadFrame = sizeof(abi::fuse_in_header) + sizeof(abi::fuse_read_in);
constexpr size_t kWriteHead = sizeof(abi::fuse_in_header) + sizeof(abi::fuse_write_in);
// WRITE data that may wait for a thread before the device is no longer read; and when it is read again.
constexpr size_t kMaxQueued = 64 * 1024 * 1024;
constexpr size_t kResumeQueued = kMaxQueued / 2;
constexpr size_t kThreads = 4;
// For READs that do not come back: each takes one, and 256 KiB of address space.
constexpr size_t kFarThreads = 64;

uint64_t now() {
  timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<uint64_t>(ts.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(ts.tv_nsec);
}

template <typename T>
T load(const uint8_t* at) {
  T value;
  memcpy(&value, at, sizeof value);
  return value;
}

// Reads until `size` bytes, the end of the file, or an error. The bytes, or -errno where there were none.
ssize_t read_all(int fd, uint8_t* data, size_t size, uint64_t offset) {
  size_t done = 0;
  while (done < size) {
    const ssize_t n = pread(fd, data + done, size - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return done > 0 ? static_cast<ssize_t>(done) : -reply_errno(errno);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return static_cast<ssize_t>(done);
}

// Whether a READ that gave `n` bytes ends before what the kernel may believe to be the end of the file.
bool ends_early(const File& file, const abi::fuse_read_in& in, ssize_t n) {
  return n >= 0 && in.offset + static_cast<uint64_t>(n) < std::min<uint64_t>(in.offset + in.size, file.told().most);
}

void answer_read(const Device& device, uint64_t unique, ssize_t n, const uint8_t* data) {
  if (n < 0) {
    device.reply(unique, static_cast<int>(n), nullptr, 0);
  } else {
    device.reply(unique, 0, data, static_cast<size_t>(n));
  }
}

void answer_write(const Device& device, uint64_t unique, ssize_t n) {
  if (n < 0) {
    device.reply(unique, static_cast<int>(n), nullptr, 0);
    return;
  }
  const abi::fuse_write_out out = {static_cast<uint32_t>(n), 0};
  device.reply(unique, 0, &out, sizeof out);
}

}  // namespace

// ---- tasks

// What tasks need of the data plane, alive as long as one of them is.
struct DataPlane::Shared {
  Shared(std::shared_ptr<Device> d, std::shared_ptr<BlockPool> b, std::shared_ptr<PipePool> p, void (*w)(void*), void* data)
      : device(std::move(d)), blocks(std::move(b)), pipes(std::move(p)), wake(w), wake_data(data) {}

  std::shared_ptr<Device> device;
  const std::shared_ptr<BlockPool> blocks;
  const std::shared_ptr<PipePool> pipes;
  void (*const wake)(void*);
  void* const wake_data;
  ThreadCounters counters;

  // READs that are JavaScript's: DataPlane::changed().
  std::mutex changed_mutex;
  std::vector<std::vector<uint8_t>> changed;
  // How often the kernel was told of a change.
  std::atomic<uint64_t> tellings{0};

  // WRITE data that waits or is being written.
  std::atomic<size_t> queued_bytes{0};
  // Whether the main thread waits for room.
  std::atomic<bool> starved{false};

  // WRITEs by nodeid: one is on the queue or runs, the others wait behind it here.
  std::mutex mutex;
  std::unordered_map<uint64_t, std::deque<std::unique_ptr<Task>>> behind;
  // Its size, to be asked without the lock.
  std::atomic<size_t> writing{0};
};

namespace {

// A task lets its file go before it answers: the caller may remove the file next, and then needs its room.

class ReadTask final : public Task {
 public:
  // `doubtful`: the kernel is being told of a change of the file.
  ReadTask(std::shared_ptr<DataPlane::Shared> shared, std::shared_ptr<File> file, const uint8_t* frame, bool compare, bool doubtful)
      : shared_(std::move(shared)),
        file_(std::move(file)),
        frame_(frame, frame + kReadFrame),
        compare_(compare),
        doubtful_(doubtful),
        tellings_(shared_->tellings.load(std::memory_order_acquire)) {}

  void run() override {
    std::unique_ptr<Memory> block = shared_->blocks->take();
    const Device& device = *shared_->device;
    const uint64_t unique = load<abi::fuse_in_header>(frame_.data()).unique;
    const auto in = load<abi::fuse_read_in>(frame_.data() + sizeof(abi::fuse_in_header));
    if (block == nullptr) {
      device.reply(unique, -ENOMEM, nullptr, 0);
      return;
    }
    const size_t size = std::min<size_t>(in.size, block->size());
    ssize_t n = read_all(file_->fd(), block->data(), size, in.offset);
    if (compare_ && !file_->unchanged()) {
      {
        const std::lock_guard<std::mutex> lock(shared_->changed_mutex);
        shared_->changed.push_back(std::move(frame_));
      }
      shared_->blocks->give(std::move(block));
      shared_->wake(shared_->wake_data);
      return;
    }
    const bool doubtful = doubtful_ || shared_->tellings.load(std::memory_order_acquire) != tellings_;
    if (doubtful && ends_early(*file_, in, n)) n = -EINTR;
    if (n > 0) shared_->counters.bytes_read.fetch_add(static_cast<uint64_t>(n), std::memory_order_relaxed);
    file_.reset();
    answer_read(device, unique, n, block->data());
    shared_->blocks->give(std::move(block));
  }

 private:
  const std::shared_ptr<DataPlane::Shared> shared_;
  std::shared_ptr<File> file_;
  std::vector<uint8_t> frame_;
  const bool compare_;
  const bool doubtful_;
  const uint64_t tellings_;
};

class WriteTask final : public Task {
 public:
  WriteTask(std::shared_ptr<DataPlane::Shared> shared, WorkQueue* queue, std::shared_ptr<File> file,
            const abi::fuse_in_header& header, const abi::fuse_write_in& in, WriteData data)
      : shared_(std::move(shared)),
        queue_(queue),
        file_(std::move(file)),
        nodeid_(header.nodeid),
        unique_(header.unique),
        pid_(header.pid),
        in_(in),
        data_(std::move(data)) {}

  // What was taken from the kernel is written also when the connection ends meanwhile.
  bool must_run() const override { return true; }

  void run() override {
    const ssize_t n = data_.write(*file_, in_, pid_);
    if (n > 0) shared_->counters.bytes_written.fetch_add(static_cast<uint64_t>(n), std::memory_order_relaxed);
    next();
    file_.reset();
    answer_write(*shared_->device, unique_, n);
    data_.release(shared_->blocks.get(), shared_->pipes.get());
    const size_t left = shared_->queued_bytes.fetch_sub(in_.size, std::memory_order_acq_rel) - in_.size;
    if (left <= kResumeQueued && shared_->starved.exchange(false)) shared_->wake(shared_->wake_data);
  }

 private:
  // Lets the next WRITE of this nodeid run.
  void next() {
    std::unique_ptr<Task> task;
    {
      const std::lock_guard<std::mutex> lock(shared_->mutex);
      const auto at = shared_->behind.find(nodeid_);
      if (at == shared_->behind.end()) return;
      if (at->second.empty()) {
        shared_->behind.erase(at);
        shared_->writing.fetch_sub(1, std::memory_order_release);
        return;
      }
      task = std::move(at->second.front());
      at->second.pop_front();
    }
    queue_->submit(std::move(task));
  }

  const std::shared_ptr<DataPlane::Shared> shared_;
  WorkQueue* const queue_;
  std::shared_ptr<File> file_;
  const uint64_t nodeid_;
  const uint64_t unique_;
  const uint32_t pid_;
  const abi::fuse_write_in in_;
  WriteData data_;
};

}  // namespace

// ---- DataPlane

DataPlane::DataPlane(std::shared_ptr<Device> device, size_t block_size, void (*wake)(void*), void* data)
    : device_(std::move(device)),
      blocks_(std::make_shared<BlockPool>(block_size)),
      pipes_(std::make_shared<PipePool>()),
      shared_(std::make_shared<Shared>(device_, blocks_, pipes_, wake, data)),
      queue_(kThreads, kFarThreads, wake, data),
      far_queue_(kFarThreads, 0, wake, data) {}

DataPlane::~DataPlane() = default;

bool DataPlane::valid(const uint8_t* frame, size_t size) {
  if (size < sizeof(abi::fuse_in_header) + sizeof(abi::fuse_read_in)) return false;
  const auto header = load<abi::fuse_in_header>(frame);
  if (header.len != size) return false;
  if (header.opcode == abi::FUSE_READ) return true;
  if (header.opcode != abi::FUSE_WRITE) return false;
  const auto in = load<abi::fuse_write_in>(frame + sizeof(abi::fuse_in_header));
  return in.size == size - sizeof(abi::fuse_in_header) - sizeof(abi::fuse_write_in);
}

ssize_t DataPlane::receive(Memory& block) {
  if (unexpected_ < kPatience) {
    if (pipe_ == nullptr) pipe_ = pipes_->take();
    if (pipe_ != nullptr) {
      const ssize_t n = receive_piped(block);
      if (n >= 0 || errno != EINVAL) return n;
      // A device that cannot, or whose WRITEs are larger than the pipe.
      pipe_.reset();
      pipes_->close();
    }
  }
  if (pipe_ != nullptr) {
    pipes_->give(std::move(pipe_));
    pipes_->trim();
  }
  const ssize_t n = ::read(device_->fd(), block.data(), block.size());
  if (n > 0) expect(block.data(), static_cast<size_t>(n));
  return n;
}

ssize_t DataPlane::receive_piped(Memory& block) {
  const ssize_t n = pipe_->receive(device_->fd());
  if (n <= 0) return n;
  const size_t head = std::min<size_t>(static_cast<size_t>(n), kWriteHead);
  if (pipe_->read(block.data(), head)) {
    expect(block.data(), static_cast<size_t>(n));
    if (unexpected_ == 0 || pipe_->read(block.data() + head, pipe_->left())) return n;
  }
  // Cannot be: it is in the pipe.
  errno = EIO;
  return -1;
}

void DataPlane::expect(const uint8_t* frame, size_t size) {
  const bool large = size >= kWriteHead + kSplice && valid(frame, size) &&
                     load<abi::fuse_in_header>(frame).opcode == abi::FUSE_WRITE;
  unexpected_ = large ? 0 : std::min(unexpected_ + 1, +kPatience);
}

bool DataPlane::serve(uint8_t* frame, std::unique_ptr<Memory>* block, bool compare) {
  const auto header = load<abi::fuse_in_header>(frame);
  const std::shared_ptr<File>* file = files_.find(header.nodeid);
  if (file != nullptr && header.opcode == abi::FUSE_READ) {
    return read(frame, *file, compare);
  }
  if (file != nullptr && (*file)->writable()) {
    write(frame, *file, block);
    return true;
  }
  if (block != nullptr && pipe_ != nullptr) pipe_->read(frame + kWriteHead, pipe_->left());
  return false;
}

void DataPlane::expect_read(const File& file) {
  if (file.reads != File::Reads::kNowait) return;
  char first;
  iovec part = {&first, 1};
  // What is not in the page cache begins to be read ahead.
  preadv2(file.fd(), &part, 1, 0, RWF_NOWAIT);
}

bool DataPlane::read(const uint8_t* frame, const std::shared_ptr<File>& file, bool compare) {
  const auto header = load<abi::fuse_in_header>(frame);
  const auto in = load<abi::fuse_read_in>(frame + sizeof(abi::fuse_in_header));
  file->without_atime((in.flags & O_NOATIME) != 0);
  const Inline done = read_inline(header, in, *file, compare);
  if (done == Inline::kChanged) return false;
  if (done == Inline::kAnswered) {
    counters_.reads_inline++;
    return true;
  }
  counters_.reads_threaded++;
  WorkQueue& queue = file->far() ? far_queue_ : queue_;
  queue.submit(std::unique_ptr<Task>(new ReadTask(shared_, file, frame, compare, telling_.count(header.nodeid) != 0)));
  return true;
}

DataPlane::Inline DataPlane::read_inline(const abi::fuse_in_header& header, const abi::fuse_read_in& in, File& file, bool compare) {
  if (file.reads == File::Reads::kThreads || in.size > kInlineRead) return Inline::kBlocks;
  if (read_buffer_ == nullptr) read_buffer_ = Memory::map(kInlineRead);
  if (read_buffer_ == nullptr) return Inline::kBlocks;
  uint8_t* const data = read_buffer_->data();
  const size_t size = std::min<size_t>(in.size, read_buffer_->size());
  size_t done = 0;
  while (done < size) {
    iovec part = {data + done, size - done};
    const off_t offset = static_cast<off_t>(in.offset + done);
    const int flags = file.reads == File::Reads::kNowait ? RWF_NOWAIT : 0;
    const ssize_t n = preadv2(file.fd(), &part, 1, offset, flags);
    if (n > 0) {
      done += static_cast<size_t>(n);
      continue;
    }
    if (n == 0) break;
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return Inline::kBlocks;
    if (errno == EOPNOTSUPP && file.reads == File::Reads::kNowait) {
      struct statfs fs;
      const bool memory = fstatfs(file.fd(), &fs) == 0 &&
                          (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
      file.reads = memory ? File::Reads::kMemory : File::Reads::kThreads;
      if (!memory) return Inline::kBlocks;
      continue;
    }
    if (done > 0) break;
    answer_read(*device_, header.unique, -reply_errno(errno), nullptr);
    return Inline::kAnswered;
  }
  if (compare && !file.unchanged()) return Inline::kChanged;
  counters_.bytes_read += done;
  auto n = static_cast<ssize_t>(done);
  if (!telling_.empty() && telling_.count(header.nodeid) != 0 && ends_early(file, in, n)) n = -EINTR;
  answer_read(*device_, header.unique, n, data);
  return Inline::kAnswered;
}

std::vector<std::vector<uint8_t>> DataPlane::changed() {
  const std::lock_guard<std::mutex> lock(shared_->changed_mutex);
  return std::exchange(shared_->changed, {});
}

void DataPlane::telling(uint64_t nodeid, uint64_t number) {
  telling_[nodeid] = number;
  shared_->tellings.fetch_add(1, std::memory_order_release);
}

void DataPlane::told(uint64_t number) {
  for (auto at = telling_.begin(); at != telling_.end();) at = at->second <= number ? telling_.erase(at) : std::next(at);
}

bool DataPlane::write_may_block(const abi::fuse_in_header& header, const abi::fuse_write_in& in, const File& file) const {
  if (file.far() || writes_.slow(now())) return true;
  if (in.size > kInlineWrite && others_wait()) return true;
  if (shared_->writing.load(std::memory_order_acquire) == 0) return false;
  const std::lock_guard<std::mutex> lock(shared_->mutex);
  return shared_->behind.find(header.nodeid) != shared_->behind.end();
}

bool DataPlane::others_wait() const {
  pollfd device = {device_->fd(), POLLIN, 0};
  return poll(&device, 1, 0) > 0;
}

void DataPlane::write(const uint8_t* frame, const std::shared_ptr<File>& file, std::unique_ptr<Memory>* block) {
  const auto header = load<abi::fuse_in_header>(frame);
  const auto in = load<abi::fuse_write_in>(frame + sizeof(abi::fuse_in_header));
  const uint8_t* memory = frame + kWriteHead;
  const bool piped = block != nullptr && pipe_ != nullptr && pipe_->left() > 0;

  if (in.offset > kMaxFile - in.size) {
    if (piped) WriteData(std::move(pipe_)).release(blocks_.get(), pipes_.get());
    answer_write(*device_, header.unique, -EFBIG);
    return;
  }
  if (!write_may_block(header, in, *file)) {
    WriteData data = piped ? WriteData(std::move(pipe_)) : WriteData(memory);
    const uint64_t begin = now();
    const ssize_t n = data.write(*file, in, header.pid);
    writes_.took(begin, now());
    counters_.writes_inline++;
    if (n > 0) counters_.bytes_written += static_cast<uint64_t>(n);
    answer_write(*device_, header.unique, n);
    data.release(blocks_.get(), pipes_.get());
    return;
  }

  WriteData data(memory);
  if (piped) {
    data = WriteData(std::move(pipe_));
  } else if (block != nullptr && in.size > kHandOver) {
    data = WriteData(memory, std::move(*block));
    *block = blocks_->take();
  } else {
    std::unique_ptr<uint8_t[]> copy(new (std::nothrow) uint8_t[in.size]);
    if (copy == nullptr) {
      answer_write(*device_, header.unique, -ENOMEM);
      return;
    }
    memcpy(copy.get(), memory, in.size);
    data = WriteData(std::move(copy));
  }
  counters_.writes_threaded++;
  shared_->queued_bytes.fetch_add(in.size, std::memory_order_acq_rel);
  WorkQueue* const queue = file->far() ? &far_queue_ : &queue_;
  auto task = std::unique_ptr<Task>(new WriteTask(shared_, queue, file, header, in, std::move(data)));
  {
    const std::lock_guard<std::mutex> lock(shared_->mutex);
    const auto [at, first] = shared_->behind.try_emplace(header.nodeid);
    if (!first) {
      at->second.push_back(std::move(task));
      return;
    }
    shared_->writing.fetch_add(1, std::memory_order_release);
  }
  queue->submit(std::move(task));
}

bool DataPlane::room() {
  if (shared_->queued_bytes.load(std::memory_order_acquire) < kMaxQueued) return true;
  shared_->starved.store(true);
  // A task may have finished in between, and seen nobody starve.
  if (shared_->queued_bytes.load(std::memory_order_acquire) > kResumeQueued) return false;
  shared_->starved.store(false);
  return true;
}

DataPlane::Counters DataPlane::counters() const {
  Counters sum = counters_;
  sum.bytes_read += shared_->counters.bytes_read.load(std::memory_order_relaxed);
  sum.bytes_written += shared_->counters.bytes_written.load(std::memory_order_relaxed);
  return sum;
}

void DataPlane::stop() {
  queue_.stop();
  far_queue_.stop();
  pipe_.reset();
  pipes_->close();
  files_.clear();
}

void DataPlane::join() {
  queue_.join();
  far_queue_.join();
  device_.reset();
  shared_->device.reset();
  read_buffer_.reset();
}

}  // namespace lamina
