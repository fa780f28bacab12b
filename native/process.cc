// Becoming another program: what Node 20 lacks for the last step of entering a container.
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <linux/audit.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "args.h"
#include "register.h"

namespace lamina {
namespace {

// `a\0b\0` as an array of strings that ends with a null pointer.
bool strings(const Bytes& bytes, std::vector<char*>* out) {
  if (bytes.size > 0 && bytes.data[bytes.size - 1] != 0) return false;
  char* at = reinterpret_cast<char*>(bytes.data);
  char* const end = at + bytes.size;
  while (at < end) {
    out->push_back(at);
    at += strlen(at) + 1;
  }
  out->push_back(nullptr);
  return true;
}

// What execve(2) leaves to a program is as a new process has it: Node ignores SIGPIPE, and that would be inherited.
void forget_node() {
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; number++) sigaction(number, &standard, nullptr);
  // Node closes the standard streams on exec.
  for (int fd = 0; fd <= 2; fd++) fcntl(fd, F_SETFD, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

// exec(path | fd, args, env): execve(2), or execveat(2) of a descriptor; `args` and `env` are buffers of strings that each end with NUL.
// Returns only when it failed.
napi_value exec(napi_env env, napi_callback_info info) {
  Args args(env, info);
  napi_valuetype type = napi_undefined;
  napi_typeof(env, args.raw(0), &type);
  const int fd = type == napi_number ? args.fd(0) : -1;
  const std::string path = type == napi_number ? "" : args.text(0);
  const Bytes words = args.bytes(1);
  const Bytes variables = args.bytes(2);
  if (args.failed()) return args.reject();
  std::vector<char*> argv;
  std::vector<char*> envp;
  if (!strings(words, &argv)) args.wrong(1, "strings that end with NUL");
  if (!strings(variables, &envp)) args.wrong(2, "strings that end with NUL");
  if (args.failed()) return args.reject();
  forget_node();
  if (fd >= 0) return result(env, syscall(SYS_execveat, fd, "", argv.data(), envp.data(), AT_EMPTY_PATH));
  return result(env, execve(path.c_str(), argv.data(), envp.data()));
}

// A file in memory, close-on-exec. Where sysctl vm.memfd_noexec has an opinion, one that can be run has to say so.
int memory_file(const char* name, bool program) {
  constexpr unsigned kMfdNoexecSeal = 8, kMfdExec = 16;
  const unsigned flags = MFD_CLOEXEC | (program ? MFD_ALLOW_SEALING : 0);
  const int fd = memfd_create(name, flags | (program ? kMfdExec : kMfdNoexecSeal));
  return fd >= 0 || errno != EINVAL ? fd : memfd_create(name, flags);
}

bool write_all(int fd, const char* data, size_t size) {
  while (size > 0) {
    const ssize_t n = write(fd, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    data += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

// sealedCopy(path): a copy of a program that nobody can change, as a descriptor, or -errno.
napi_value sealed_copy(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Name path(args, 0);
  if (args.failed()) return args.reject();
  const int from = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (from < 0) return result(env, -1);
  const int to = memory_file("lamina", true);
  char buffer[1 << 15];
  ssize_t n = to < 0 ? -1 : 1;
  while (n > 0) {
    n = read(from, buffer, sizeof buffer);
    if (n > 0 && !write_all(to, buffer, static_cast<size_t>(n))) n = -1;
  }
  if (n == 0) n = fcntl(to, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
  const int error = errno;
  close(from);
  if (n == 0) return integer(env, to);
  if (to >= 0) close(to);
  return failure(env, error);
}

// memoryFile(bytes): a descriptor that a program can read them from, not closed on exec; or -errno.
napi_value memory_file_of(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Bytes bytes = args.bytes(0);
  if (args.failed()) return args.reject();
  const int fd = memory_file("request", false);
  if (fd < 0) return result(env, -1);
  if (write_all(fd, reinterpret_cast<const char*>(bytes.data), bytes.size) && lseek(fd, 0, SEEK_SET) == 0 &&
      fcntl(fd, F_SETFD, 0) == 0) {
    return integer(env, fd);
  }
  const int error = errno;
  close(fd);
  return failure(env, error);
}

// pipe(): [to read from, to write to], close-on-exec, or -errno.
napi_value pipe_pair(napi_env env, napi_callback_info) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return result(env, -1);
  napi_value out = nullptr;
  napi_create_array_with_length(env, 2, &out);
  for (uint32_t i = 0; i < 2; i++) napi_set_element(env, out, i, integer(env, fds[i]));
  return out;
}

// closeOnExec(first): every descriptor from `first` on.
napi_value close_on_exec(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const uint32_t first = args.u32(0);
  if (args.failed()) return args.reject();
  constexpr unsigned kCloseRangeCloexec = 4;
#ifndef SYS_close_range
  constexpr long SYS_close_range = 436;
#endif
  return result(env, syscall(SYS_close_range, first, ~0U, kCloseRangeCloexec));
}

struct Call {
  const char* name;
  int number;
};

constexpr Call kCalls[] = {
#include "syscalls.inc"
};

#if defined(__x86_64__)
constexpr uint32_t kAuditArch = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kAuditArch = AUDIT_ARCH_AARCH64;
#elif defined(__riscv) && __riscv_xlen == 64
constexpr uint32_t kAuditArch = AUDIT_ARCH_RISCV64;
#elif defined(__powerpc64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
constexpr uint32_t kAuditArch = AUDIT_ARCH_PPC64LE;
#else
constexpr uint32_t kAuditArch = 0;
#endif

// syscalls(): the numbers by name, of the architecture that this was built for; with `` its number for seccomp (AUDIT_ARCH_*), 0 where
// that is not known.
napi_value syscalls(napi_env env, napi_callback_info) {
  napi_value out = nullptr;
  napi_create_object(env, &out);
  for (const Call& call : kCalls) napi_set_named_property(env, out, call.name, integer(env, call.number));
  napi_set_named_property(env, out, "", integer(env, kAuditArch));
  return out;
}

// setHostname(name): of this UTS namespace.
napi_value set_hostname(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Name name(args, 0);
  if (args.failed()) return args.reject();
  return result(env, sethostname(name.c_str(), strlen(name.c_str())));
}

// exitNow(code): _exit(2), for a process with threads that wait for a filesystem that does not answer: exit(3) waits for them.
napi_value exit_now(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int code = args.i32(0);
  if (args.failed()) return args.reject();
  _exit(code);
}

}  // namespace

bool register_process(napi_env env, napi_value exports, State* state) {
  return define(env, exports, state, "exitNow", exit_now) && define(env, exports, state, "exec", exec) &&
         define(env, exports, state, "sealedCopy", sealed_copy) &&
         define(env, exports, state, "memoryFile", memory_file_of) &&
         define(env, exports, state, "pipe", pipe_pair) &&
         define(env, exports, state, "closeOnExec", close_on_exec) &&
         define(env, exports, state, "syscalls", syscalls) &&
         define(env, exports, state, "setHostname", set_hostname);
}

}  // namespace lamina
