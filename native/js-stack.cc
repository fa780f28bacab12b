// What JavaScript is doing, asked from outside while it does it: an endless loop answers nothing else.
//
// Node-API has no interrupt. V8's own Isolate::RequestInterrupt has been the same since 2014, and Node exports it for addons; but to
// link against it would tie the addon to one version of V8. So both functions are looked up when they are needed, and where a
// version has them not, there is no stack.
#include <dlfcn.h>
#include <pthread.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <sstream>
#include <string>

#include "args.h"
#include "register.h"

namespace v8 {
class Isolate;
}

namespace lamina {
namespace {

using GetCurrent = v8::Isolate* (*)();
using RequestInterrupt = void (*)(v8::Isolate*, void (*)(v8::Isolate*, void*), void*);
using PrintStack = void (*)(v8::Isolate*, std::ostream&);
// Since V8 13: which frames are shown.
using PrintStackFiltered = void (*)(v8::Isolate*, std::ostream&, bool (*)(v8::Isolate*, void*));

// A packet to the keeper.
constexpr size_t kMostText = 12'000;
constexpr size_t kStack = 64 * 1024;

struct Reporter {
  int socket;
  v8::Isolate* isolate;
  RequestInterrupt interrupt;
};

void say(int socket, std::string text) {
  text.insert(text.begin(), 'J');
  if (text.size() > kMostText) text.resize(kMostText);
  while (send(socket, text.data(), text.size(), MSG_NOSIGNAL) < 0 && errno == EINTR) {
  }
}

// On the main thread, between two instructions of JavaScript. It must not run any.
void interrupted(v8::Isolate* isolate, void* data) {
  std::ostringstream text;
  if (const auto print = reinterpret_cast<PrintStack>(
          dlsym(RTLD_DEFAULT, "_ZN2v87Message22PrintCurrentStackTraceEPNS_7IsolateERSo"))) {
    print(isolate, text);
  } else if (const auto filtered = reinterpret_cast<PrintStackFiltered>(
                 dlsym(RTLD_DEFAULT,
                       "_ZN2v87Message22PrintCurrentStackTraceEPNS_7IsolateERSoPFbS2_NS_5LocalINS_6StringEEEE"))) {
    filtered(isolate, text, nullptr);
  }
  say(static_cast<Reporter*>(data)->socket, text.str());
}

void* wait_for_questions(void* data) {
  pthread_setname_np(pthread_self(), "lamina-stack");
  auto* reporter = static_cast<Reporter*>(data);
  for (;;) {
    char question;
    const ssize_t n = recv(reporter->socket, &question, 1, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return nullptr;  // the keeper is gone
    if (question == 'S') reporter->interrupt(reporter->isolate, interrupted, reporter);
  }
}

// reportStack(socket): from now on an 'S' that comes there is answered with 'J' and the stack of JavaScript. 0, or -errno: ENOSYS
// where this Node has no such functions.
napi_value report_stack(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int socket = args.fd(0);
  if (args.failed()) return args.reject();
  const auto current = reinterpret_cast<GetCurrent>(dlsym(RTLD_DEFAULT, "_ZN2v87Isolate10GetCurrentEv"));
  const auto interrupt = reinterpret_cast<RequestInterrupt>(
      dlsym(RTLD_DEFAULT, "_ZN2v87Isolate16RequestInterruptEPFvPS0_PvES2_"));
  if (current == nullptr || interrupt == nullptr) return failure(env, ENOSYS);
  // One for the life of the process.
  auto* reporter = new (std::nothrow) Reporter{socket, current(), interrupt};
  if (reporter == nullptr) return failure(env, ENOMEM);
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, kStack);
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const int rc = pthread_create(&thread, &attr, wait_for_questions, reporter);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attr);
  if (rc != 0) delete reporter;
  return integer(env, -rc);
}

}  // namespace

bool register_js_stack(napi_env env, napi_value exports, State* state) {
  return define(env, exports, state, "reportStack", report_stack);
}

}  // namespace lamina
