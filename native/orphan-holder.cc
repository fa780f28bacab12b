// A process that shares the daemon's table of descriptors and outlives it: while it lives, what the daemon has open stays open, however
// the daemon ends. So a descriptor is kept beyond the daemon's death by a store into shared memory (struct Table), and by no system call.
//
// The daemon's memory is not shared (the OOM killer ends every process that has it, and so does a core dump), nor copied: it is
// unmapped at once, up to this addon's image, a page of stack and the table. What runs there is a copy of one thread of a process
// that had many, so libc cannot be used: only what is in this file.
//
// It sleeps until the daemon is dead, or the daemon's successor asks for it (one of the daemon's threads may wait in the kernel for a disk,
// and cannot die then), sends what the table lists to the shelf (src/daemon/recovery/shelf.ts), and ends; at the end of
// a process the kernel closes what nobody else has open. That it lives, or does not, is told by `Table::holder`, which the kernel
// changes when it ends: a robust futex. So the daemon sees from the next store on that nobody would keep it.
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "args.h"
#include "kernel.h"
#include "register.h"

// The canary is in the thread's memory, which is unmapped.
#if __has_attribute(no_stack_protector)
#define LAMINA_BARE __attribute__((no_stack_protector))
#else
#define LAMINA_BARE __attribute__((optimize("no-stack-protector")))
#endif

// Where this addon's image begins and ends: by the linker.
extern "C" {
extern const char __ehdr_start[] __attribute__((visibility("hidden")));
extern const char _end[] __attribute__((visibility("hidden")));
}

