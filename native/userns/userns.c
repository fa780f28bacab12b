// lamina-userns: what Node cannot do about user namespaces, since only a process with one thread may make or join one.
//
// usage: lamina-userns hold ID [PID USER MOUNT]
//          becomes the process that keeps an ordinary user's namespaces, new ones or those of PID, whose inode numbers are
//          USER and MOUNT. ID is theirs: inode numbers are used again at once. Descriptor 3 is a socket to the starter, descriptor 4 the state file, locked by the starter: the
//          lock is on the open file, so it is this process's from then on, and ends with it.
//        lamina-userns enter FILE PROGRAM ARG…
//          becomes PROGRAM in the namespaces whose state file is FILE.
//
// On the socket, a line each:
//   U PID        out     the user namespace is there and has no ids yet
//   m | s        in      the starter has given it ids (newuidmap) | it shall give itself its one id
//   R PID        out     ready; the state file is written
//   E text       out     it failed
// The socket's end before R ends this process: a starter that dies leaves nothing.
//
// The state file has one line: PID USER MOUNT PIDNS ID, three of them inode numbers of namespaces. It counts while the file is
// locked: liveness is the lock, never a pid.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { kStarter = 3, kState = 4 };

// ---- small things

static unsigned long long inode_of(int fd) {
  struct stat st;
  return fstat(fd, &st) == 0 ? (unsigned long long)st.st_ino : 0;
}

static int open_namespace(const char* pid, const char* name) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%s/ns/%s", pid, name);
  return open(path, O_RDONLY | O_CLOEXEC);
}

static unsigned long long own_inode(const char* name) {
  const int fd = open_namespace("self", name);
  const unsigned long long inode = fd < 0 ? 0 : inode_of(fd);
  if (fd >= 0) close(fd);
  return inode;
}

static int write_file(const char* path, const char* text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  const ssize_t length = (ssize_t)strlen(text);
  const int ok = write(fd, text, (size_t)length) == length;
  const int error = errno;
  close(fd);
  errno = error;
  return ok ? 0 : -1;
}

// User first: it gives the right to join the other.
static int join(int user, int mount) {
  return setns(user, CLONE_NEWUSER) == 0 && setns(mount, CLONE_NEWNS) == 0 ? 0 : -1;
}

// ---- hold

static void fail_start(const char* what) {
  dprintf(kStarter, "E %s: %s\n", what, strerror(errno));
  exit(1);
}

static int read_word(void) {
  char word = 0;
  ssize_t n;
  do n = read(kStarter, &word, 1);
  while (n < 0 && errno == EINTR);
  return n == 1 ? word : 0;
}

// One id: an ordinary user may map nothing else by himself, and only without setgroups(2).
static void map_own_id(uid_t uid, gid_t gid) {
  char map[64];
  if (write_file("/proc/self/setgroups", "deny") != 0) fail_start("/proc/self/setgroups");
  snprintf(map, sizeof map, "0 %u 1", uid);
  if (write_file("/proc/self/uid_map", map) != 0) fail_start("/proc/self/uid_map");
  snprintf(map, sizeof map, "0 %u 1", gid);
  if (write_file("/proc/self/gid_map", map) != 0) fail_start("/proc/self/gid_map");
}

static void make_namespaces(void) {
  const uid_t uid = geteuid();
  const gid_t gid = getegid();
  if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) fail_start("unshare");
  dprintf(kStarter, "U %d\n", (int)getpid());
  const int word = read_word();
  if (word == 0) exit(1);
  if (word == 's') map_own_id(uid, gid);
  // What the host mounts later is seen here; what is mounted here is seen nowhere else.
  if (mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL) != 0) fail_start("mount --make-rslave /");
}

static void take_namespaces(const char* pid, unsigned long long user_inode, unsigned long long mount_inode) {
  const int user = open_namespace(pid, "user");
  const int mount = open_namespace(pid, "mnt");
  if (user < 0 || mount < 0) fail_start("the namespaces of the process that uses them");
  if (inode_of(user) != user_inode || inode_of(mount) != mount_inode) {
    errno = ESRCH;
    fail_start("the process that uses the namespaces");
  }
  if (join(user, mount) != 0) fail_start("setns");
  close(user);
  close(mount);
}

