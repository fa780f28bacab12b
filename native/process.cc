// Becoming another program: what Node 20 lacks for the last step of entering a container.
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <new>
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

// exec(path, args, env): execve(2); `args` and `env` are buffers of strings that each end with NUL. Signals are as a new
// process has them: Node ignores SIGPIPE, and that would be inherited. Returns only when it failed.
napi_value exec(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Name path(args, 0);
  const Bytes words = args.bytes(1);
  const Bytes variables = args.bytes(2);
  if (args.failed()) return args.reject();
  std::vector<char*> argv;
  std::vector<char*> envp;
  if (!strings(words, &argv)) args.wrong(1, "strings that end with NUL");
  if (!strings(variables, &envp)) args.wrong(2, "strings that end with NUL");
  if (args.failed()) return args.reject();
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; number++) sigaction(number, &standard, nullptr);
  // Node closes the standard streams on exec.
  for (int fd = 0; fd <= 2; fd++) fcntl(fd, F_SETFD, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  return result(env, execve(path.c_str(), argv.data(), envp.data()));
}

// dropBounding(low, high): takes every capability whose bit is not set out of the bounding set, so that no program that
// this process becomes has it.
napi_value drop_bounding(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const uint64_t keep = (static_cast<uint64_t>(args.u32(1)) << 32) | args.u32(0);
  if (args.failed()) return args.reject();
  for (unsigned long cap = 0; cap < 64 && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) {
    if ((keep >> cap & 1) == 0 && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) return failure(env, errno);
  }
  return integer(env, 0);
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
         define(env, exports, state, "dropBounding", drop_bounding) &&
         define(env, exports, state, "setHostname", set_hostname);
}

}  // namespace lamina
