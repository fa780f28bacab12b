// lamina-enter: the last step into a container without an OCI runtime. It becomes the container's command: nothing of the host's is open in
// it, and what it is itself made of is a sealed copy in memory, so that a command `/proc/self/exe` is harmless.
//
// usage: lamina-enter FD
//          FD holds the request: records of a letter, a length of 4 bytes, and so many bytes.
//
//   J pid    joins the namespaces of that process, in a child; this process waits for it and ends as it does
//   N        with J: the network namespace too
//   t        its standard streams are a new pseudoterminal, whose other end goes to the socket 4; a byte comes back when it has its size
//   u g      uid and gid, 4 bytes each; G supplementary groups; o none can be set (a namespace with one id)
//   b        bounding set, 8 bytes; c the sets of the command, 8 bytes
//   n        no new privileges
//   s        a seccomp filter
//   w        working directory; a e p  an argument, a variable, a directory of PATH
//
// Errors are a line on standard error; the exit codes are those of shells: 125 before the command, 126 cannot be run, 127 not found.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <grp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { kSocket = 4, kFailed = 125, kDenied = 126, kMissing = 127 };
enum { kRequestLimit = 16 << 20, kDevptsMagic = 0x1cd1 };

struct request {
  int join, join_network, terminal, one_id, no_new_privileges;
  uint32_t uid, gid;
  uint32_t* groups;
  size_t group_count;
  uint64_t bounding, capabilities;
  struct sock_fprog filter;
  char* directory;
  char **args, **env, **paths;
};

static _Noreturn void fail(const char* what) {
  dprintf(2, "lamina: %s: %s\n", what, strerror(errno));
  _exit(kFailed);
}

static char* read_all(int fd, size_t* size) {
  size_t room = 1 << 16;
  char* data = malloc(room);
  *size = 0;
  while (data != NULL) {
    const ssize_t n = read(fd, data + *size, room - *size);
    if (n == 0) return data;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) break;
    *size += (size_t)n;
    if (*size < room) continue;
    if (room >= kRequestLimit) {
      errno = E2BIG;
      break;
    }
    data = realloc(data, room *= 2);
  }
  fail("the request");
}

// A list that ends with a null pointer; it holds `count` so far.
static char** append(char** list, char* text) {
  size_t count = 0;
  while (list != NULL && list[count] != NULL) count++;
  list = realloc(list, (count + 2) * sizeof *list);
  if (list == NULL) fail("memory");
  list[count] = text;
  list[count + 1] = NULL;
  return list;
}

static uint64_t number(const char* bytes, uint32_t length) {
  uint64_t value = 0;
  memcpy(&value, bytes, length < sizeof value ? length : sizeof value);
  return value;
}

// Of a little-endian or other machine alike: whoever writes the request is on the same one.
static void parse(char* data, size_t size, struct request* request) {
  for (size_t at = 0; at < size;) {
    if (size - at < 5) break;
    const char kind = data[at];
    uint32_t length = 0;
    memcpy(&length, data + at + 1, 4);
    char* const bytes = data + at + 5;
    // Each record is followed by a NUL, which is not counted.
    if (length >= size - at - 5 || bytes[length] != '\0') break;
    at += 5 + length + 1;
    switch (kind) {
      case 'J': request->join = (int)number(bytes, length); continue;
      case 'N': request->join_network = 1; continue;
      case 't': request->terminal = 1; continue;
      case 'o': request->one_id = 1; continue;
      case 'n': request->no_new_privileges = 1; continue;
      case 'u': request->uid = (uint32_t)number(bytes, length); continue;
      case 'g': request->gid = (uint32_t)number(bytes, length); continue;
      case 'b': request->bounding = number(bytes, length); continue;
      case 'c': request->capabilities = number(bytes, length); continue;
      case 'G':
        request->groups = malloc(length + 1);
        if (request->groups == NULL) fail("memory");
        memcpy(request->groups, bytes, length);
        request->group_count = length / sizeof *request->groups;
        continue;
      case 's':
        request->filter.len = (unsigned short)(length / sizeof(struct sock_filter));
        request->filter.filter = malloc(length + 1);
        if (request->filter.filter == NULL) fail("memory");
        memcpy(request->filter.filter, bytes, length);
        continue;
      case 'w': request->directory = bytes; continue;
      case 'a': request->args = append(request->args, bytes); continue;
      case 'e': request->env = append(request->env, bytes); continue;
      case 'p': request->paths = append(request->paths, bytes); continue;
      default: break;
    }
    break;
  }
  if (request->args != NULL && request->directory != NULL) return;
  errno = EINVAL;
  fail("the request");
}

