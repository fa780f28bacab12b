// What one FUSE request costs with each transport, with nothing behind it: a filesystem of one file that may not be cached,
// of which other processes ask the attributes.
//
//   transport DIRECTORY [SECONDS]       needs root; FUSE over io_uring also needs enable_uring of the module fuse
//
// Prints microseconds a request (wall time of one client; CPU time of the server) and requests a second with one client and
// with two. Built and run by `npm run bench:transport`.
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

namespace {

// Newer than the headers of some distributions: include/uapi/linux/fuse.h of Linux 6.14.
constexpr uint32_t kInitExt = 1u << 30;
constexpr uint32_t kOverIoUring2 = 1u << (41 - 32);
enum : uint32_t { kRegister = 1, kCommitAndFetch = 2 };
struct RingHeader {
  char in_out[128];
  char op_in[128];
  uint64_t flags;
  uint64_t commit_id;
  uint32_t payload_size;
  uint32_t padding;
  uint64_t reserved;
};
struct RingCommand {
  uint64_t flags;
  uint64_t commit_id;
  uint16_t queue;
  uint8_t padding[6];
};

[[noreturn]] void die(const char* what) {
  fprintf(stderr, "transport: %s: %s\n", what, strerror(errno));
  _exit(1);
}

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

int possible_cpus() {
  FILE* file = fopen("/sys/devices/system/cpu/possible", "r");
  int from = 0;
  int to = 0;
  if (file == nullptr) die("/sys/devices/system/cpu/possible");
  if (fscanf(file, "%d-%d", &from, &to) < 2) to = from;
  fclose(file);
  return to + 1;
}

fuse_attr attributes(uint64_t nodeid) {
  fuse_attr attr = {};
  attr.ino = nodeid;
  attr.mode = nodeid == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0644;
  attr.nlink = 1;
  attr.blksize = 4096;
  return attr;
}

// Writes the answer's payload; gives its size, -1 where none is to be sent. The error goes to `error`.
int answer(const fuse_in_header& in, char* out, int32_t& error) {
  error = 0;
  switch (in.opcode) {
    case FUSE_LOOKUP: {
      fuse_entry_out entry = {};
      entry.nodeid = 2;
      entry.attr = attributes(2);
      memcpy(out, &entry, sizeof entry);
      return sizeof entry;
    }
    case FUSE_GETATTR: {
      fuse_attr_out attr = {};
      attr.attr = attributes(in.nodeid);
      memcpy(out, &attr, sizeof attr);
      return sizeof attr;
    }
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
      return -1;
    default:
      error = -ENOSYS;
      return 0;
  }
}

constexpr size_t kBuffer = 1u << 18;

int mount_at(const char* dir, bool nonblocking) {
  const int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | (nonblocking ? O_NONBLOCK : 0));
  if (fd < 0) die("/dev/fuse");
  char options[128];
  snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
  if (mount("transport", dir, "fuse.transport", MS_NOSUID | MS_NODEV, options) != 0) die("mount");
  return fd;
}

// Answers INIT; asks for io_uring if `uring`. False when the kernel does not have it.
bool initialise(int fd, bool uring) {
  static char buffer[kBuffer];
  ssize_t n;
  while ((n = read(fd, buffer, sizeof buffer)) < 0)
    if (errno != EAGAIN && errno != EINTR) die("read of INIT");
  fuse_in_header in;
  fuse_init_in init;
  memcpy(&in, buffer, sizeof in);
  memcpy(&init, buffer + sizeof in, sizeof init);
  const bool offered = (init.flags & kInitExt) != 0 && (init.flags2 & kOverIoUring2) != 0;
  struct {
    fuse_out_header header;
    fuse_init_out init;
  } out = {};
  out.header.len = sizeof out;
  out.header.unique = in.unique;
  out.init.major = FUSE_KERNEL_VERSION;
  out.init.minor = init.minor;
  out.init.max_readahead = init.max_readahead;
  out.init.max_write = 4096;
  if (uring && offered) {
    out.init.flags = kInitExt;
    out.init.flags2 = kOverIoUring2;
  }
  if (write(fd, &out, sizeof out) != sizeof out) die("answer of INIT");
  return !uring || offered;
}