static int hold(int argc, char** argv) {
  // Whoever starts this is not its parent for long: nothing waits for its end.
  const pid_t child = fork();
  if (child < 0) fail_start("fork");
  if (child > 0) return 0;
  setsid();
  signal(SIGHUP, SIG_IGN);
  signal(SIGINT, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_NAME, "lamina-holder");
  if (chdir("/") != 0) fail_start("chdir /");
  if (argc == 6) take_namespaces(argv[3], strtoull(argv[4], NULL, 10), strtoull(argv[5], NULL, 10));
  else make_namespaces();

  char line[128];
  const int length = snprintf(line, sizeof line, "%d %llu %llu %llu %.32s\n", (int)getpid(), own_inode("user"),
                              own_inode("mnt"), own_inode("pid"), argv[2]);
  if (ftruncate(kState, 0) != 0 || pwrite(kState, line, (size_t)length, 0) != length) fail_start("the state file");
  dprintf(kStarter, "R %d\n", (int)getpid());
  // Only the state file stays open, and with it the lock.
  const int null = open("/dev/null", O_RDWR);
  for (int fd = 0; fd <= kStarter; fd++) {
    if (null >= 0) dup2(null, fd);
    else close(fd);
  }
  if (null > kState) close(null);
  for (;;) pause();
}

// ---- enter

static int fail_enter(const char* what, const char* why) {
  fprintf(stderr, "lamina: %s: %s\n", what, why);
  return 1;
}

static int is_held(int state) {
  if (flock(state, LOCK_SH | LOCK_NB) == 0) {
    flock(state, LOCK_UN);
    return 0;
  }
  return errno == EWOULDBLOCK;
}

static int enter(char** argv) {
  static const char* const kGone = "it has just ended: try again";
  const char* file = argv[2];
  const int state = open(file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (state < 0) return fail_enter(file, strerror(errno));
  char line[128];
  const ssize_t length = pread(state, line, sizeof line - 1, 0);
  if (!is_held(state) || length <= 0) return fail_enter("the user namespace", kGone);
  line[length] = '\0';
  char pid[16];
  unsigned long long user_inode = 0, mount_inode = 0;
  char id[33];
  if (sscanf(line, "%15s %llu %llu %*u %32s", pid, &user_inode, &mount_inode, id) != 4) return fail_enter(file, "not a state file");
  const int user = open_namespace(pid, "user");
  const int mount = open_namespace(pid, "mnt");
  if (user < 0 || mount < 0) return fail_enter("the user namespace", strerror(errno));
  // Held still, so its pid was its own when the namespaces were opened.
  if (!is_held(state) || inode_of(user) != user_inode || inode_of(mount) != mount_inode) {
    return fail_enter("the user namespace", kGone);
  }
  close(state);

  // Node has made pipes non-blocking, which whoever has them after us does not expect.
  for (int fd = 0; fd <= 2; fd++) {
    const int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && (flags & O_NONBLOCK) != 0) fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
  }

  char directory[PATH_MAX];
  const int known = getcwd(directory, sizeof directory) != NULL && directory[0] == '/';
  char value[128];
  snprintf(value, sizeof value, "%u:%llu:%llu:%s", geteuid(), user_inode, mount_inode, id);
  if (join(user, mount) != 0) return fail_enter("cannot join the user namespace", strerror(errno));
  close(user);
  close(mount);
  if (!known || chdir(directory) != 0) {
    const char* why = known ? strerror(errno) : "it was removed";
    if (chdir("/") != 0) return fail_enter("/", strerror(errno));
    fprintf(stderr, "lamina: the working directory is not there in the user namespace (%s): going on in /\n", why);
  }
  setenv("LAMINA_USERNS", value, 1);
  execvp(argv[3], argv + 3);
  const int error = errno;
  fail_enter(argv[3], strerror(error));
  return error == ENOENT ? 127 : 126;
}

int main(int argc, char** argv) {
  if ((argc == 3 || argc == 6) && strcmp(argv[1], "hold") == 0) return hold(argc, argv);
  if (argc >= 4 && strcmp(argv[1], "enter") == 0) return enter(argv);
  fprintf(stderr, "usage: lamina-userns hold ID [PID USER MOUNT] | enter FILE PROGRAM ARG...\n");
  return 2;
}