// ---- namespaces

static const struct { const char* name; int type; } kNamespaces[] = {
    {"cgroup", CLONE_NEWCGROUP}, {"ipc", CLONE_NEWIPC}, {"uts", CLONE_NEWUTS},
    {"net", CLONE_NEWNET},       {"pid", CLONE_NEWPID}, {"mnt", CLONE_NEWNS},
};
enum { kNamespaceCount = sizeof kNamespaces / sizeof *kNamespaces };

// All are opened before one is joined: /proc is the host's until then.
static void join(const struct request* request) {
  int fds[kNamespaceCount];
  for (int i = 0; i < kNamespaceCount; i++) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/%s", request->join, kNamespaces[i].name);
    const int wanted = kNamespaces[i].type != CLONE_NEWNET || request->join_network;
    fds[i] = wanted ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (wanted && fds[i] < 0) fail("the container's process");
  }
  for (int i = 0; i < kNamespaceCount; i++) {
    if (fds[i] >= 0 && setns(fds[i], kNamespaces[i].type) != 0) fail("cannot join the container");
  }
}

static void become_child(void) {
  const pid_t child = fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    return;
  }
  // The child alone has them: their ends tell others of its end.
  for (int fd = 0; fd <= 1; fd++) close(fd);
  syscall(SYS_close_range, 3, ~0U, 0);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

// ---- terminal

static int open_safely(const char* path, uint64_t flags, uint64_t resolve) {
  struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = resolve};
  return (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
}

static void send_descriptor(int fd) {
  char byte = 0;
  struct iovec data = {&byte, 1};
  union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = {0};
  struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  struct cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(header), &fd, sizeof fd);
  if (sendmsg(kSocket, &message, MSG_NOSIGNAL) != 1) fail("the terminal");
  // The other end's reader does not wait, and both were made alike.
  fcntl(kSocket, F_SETFL, 0);
  ssize_t n;
  do n = read(kSocket, &byte, 1);
  while (n < 0 && errno == EINTR);
  if (n != 1) fail("the terminal");
}

// Of the container's own devpts, and of nothing that it has put in its place.
static void new_terminal(const struct request* request) {
  const int pair = open_safely("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK, RESOLVE_NO_SYMLINKS);
  struct stat st;
  struct statfs fs;
  if (pair < 0 || fstat(pair, &st) != 0 || fstatfs(pair, &fs) != 0) fail("/dev/pts/ptmx");
  if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(5, 2) || fs.f_type != kDevptsMagic) {
    errno = ENOTTY;
    fail("/dev/pts/ptmx");
  }
  const int unlocked = 0;
  if (ioctl(pair, TIOCSPTLCK, &unlocked) != 0) fail("the terminal");
  const int terminal = ioctl(pair, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (terminal < 0) fail("the terminal");
  if (fchown(terminal, request->uid, (gid_t)-1) != 0 && errno != EINVAL && errno != EPERM) fail("the terminal");
  fcntl(pair, F_SETFL, O_RDWR);
  send_descriptor(pair);
  for (int fd = 0; fd <= 2; fd++) {
    if (dup2(terminal, fd) < 0) fail("the terminal");
  }
  if (ioctl(0, TIOCSCTTY, 0) != 0) fail("the terminal");
}

// ---- rights

static int set_capabilities(uint64_t effective, uint64_t permitted) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2];
  for (int i = 0; i < 2; i++) {
    data[i].effective = (uint32_t)(effective >> (32 * i));
    data[i].permitted = (uint32_t)(permitted >> (32 * i));
    data[i].inheritable = 0;
  }
  return (int)syscall(SYS_capset, &header, data);
}