// read(2) and write(2); with `poll`, reads until there is nothing and waits in epoll then, as an event loop does.
void serve_device(int fd, bool poll) {
  const int events = poll ? epoll_create1(0) : -1;
  epoll_event interest = {};
  interest.events = EPOLLIN;
  if (poll && epoll_ctl(events, EPOLL_CTL_ADD, fd, &interest) != 0) die("epoll");
  char* const buffer = static_cast<char*>(aligned_alloc(4096, kBuffer));
  char out[1024];
  for (;;) {
    const ssize_t n = read(fd, buffer, kBuffer);
    if (n < 0) {
      if (errno == ENODEV) return;
      if (errno == EAGAIN && poll) epoll_wait(events, &interest, 1, -1);
      continue;
    }
    fuse_in_header in;
    memcpy(&in, buffer, sizeof in);
    int32_t error;
    const int size = answer(in, out + sizeof(fuse_out_header), error);
    if (size < 0) continue;
    const fuse_out_header header = {static_cast<uint32_t>(sizeof(fuse_out_header) + static_cast<size_t>(size)), error, in.unique};
    memcpy(out, &header, sizeof header);
    if (write(fd, out, header.len) < 0 && errno != ENOENT && errno != ENODEV) die("write");
  }
}

// One ring with the queues [from, to) of the connection, one entry in each.
class Ring {
 public:
  Ring(int device, int from, int to) : device_(device), from_(from), count_(to - from) {
    io_uring_params params = {};
    params.flags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN;
    fd_ = static_cast<int>(syscall(SYS_io_uring_setup, 64, &params));
    if (fd_ < 0) die("io_uring_setup");
    auto* const ring = static_cast<char*>(map(params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe), IORING_OFF_SQ_RING));
    sq_tail_ = at<std::atomic<uint32_t>>(ring, params.sq_off.tail);
    sq_mask_ = *at<uint32_t>(ring, params.sq_off.ring_mask);
    sq_array_ = at<uint32_t>(ring, params.sq_off.array);
    cq_head_ = at<std::atomic<uint32_t>>(ring, params.cq_off.head);
    cq_tail_ = at<std::atomic<uint32_t>>(ring, params.cq_off.tail);
    cq_mask_ = *at<uint32_t>(ring, params.cq_off.ring_mask);
    cqes_ = at<io_uring_cqe>(ring, params.cq_off.cqes);
    sqes_ = static_cast<char*>(map(params.sq_entries * 128, IORING_OFF_SQES));
    entries_.resize(static_cast<size_t>(count_));
    for (int i = 0; i < count_; i++) {
      Entry& entry = entries_[static_cast<size_t>(i)];
      entry.header = static_cast<RingHeader*>(aligned_alloc(4096, 4096));
      entry.payload = static_cast<char*>(aligned_alloc(4096, kBuffer));
      entry.vec[0] = {entry.header, sizeof(RingHeader)};
      entry.vec[1] = {entry.payload, kBuffer};
      submit(i, kRegister);
    }
  }

  // With `poll`, waits in epoll for the ring, as an event loop would that has others to serve, too.
  void serve(bool poll) {
    const int events = poll ? epoll_create1(0) : -1;
    epoll_event interest = {};
    interest.events = EPOLLIN;
    if (poll && epoll_ctl(events, EPOLL_CTL_ADD, fd_, &interest) != 0) die("epoll");
    for (;;) {
      uint32_t head = cq_head_->load(std::memory_order_relaxed);
      const uint32_t tail = cq_tail_->load(std::memory_order_acquire);
      if (head == tail) {
        if (pending_ == 0 && poll) {
          epoll_wait(events, &interest, 1, -1);
          // Completions are brought by the task's own work: one call into the ring, which does not wait.
          enter(0, 0, IORING_ENTER_GETEVENTS);
        } else {
          enter(pending_, poll ? 0 : 1, IORING_ENTER_GETEVENTS);
          pending_ = 0;
        }
        continue;
      }
      for (; head != tail; head++) {
        const io_uring_cqe cqe = cqes_[head & cq_mask_];
        cq_head_->store(head + 1, std::memory_order_release);
        if (cqe.res == -ENOTCONN || cqe.res == -ECANCELED) return;
        if (cqe.res < 0) {
          errno = -cqe.res;
          die("a ring command");
        }
        handle(static_cast<int>(cqe.user_data));
      }
    }
  }

 private:
  struct Entry {
    RingHeader* header;
    char* payload;
    iovec vec[2];
  };

  template <typename T>
  static T* at(char* base, uint32_t offset) {
    return reinterpret_cast<T*>(base + offset);
  }

  void* map(size_t size, off_t offset) {
    void* const memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, offset);
    if (memory == MAP_FAILED) die("mmap of the ring");
    return memory;
  }

  void enter(unsigned submit, unsigned wait, unsigned flags) {
    if (syscall(SYS_io_uring_enter, fd_, submit, wait, flags, nullptr, 0) < 0 && errno != EINTR) die("io_uring_enter");
  }

  void submit(int index, uint32_t command) {
    Entry& entry = entries_[static_cast<size_t>(index)];
    const uint32_t tail = sq_tail_->load(std::memory_order_relaxed);
    char* const raw = sqes_ + (tail & sq_mask_) * 128;
    memset(raw, 0, 128);
    auto* const sqe = reinterpret_cast<io_uring_sqe*>(raw);
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = device_;
    sqe->off = command;  // cmd_op
    sqe->user_data = static_cast<uint64_t>(index);
    if (command == kRegister) {
      sqe->addr = reinterpret_cast<uint64_t>(entry.vec);
      sqe->len = 2;
    }
    RingCommand detail = {};
    detail.commit_id = command == kRegister ? 0 : entry.header->commit_id;
    detail.queue = static_cast<uint16_t>(from_ + index);
    memcpy(raw + 48, &detail, sizeof detail);
    sq_array_[tail & sq_mask_] = tail & sq_mask_;
    sq_tail_->store(tail + 1, std::memory_order_release);
    pending_++;
  }

  void handle(int index) {
    Entry& entry = entries_[static_cast<size_t>(index)];
    fuse_in_header in;
    memcpy(&in, entry.header->in_out, sizeof in);
    int32_t error;
    const int size = answer(in, entry.payload, error);
    const auto payload = static_cast<uint32_t>(std::max(size, 0));
    const fuse_out_header out = {static_cast<uint32_t>(sizeof out + payload), error, in.unique};
    memcpy(entry.header->in_out, &out, sizeof out);
    entry.header->payload_size = payload;
    submit(index, kCommitAndFetch);
  }

  const int device_;
  const int from_;
  const int count_;
  int fd_ = -1;
  std::atomic<uint32_t>*sq_tail_, *cq_head_, *cq_tail_;
  uint32_t sq_mask_, cq_mask_;
  uint32_t* sq_array_;
  io_uring_cqe* cqes_;
  char* sqes_;
  unsigned pending_ = 0;
  std::vector<Entry> entries_;
};

