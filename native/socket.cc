// UNIX sockets, and descriptors over them (SCM_RIGHTS).
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "args.h"
#include "kernel.h"
#include "register.h"

namespace lamina {
namespace {

constexpr size_t kFdMax = 253;  // SCM_MAX_FD, net/scm.h
constexpr size_t kControlSize = CMSG_SPACE(kFdMax * sizeof(int));

// socketpair(type): [a, b], close-on-exec, or -errno.
napi_value socketpair_(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int type = args.i32(0);
  if (args.failed()) return args.reject();
  int pair[2];
  if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair) != 0) return result(env, -1);
  napi_value out = nullptr;
  if (napi_create_array_with_length(env, 2, &out) != napi_ok) {
    close(pair[0]);
    close(pair[1]);
    return nullptr;
  }
  napi_set_element(env, out, 0, integer(env, pair[0]));
  napi_set_element(env, out, 1, integer(env, pair[1]));
  return out;
}

// listenAt(path): a UNIX socket to which others can connect, in place of one that was there; close-on-exec. Or -errno.
// Its mode is 0600.
napi_value listen_at(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const Name path(args, 0);
  if (args.failed()) return args.reject();
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  // To bind(2) that would be a name that Linux makes up.
  if (path.empty()) return failure(env, ENOENT);
  if (strlen(path.c_str()) >= sizeof address.sun_path) return failure(env, ENAMETOOLONG);
  strcpy(address.sun_path, path.c_str());
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return result(env, -1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return result(env, -1);
  // The file is made with this mode: who may connect may unmount.
  if (fchmod(fd, 0600) != 0 || bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      listen(fd, SOMAXCONN) != 0) {
    const int error = errno;
    close(fd);
    return failure(env, error);
  }
  return integer(env, fd);
}

// sendFds(socket, fds, data): bytes sent or -errno. SIGPIPE is not raised.
napi_value send_fds(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int socket = args.fd(0);
  const Bytes data = args.bytes(2);
  uint32_t count = 0;
  if (!args.failed() && napi_get_array_length(env, args.raw(1), &count) != napi_ok) {
    args.wrong(1, "an array of file descriptors");
  }
  if (!args.failed() && count > kFdMax) args.wrong(1, "an array of at most 253 file descriptors");
  // A message of no bytes carries no descriptors over a stream.
  if (!args.failed() && data.size == 0) args.wrong(2, "a Buffer of at least one byte");
  if (args.failed()) return args.reject();
  int fds[kFdMax];
  for (uint32_t i = 0; i < count; i++) {
    napi_value value = nullptr;
    double fd = -1;
    if (napi_get_element(env, args.raw(1), i, &value) != napi_ok ||
        napi_get_value_double(env, value, &fd) != napi_ok || !(fd >= 0 && fd <= INT_MAX)) {
      args.wrong(1, "an array of file descriptors");
      return args.reject();
    }
    fds[i] = static_cast<int>(fd);
  }
  alignas(cmsghdr) char control[kControlSize] = {};
  iovec vector = {data.data, data.size};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  if (count > 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, count * sizeof(int));
  }
  ssize_t rc;
  do rc = sendmsg(socket, &message, MSG_NOSIGNAL);
  while (rc < 0 && errno == EINTR);
  return result(env, rc);
}

// [bytes, ...fds] of a message that was received, or -errno.
napi_value received(napi_env env, msghdr& message, ssize_t bytes) {
  int fds[kFdMax];
  size_t count = 0;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t here = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < here && count < kFdMax; i++) {
      memcpy(&fds[count++], CMSG_DATA(header) + i * sizeof(int), sizeof(int));
    }
  }
  napi_value out = nullptr;
  if ((message.msg_flags & MSG_CTRUNC) != 0 || napi_create_array_with_length(env, count + 1, &out) != napi_ok) {
    for (size_t i = 0; i < count; i++) close(fds[i]);
    return failure(env, EMFILE);
  }
  napi_set_element(env, out, 0, integer(env, bytes));
  for (size_t i = 0; i < count; i++) napi_set_element(env, out, static_cast<uint32_t>(i) + 1, integer(env, fds[i]));
  return out;
}

napi_value receive(napi_env env, napi_callback_info info, int flags) {
  Args args(env, info);
  const int socket = args.fd(0);
  const Bytes data = args.bytes(1);
  if (args.failed()) return args.reject();
  alignas(cmsghdr) char control[kControlSize];
  iovec vector = {data.data, data.size};
  msghdr message = {};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t rc;
  do rc = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | flags);
  while (rc < 0 && errno == EINTR);
  return rc < 0 ? result(env, -1) : received(env, message, rc);
}

// recvFds(socket, buffer): [bytes, ...fds], the descriptors close-on-exec; or -errno. When some descriptors could not be
// given (the process's limit), none is: EMFILE.
napi_value recv_fds(napi_env env, napi_callback_info info) { return receive(env, info, 0); }

// peekFds(socket, buffer): the same, and the message stays in the socket, where setPeekOffset said, which moves on to the next.
napi_value peek_fds(napi_env env, napi_callback_info info) { return receive(env, info, MSG_PEEK | MSG_DONTWAIT); }

// setPeekOffset(socket, offset): 0 or -errno.
napi_value set_peek_offset(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int socket = args.fd(0);
  const int offset = args.i32(1);
  if (args.failed()) return args.reject();
  return result(env, setsockopt(socket, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset));
}

// peerPid(socket): who connected, in this PID namespace (0: a process outside of it); or -errno. Source: unix(7), SO_PEERCRED
napi_value peer_pid(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int socket = args.fd(0);
  if (args.failed()) return args.reject();
  ucred peer = {};
  socklen_t size = sizeof peer;
  return result(env, getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ? -1 : peer.pid);
}

// discardMessages(socket, most): takes messages away, their descriptors with them; how many there were.
napi_value discard_messages(napi_env env, napi_callback_info info) {
  Args args(env, info);
  const int socket = args.fd(0);
  const int64_t most = args.i64(1);
  if (args.failed()) return args.reject();
  int64_t count = 0;
  char byte;
  while (count < most) {
    const ssize_t n = recv(socket, &byte, 1, MSG_DONTWAIT | MSG_TRUNC);
    if (n > 0) count++;
    else if (n == 0 || errno != EINTR) break;
  }
  return integer(env, count);
}

}  // namespace

bool register_socket(napi_env env, napi_value exports, State* state) {
  return define(env, exports, state, "socketpair", socketpair_) &&
         define(env, exports, state, "listenAt", listen_at) &&
         define(env, exports, state, "sendFds", send_fds) && define(env, exports, state, "recvFds", recv_fds) &&
         define(env, exports, state, "peekFds", peek_fds) &&
         define(env, exports, state, "setPeekOffset", set_peek_offset) &&
         define(env, exports, state, "peerPid", peer_pid) &&
         define(env, exports, state, "discardMessages", discard_messages);
}

}  // namespace lamina