static uint64_t permitted_now(void) {
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2] = {{0}, {0}};
  if (syscall(SYS_capget, &header, data) != 0) fail("capget");
  return data[0].permitted | (uint64_t)data[1].permitted << 32;
}

static void drop_bounding(uint64_t keep) {
  for (unsigned long cap = 0; cap < 64 && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) {
    if ((keep >> cap & 1) == 0 && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0) fail("the bounding set");
  }
}

static void install_filter(const struct request* request) {
  if (request->filter.len == 0) return;
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &request->filter) != 0) fail("the seccomp filter");
}

// The directory is looked up with the rights of the command, and must be beneath the root: getcwd(2) says "(unreachable)" of others.
static void enter_directory(const char* path) {
  const int fd = open_safely(path, O_PATH | O_DIRECTORY, RESOLVE_NO_MAGICLINKS);
  if (fd < 0 || fchdir(fd) != 0) fail(path);
  char* const here = malloc(1 << 16);
  const long length = here == NULL ? -1 : syscall(SYS_getcwd, here, 1 << 16);
  if (length <= 0 || here[0] != '/') {
    errno = ENOENT;
    fail(path);
  }
  free(here);
  close(fd);
}

static void take_rights(const struct request* request) {
  drop_bounding(request->bounding);
  if (!request->one_id && setgroups(request->group_count, request->groups) != 0) fail("setgroups");
  if (setresgid(request->gid, request->gid, request->gid) != 0) fail("setgid");
  // A filter is installed with more rights than the command has.
  if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) fail("prctl");
  if (setresuid(request->uid, request->uid, request->uid) != 0) fail("setuid");
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  const uint64_t all = permitted_now();
  const uint64_t wanted = request->capabilities & all;
  if (set_capabilities(wanted, all) != 0) fail("capset");
  enter_directory(request->directory);
  if (request->no_new_privileges) {
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) fail("prctl");
    if (set_capabilities(wanted, wanted) != 0) fail("capset");
    install_filter(request);
    return;
  }
  if (set_capabilities(all, all) != 0) fail("capset");
  install_filter(request);
  if (set_capabilities(wanted, wanted) != 0) fail("capset");
}

// ---- the command

static void standard_signals(void) {
  struct sigaction standard = {.sa_handler = SIG_DFL};
  for (int number = 1; number < NSIG; number++) sigaction(number, &standard, NULL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

// Returns when it cannot: the errno to tell, 0 where there is none of the name.
static int run(const struct request* request) {
  static char* kNothing[] = {NULL};
  char** const env = request->env == NULL ? kNothing : request->env;
  const char* const program = request->args[0];
  if (strchr(program, '/') != NULL) {
    execve(program, request->args, env);
    return errno == ENOENT || errno == ENOTDIR ? 0 : errno;
  }
  int denied = 0;
  for (char** path = request->paths; path != NULL && *path != NULL; path++) {
    char* whole = NULL;
    if (asprintf(&whole, "%s/%s", **path == '\0' ? "." : *path, program) < 0) return ENOMEM;
    execve(whole, request->args, env);
    if (errno != ENOENT && errno != ENOTDIR && denied == 0) denied = errno;
    free(whole);
  }
  return denied;
}

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: lamina-enter FD\n");
    return 2;
  }
  // Nobody of the container looks into this process.
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  size_t size = 0;
  char* const data = read_all(atoi(argv[1]), &size);
  struct request request = {0};
  parse(data, size, &request);
  if (request.join != 0) {
    join(&request);
    become_child();
  }
  standard_signals();
  umask(022);
  if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS && errno != EPERM) fail("keyctl");
  if (setsid() < 0 && getsid(0) != getpid()) fail("setsid");
  if (request.terminal) new_terminal(&request);
  if (syscall(SYS_close_range, 3, ~0U, 0) != 0) fail("close_range");
  if (chdir("/") != 0) fail("/");
  take_rights(&request);
  const int denied = run(&request);
  dprintf(2, "lamina: cannot run '%s': %s\n", request.args[0], denied == 0 ? "not found in the container" : strerror(denied));
  return denied == 0 ? kMissing : kDenied;
}