enum Mode { kRead, kEpoll, kRing, kRingEpoll, kRingPerCore, kModes };
const char* const kNames[kModes] = {
    "device, read blocks", "device, event loop", "io_uring, one thread", "io_uring, event loop", "io_uring, a thread a core",
};

struct Queue {
  int device;
  int index;
};

void* serve_queue(void* argument) {
  const auto* const queue = static_cast<Queue*>(argument);
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(static_cast<size_t>(queue->index), &cpus);
  sched_setaffinity(0, sizeof cpus, &cpus);
  Ring(queue->device, queue->index, queue->index + 1).serve(false);
  return nullptr;
}

[[noreturn]] void server(const char* dir, Mode mode, int ready) {
  const bool uring = mode >= kRing;
  const int fd = mount_at(dir, mode == kEpoll);
  if (write(ready, "m", 1) != 1) die("pipe");
  if (!initialise(fd, uring)) _exit(77);
  if (!uring) {
    serve_device(fd, mode == kEpoll);
    _exit(0);
  }
  // FORGET and what comes before all queues are registered goes over the device.
  pthread_t thread;
  pthread_create(&thread, nullptr, [](void* device) -> void* {
    serve_device(*static_cast<int*>(device), false);
    return nullptr;
  }, new int(fd));
  const int cpus = possible_cpus();
  if (mode != kRingPerCore) {
    Ring(fd, 0, cpus).serve(mode == kRingEpoll);
    _exit(0);
  }
  std::vector<Queue> queues;
  std::vector<pthread_t> threads(static_cast<size_t>(cpus));
  for (int i = 0; i < cpus; i++) queues.push_back({fd, i});
  for (int i = 0; i < cpus; i++)
    pthread_create(&threads[static_cast<size_t>(i)], nullptr, serve_queue, &queues[static_cast<size_t>(i)]);
  for (const pthread_t one : threads) pthread_join(one, nullptr);
  _exit(0);
}