namespace lamina {
namespace {

constexpr int kMostInMessage = 253;  // SCM_MAX_FD
constexpr uintptr_t kPage = 4096;

// src/daemon/recovery/held-table.ts writes and reads the same.
struct Table {
  uint32_t holder;  // id of this process; FUTEX_OWNER_DIED when it has ended
  uint32_t side;    // which of the two sockets is sent to first
  uint32_t used;    // entries behind so many are not in use
  uint32_t life;    // another number for each daemon: whose descriptors these are
  uint32_t asked;     // one more than the life of the daemon whose descriptors its successor asks for, with SIGUSR1
  uint32_t reserved[11];
  double nodeids[];  // of the object that each descriptor is; 0: it is not listed
};
static_assert(offsetof(Table, nodeids) == 64);

struct Range {
  uintptr_t from;
  uintptr_t to;
};

// What the process keeps of its own: one block of memory, its stack in it.
struct Block {
  Table* table;
  uint32_t most;  // descriptors that the table has room for
  int sockets[2];
  int daemon;       // a pidfd
  int signals;      // a signalfd: what is read from it is for the process that reads
  uint32_t life;
  Range keep[3];    // in order
  uintptr_t top;    // nothing is mapped from here on
  long pid;         // of the process, or -errno
  robust_list_head robust;
  robust_list lock;
  double nodeids[kMostInMessage];
  alignas(cmsghdr) char control[CMSG_SPACE(kMostInMessage * sizeof(int))];
  alignas(16) char stack[16 * 1024];
};

LAMINA_BARE long call(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0) {
#if defined(__x86_64__)
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                   : "rcx", "r11", "memory");
  return result;
#else
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
  return x0;
#endif
}

LAMINA_BARE long address(const void* of) { return reinterpret_cast<long>(of); }

// Some kernels seal a page of theirs, and refuse the whole range for it.
LAMINA_BARE void unmap(uintptr_t from, uintptr_t to) {
  if (from >= to || call(SYS_munmap, static_cast<long>(from), static_cast<long>(to - from)) == 0) return;
  const uintptr_t pages = (to - from) / kPage;
  if (pages <= 1) return;
  const uintptr_t middle = from + pages / 2 * kPage;
  unmap(from, middle);
  unmap(middle, to);
}

// False when it was not sent.
LAMINA_BARE bool send(Block* block, int socket, int count) {
  iovec part;
  part.iov_base = block->nodeids;
  part.iov_len = static_cast<size_t>(count) * sizeof(double);
  msghdr message;
  message.msg_name = nullptr;
  message.msg_namelen = 0;
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = block->control;
  message.msg_controllen = CMSG_SPACE(static_cast<size_t>(count) * sizeof(int));
  message.msg_flags = 0;
  reinterpret_cast<cmsghdr*>(block->control)->cmsg_len = CMSG_LEN(static_cast<size_t>(count) * sizeof(int));
  return call(SYS_sendmsg, socket, address(&message), MSG_NOSIGNAL) >= 0;
}

// What was sent is listed no more: what still is when the process has ended is lost.
LAMINA_BARE void send_to_either(Block* block, const int* fds, int count) {
  const uint32_t side = block->table->side & 1;
  if (!send(block, block->sockets[side], count) && !send(block, block->sockets[1 - side], count)) return;
  for (int i = 0; i < count; i++) block->table->nodeids[fds[i]] = 0;
}

LAMINA_BARE void send_all(Block* block) {
  auto* header = reinterpret_cast<cmsghdr*>(block->control);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  int* fds = reinterpret_cast<int*>(CMSG_DATA(header));
  const uint32_t used = block->table->used < block->most ? block->table->used : block->most;
  // One that cannot be sent takes the others of its message with it: these are tried once more, one by one.
  for (int most = kMostInMessage; most > 0; most = most > 1 ? 1 : 0) {
    int count = 0;
    for (uint32_t fd = 0; fd < used; fd++) {
      const double nodeid = block->table->nodeids[fd];
      if (nodeid != 0) {
        block->nodeids[count] = nodeid;
        fds[count++] = static_cast<int>(fd);
      }
      if (count == most || (count > 0 && fd + 1 == used)) {
        send_to_either(block, fds, count);
        count = 0;
      }
    }
  }
}

// The process's whole life. `block` is at the same place as in the daemon, and its own.
[[noreturn]] LAMINA_BARE void live(Block* block) {
  uintptr_t from = 0;
  for (const Range& keep : block->keep) {
    unmap(from, keep.from);
    from = keep.to;
  }
  unmap(from, block->top);
  static constexpr char kName[] = "lamina-orphans";
  call(SYS_prctl, PR_SET_NAME, address(kName));

  block->robust.list.next = &block->lock;
  block->lock.next = &block->robust.list;
  block->robust.futex_offset = address(&block->table->holder) - address(&block->lock);
  block->robust.list_op_pending = nullptr;
  if (call(SYS_set_robust_list, address(&block->robust), sizeof block->robust) != 0) call(SYS_exit_group, 1);
  __atomic_store_n(&block->table->holder, static_cast<uint32_t>(call(SYS_gettid)), __ATOMIC_RELEASE);

  pollfd awaited[2];
  awaited[0].fd = block->daemon;
  awaited[1].fd = block->signals;
  awaited[0].events = awaited[1].events = POLLIN;
  for (;;) {
    awaited[0].revents = awaited[1].revents = 0;
    call(SYS_ppoll, address(awaited), 2);
    if (awaited[0].revents != 0 || __atomic_load_n(&block->table->asked, __ATOMIC_ACQUIRE) == block->life + 1) break;
    // Somebody else's: taken, and of no meaning.
    if (awaited[1].revents != 0) call(SYS_read, block->signals, address(block->control), sizeof block->control);
  }
  // Somebody may have stopped it until another daemon had listed descriptors of its own.
  if (block->table->life == block->life) send_all(block);
  for (;;) call(SYS_exit_group, 0);
}

// In a process of a moment that shares the memory: what it starts has, unlike what a thread starts, no restartable sequence
// (rseq) whose memory the kernel would miss.
LAMINA_BARE int start(void* data) {
  auto* block = static_cast<Block*>(data);
  // The process inherits this one, so that nobody takes either for a daemon.
  static constexpr char kName[] = "lamina-holder";
  call(SYS_prctl, PR_SET_NAME, address(kName));
  const long pid = call(SYS_clone, CLONE_FILES | CLONE_PARENT | SIGCHLD);
  if (pid == 0) live(block);
  block->pid = pid;
  return 0;
}

// Of the last mapping of this process; what the kernel maps for everybody is above.
uintptr_t top_of_memory() {
  uintptr_t top = 0;
  FILE* maps = fopen("/proc/self/maps", "re");
  if (maps == nullptr) return 0;
  unsigned long from;
  unsigned long to;
  while (fscanf(maps, "%lx-%lx%*[^\n]", &from, &to) == 2) {
    if (static_cast<intptr_t>(from) > 0) top = to;
  }
  fclose(maps);
  return top;
}

Range pages_of(const void* from, const void* to) {
  return {reinterpret_cast<uintptr_t>(from) & ~(kPage - 1), (reinterpret_cast<uintptr_t>(to) + kPage - 1) & ~(kPage - 1)};
}

// pidfdSelf(): a descriptor of this process, close-on-exec, which is readable when it has ended; or -errno.
napi_value pidfd_self(napi_env env, napi_callback_info) { return result(env, syscall(SYS_pidfd_open, getpid(), 0)); }

// signalsOfOthers(): a descriptor, close-on-exec, through which a process that has SIGUSR1 blocked sees its own; or -errno.
napi_value signals_of_others(napi_env env, napi_callback_info) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  return result(env, signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

// holdOrphans(table, self, signals, a, b): starts the process, which waits for the end of this one (pidfdSelf), or to be asked
// (signalsOfOthers), and sends to the sockets `a` and `b`; its id, or -errno. `table` is shared memory. It becomes a child of this process's parent.
napi_value hold_orphans(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Bytes table = args.bytes(0);
  const int self = args.fd(1);
  const int signals = args.fd(2);
  const int a = args.fd(3);
  const int b = args.fd(4);
  if (!args.failed() && table.size < sizeof(Table)) args.wrong(0, "the table's memory");
  if (args.failed()) return args.reject();
  const uintptr_t top = top_of_memory();
  if (top == 0) return failure(env, ENOENT);
  void* memory = mmap(nullptr, sizeof(Block), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return failure(env, ENOMEM);
  auto* block = static_cast<Block*>(memory);
  block->table = reinterpret_cast<Table*>(table.data);
  block->most = static_cast<uint32_t>((table.size - sizeof(Table)) / sizeof(double));
  block->sockets[0] = a;
  block->sockets[1] = b;
  block->daemon = self;
  block->signals = signals;
  block->life = block->table->life;
  block->keep[0] = pages_of(__ehdr_start, _end);
  block->keep[1] = pages_of(block, block + 1);
  block->keep[2] = pages_of(table.data, table.data + table.size);
  std::sort(block->keep, block->keep + 3, [](const Range& one, const Range& other) { return one.from < other.from; });
  block->top = top;

  // It has them blocked for ever; this thread only until it is started.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int flags = CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_PARENT | SIGCHLD;
  long pid = clone(start, block->stack + sizeof block->stack, flags, block);
  pid = pid < 0 ? -errno : block->pid;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  munmap(memory, sizeof(Block));
  return integer(env, pid);
}

}  // namespace

bool register_orphan_holder(napi_env env, napi_value exports, State* state) {
  return define(env, exports, state, "pidfdSelf", pidfd_self) &&
         define(env, exports, state, "signalsOfOthers", signals_of_others) &&
         define(env, exports, state, "holdOrphans", hold_orphans);
}

}  // namespace lamina