// Requests in `seconds` of so many clients.
double clients(const std::string& path, int count, double seconds) {
  auto* const totals = static_cast<uint64_t*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  std::vector<pid_t> pids;
  for (int i = 0; i < count; i++) {
    const pid_t pid = fork();
    if (pid == 0) {
      const double end = now() + seconds;
      struct stat st;
      uint64_t done = 0;
      while (now() < end) {
        for (int k = 0; k < 20; k++, done++)
          if (lstat(path.c_str(), &st) != 0) die("stat");
      }
      totals[i] = done;
      _exit(0);
    }
    pids.push_back(pid);
  }
  for (const pid_t pid : pids) waitpid(pid, nullptr, 0);
  double total = 0;
  for (int i = 0; i < count; i++) total += static_cast<double>(totals[i]);
  munmap(totals, 4096);
  return total;
}

double cpu_seconds(pid_t pid) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  FILE* file = fopen(path, "r");
  unsigned long user = 0;
  unsigned long system = 0;
  if (file == nullptr || fscanf(file, "%*d %*s %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2) die(path);
  fclose(file);
  return static_cast<double>(user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fprintf(stderr, "transport DIRECTORY [SECONDS]\n");
    return 2;
  }
  const char* const dir = argv[1];
  const double seconds = argc > 2 ? atof(argv[2]) : 2;
  const std::string path = std::string(dir) + "/file";
  printf("%-28s %14s %14s %12s %12s\n", "TRANSPORT", "us a request", "server CPU us", "1 client /s", "2 clients /s");
  for (int mode = 0; mode < kModes; mode++) {
    int ready[2];
    if (pipe(ready) != 0) die("pipe");
    const pid_t pid = fork();
    if (pid == 0) server(dir, static_cast<Mode>(mode), ready[1]);
    close(ready[1]);
    char byte;
    if (read(ready[0], &byte, 1) != 1) return 1;
    close(ready[0]);
    usleep(200000);
    int status;
    if (waitpid(pid, &status, WNOHANG) == pid) {
      umount2(dir, MNT_DETACH);
      printf("%-28s %s\n", kNames[mode],
             WIFEXITED(status) && WEXITSTATUS(status) == 77 ? "not offered: echo Y >/sys/module/fuse/parameters/enable_uring" : "failed");
      continue;
    }
    clients(path, 1, 0.3);
    const double before = cpu_seconds(pid);
    const double one = clients(path, 1, seconds);
    const double cpu = cpu_seconds(pid) - before;
    const double two = clients(path, 2, seconds);
    printf("%-28s %14.1f %14.1f %12.0f %12.0f\n", kNames[mode], seconds / one * 1e6, cpu / one * 1e6, one / seconds, two / seconds);
    fflush(stdout);
    umount2(dir, MNT_DETACH);
    usleep(100000);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
  }
  return 0;
}
