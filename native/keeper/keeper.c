// lamina-keeper: holds what one mount must not lose when its daemon dies, starts the daemon, and starts it again.
//
// usage: lamina-keeper PROGRAM ARG…        descriptor 3 is the socket to whoever mounts; it goes to the daemon as it is
//
// It holds the descriptors that the daemon hands over (first of all /dev/fuse: a connection lives as long as one process has
// it), the memory with the recovery state, and two socket pairs in which the daemon keeps objects that no name leads to. It looks
// into none of them but the first page of the state (state.h), and does nothing while the daemon lives but a look every few
// seconds whether requests are being taken.
//
// Messages from the daemon, one a packet, on the socket whose number is in LAMINA_KEEPER:
//   F + descriptors   keep these, behind those kept before; a new daemon finds their numbers in LAMINA_KEEPER_FDS
//   R …               the mount is there, or taken over; strings that end in NUL follow: mountpoint, its device (0:NN), path of
//                     the record without its ending, seconds of the watchdog (0: none), "replace" or "abort"
//   U program\0main\0 replace the daemon by this one now; the old one comes back if this one does not get to R
//   E                 the mount has ended: the daemon's next end is the last
//
// Signals: TERM, INT, HUP, USR1 are handed on. The daemon has a process group of its own, so that a terminal's Ctrl-C comes once.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "state.h"

enum { kStarter = 3, kMaxKept = 4096, kPacket = 16384, kMaxFdsInPacket = 253 };
// A daemon that was killed and has not gone after so long waits in the kernel for something that does not come.
static const int64_t kKillLimitMs = 10000;
static const int64_t kSameSignalMs = 300;

extern char** environ;

static struct {
  char** argv;      // of the daemon
  char** previous;  // what to go back to when an upgrade does not start
  pid_t daemon;     // 0: none
  int control;      // our end
  int control_theirs;
  int memory;
  int shelves[4];
  int kept[kMaxKept];
  int kept_count;
  struct keeper_page* page;
  int bound;       // the starter's socket is handed to every daemon
  int starter_open;
  int ready;       // the running daemon has said R
  int was_ready;   // some daemon has
  int ending;      // the daemon has said E
  int gone_wrong;  // starts in a row that did not get to R
  char mountpoint[4096];
  char device[32];
  char record[512];
  int watchdog;  // seconds
  int watchdog_aborts;
  int64_t deaths[64];  // times of the last ones, a ring
  unsigned death_count;
  unsigned death_limit;
  int64_t death_window;
  int64_t start_at;       // when to start the next daemon; 0: not waiting
  int64_t killed_at;      // when the daemon was killed by us
  int64_t stuck_since;    // requests wait and the heart does not beat
  uint32_t last_beat;
  int last_signal;
  int64_t last_signal_at;
  int oom_score;
} k;

static int64_t now_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

// To standard error (the log, if there is one) and to syslog: the reason of a death must not be lost.
__attribute__((format(printf, 2, 3))) static void say(int priority, const char* format, ...) {
  char text[2048];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  char when[32] = "";
  const time_t t = time(NULL);
  struct tm tm;
  if (gmtime_r(&t, &tm) != NULL) strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
  dprintf(STDERR_FILENO, "lamina-keeper: %s %s: %s\n", when, k.mountpoint[0] ? k.mountpoint : "(not mounted yet)", text);
  syslog(priority, "%s: %s", k.mountpoint, text);
}

static int read_small(const char* path, char* out, size_t size) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  const ssize_t n = read(fd, out, size - 1);
  close(fd);
  if (n < 0) return -1;
  out[n] = '\0';
  return (int)n;
}

static void write_small(const char* path, const char* text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  if (write(fd, text, strlen(text)) < 0) {
    // Not allowed, or gone already: as good as it gets.
  }
  close(fd);
}

// ---- the daemon's life

static void set_oom_score(int score) {
  char text[16];
  snprintf(text, sizeof text, "%d", score);
  write_small("/proc/self/oom_score_adj", text);
}

static void inherit(int fd) {
  if (fd >= 0) fcntl(fd, F_SETFD, 0);
}

static _Noreturn void become_daemon(void) {
  setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  set_oom_score(k.oom_score);
  inherit(k.control_theirs);
  inherit(k.memory);
  for (int i = 0; i < 4; i++) inherit(k.shelves[i]);
  static char fds[kMaxKept * 12];
  size_t used = 0;
  for (int i = 0; i < k.kept_count; i++) {
    inherit(k.kept[i]);
    used += (size_t)snprintf(fds + used, sizeof fds - used, "%s%d", i == 0 ? "" : ",", k.kept[i]);
  }
  char text[128];
  snprintf(text, sizeof text, "%d", k.control_theirs);
  setenv("LAMINA_KEEPER", text, 1);
  snprintf(text, sizeof text, "%d,%d,%d,%d,%d", k.memory, k.shelves[0], k.shelves[1], k.shelves[2], k.shelves[3]);
  setenv("LAMINA_KEEPER_STATE", text, 1);
  if (k.was_ready) setenv("LAMINA_KEEPER_FDS", fds, 1);
  execvp(k.argv[0], k.argv);
  dprintf(STDERR_FILENO, "lamina-keeper: cannot run %s: %s\n", k.argv[0], strerror(errno));
  _exit(127);
}

static void start_daemon(void) {
  k.start_at = 0;
  k.killed_at = 0;
  k.stuck_since = 0;
  k.ready = 0;
  const pid_t pid = fork();
  if (pid < 0) {
    say(LOG_ERR, "cannot start a daemon: %s", strerror(errno));
    k.start_at = now_ms() + 500;
    return;
  }
  if (pid == 0) become_daemon();
  setpgid(pid, pid);
  k.daemon = pid;
  // The end of the starter's socket tells the starter that nobody answers.
  if (!k.bound && k.starter_open) close(kStarter);
  if (!k.bound) k.starter_open = 0;
}

static void copy_text(char* to, size_t size, const char* from) { snprintf(to, size, "%s", from); }

// The connection is over: unmounted or aborted, and no daemon can serve it.
static int connection_over(void) {
  if (k.kept_count == 0) return 1;
  struct pollfd device = {.fd = k.kept[0], .events = POLLIN};
  return poll(&device, 1, 0) > 0 && (device.revents & (POLLERR | POLLNVAL)) != 0;
}

static void remove_record(void) {
  if (k.record[0] == '\0') return;
  static const char* const endings[] = {".json", ".json.new", ".sock"};
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
    char path[600];
    snprintf(path, sizeof path, "%s%s", k.record, endings[i]);
    unlink(path);
  }
}

// Resolves the \040 and the like of mountinfo.
static void unescape(char* text) {
  char* to = text;
  for (const char* at = text; *at != '\0';) {
    if (at[0] == '\\' && at[1] >= '0' && at[1] <= '3' && at[2] != '\0' && at[3] != '\0') {
      *to++ = (char)((at[1] - '0') * 64 + (at[2] - '0') * 8 + (at[3] - '0'));
      at += 4;
    } else {
      *to++ = *at++;
    }
  }
  *to = '\0';
}

// Whether our mount is what is on top there: nothing that somebody else mounted since may be taken away.
static int mounted_here(void) {
  FILE* file = fopen("/proc/self/mountinfo", "re");
  if (file == NULL) return 0;
  char* line = NULL;
  size_t size = 0;
  int ours = 0;
  while (getline(&line, &size, file) > 0) {
    char* save = NULL;
    strtok_r(line, " ", &save);
    strtok_r(NULL, " ", &save);
    const char* device = strtok_r(NULL, " ", &save);
    strtok_r(NULL, " ", &save);
    char* where = strtok_r(NULL, " ", &save);
    if (device == NULL || where == NULL) continue;
    unescape(where);
    if (strcmp(where, k.mountpoint) == 0) ours = strcmp(device, k.device) == 0;
  }
  free(line);
  fclose(file);
  return ours;
}

static void unmount_by_helper(void) {
  const pid_t pid = fork();
  if (pid == 0) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execlp("fusermount3", "fusermount3", "-u", "-z", "--", k.mountpoint, (char*)NULL);
    execlp("fusermount", "fusermount", "-u", "-z", "--", k.mountpoint, (char*)NULL);
    _exit(127);
  }
  if (pid > 0) waitpid(pid, NULL, 0);
}

static _Noreturn void finish(int code) {
  if (k.was_ready) remove_record();
  exit(code);
}

// Ends the mount under its users: they get an error instead of waiting for ever.
static _Noreturn void give_up(const char* why) {
  say(LOG_ERR, "%s: the mount is ended", why);
  const char* minor = strchr(k.device, ':');
  if (minor != NULL) {
    char path[128];
    snprintf(path, sizeof path, "/sys/fs/fuse/connections/%s/abort", minor + 1);
    write_small(path, "1");
  }
  if (mounted_here() && umount2(k.mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW) != 0) unmount_by_helper();
  finish(1);
}

static const char* cause_of(int status, char* text, size_t size) {
  if (WIFSIGNALED(status)) {
    const int number = WTERMSIG(status);
    snprintf(text, size, "killed by signal %d (%s)%s", number, strsignal(number), WCOREDUMP(status) ? ", core dumped" : "");
  } else {
    snprintf(text, size, "exit code %d", WEXITSTATUS(status));
  }
  return text;
}

// How many of the remembered deaths are younger than the window.
static unsigned recent_deaths(int64_t now) {
  const unsigned slots = sizeof k.deaths / sizeof *k.deaths;
  const unsigned known = k.death_count < slots ? k.death_count : slots;
  unsigned recent = 0;
  for (unsigned i = 0; i < known; i++) recent += now - k.deaths[i] < k.death_window;
  return recent;
}

static void daemon_ended(int status) {
  const pid_t pid = k.daemon;
  k.daemon = 0;
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  // Before the mount was there: the daemon has told its starter why, and there is nothing to take over.
  if (!k.was_ready || k.ending) finish(code);
  if (connection_over()) finish(WIFEXITED(status) ? code : 0);

  char cause[128];
  const int64_t now = now_ms();
  k.deaths[k.death_count++ % (sizeof k.deaths / sizeof *k.deaths)] = now;
  k.page->deaths++;
  k.page->last_status = (uint32_t)status;
  k.page->last_death = (double)time(NULL) * 1000;
  say(LOG_WARNING, "the daemon (pid %d) has ended: %s", (int)pid, cause_of(status, cause, sizeof cause));

  if (!k.ready && k.previous != NULL) {
    say(LOG_ERR, "the new program does not start: back to the one before");
    k.argv = k.previous;
    k.previous = NULL;
    k.gone_wrong = 0;
  } else if (!k.ready) {
    k.gone_wrong++;
  } else {
    k.gone_wrong = 0;
  }
  if (k.death_limit > 0 && recent_deaths(now) > k.death_limit) give_up("the daemon has died too often");
  // At once, since callers wait; later only when it is the start that fails.
  const int64_t pause = k.gone_wrong == 0 ? 0 : 100LL << (k.gone_wrong < 5 ? k.gone_wrong : 5);
  if (pause == 0) {
    start_daemon();
  } else {
    k.start_at = now + pause;
  }
}

static void reap(void) {
  int status = 0;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    if (pid == k.daemon) daemon_ended(status);
  }
}

// ---- what the daemon says

static char** words_of(char* text, size_t size, const char* last) {
  size_t count = 0;
  for (size_t i = 0; i < size; i++) count += text[i] == '\0';
  char** words = calloc(count + 2, sizeof *words);
  if (words == NULL) return NULL;
  size_t used = 0;
  for (char* at = text; at < text + size && used < count; at += strlen(at) + 1) {
    words[used] = strdup(at);
    if (words[used] == NULL) return NULL;
    used++;
  }
  if (last != NULL) words[used] = strdup(last);
  return words;
}

static void became_ready(char* text, size_t size) {
  char** words = words_of(text, size, NULL);
  int count = 0;
  while (words != NULL && words[count] != NULL) count++;
  if (count < 5) return;
  copy_text(k.mountpoint, sizeof k.mountpoint, words[0]);
  copy_text(k.device, sizeof k.device, words[1]);
  copy_text(k.record, sizeof k.record, words[2]);
  k.watchdog = atoi(words[3]);
  k.watchdog_aborts = strcmp(words[4], "abort") == 0;
  for (int i = 0; i < count; i++) free(words[i]);
  free(words);
  if (k.was_ready) say(LOG_NOTICE, "a new daemon (pid %d) serves the mount", (int)k.daemon);
  k.ready = k.was_ready = 1;
  k.previous = NULL;
  k.last_beat = k.page->beat;
}

static void upgrade(char* text, size_t size) {
  // The mountpoint, for people who look at ps, stays the last argument.
  int count = 0;
  while (k.argv[count] != NULL) count++;
  char** argv = words_of(text, size, k.argv[count - 1]);
  if (argv == NULL || argv[0] == NULL || !k.ready || k.daemon == 0) return;
  int words = 0;
  while (argv[words] != NULL) words++;
  say(LOG_NOTICE, "the daemon is replaced by %s", argv[words > 2 ? words - 2 : 0]);  // program, flags, main, mountpoint
  k.previous = k.argv;
  k.argv = argv;
  kill(k.daemon, SIGKILL);
}

static void receive(void) {
  static char text[kPacket + 1];
  union {
    char bytes[CMSG_SPACE(kMaxFdsInPacket * sizeof(int))];
    struct cmsghdr align;
  } control;
  for (;;) {
    struct iovec part = {text, kPacket};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    const ssize_t n = recvmsg(k.control, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n <= 0) return;
    text[n] = '\0';
    for (struct cmsghdr* at = CMSG_FIRSTHDR(&message); at != NULL; at = CMSG_NXTHDR(&message, at)) {
      if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS) continue;
      const size_t count = (at->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count; i++) {
        int fd;
        memcpy(&fd, CMSG_DATA(at) + i * sizeof fd, sizeof fd);
        if (text[0] == 'F' && k.kept_count < kMaxKept) k.kept[k.kept_count++] = fd;
        else close(fd);
      }
    }
    if (text[0] == 'R') became_ready(text + 1, (size_t)n - 1);
    if (text[0] == 'U') upgrade(text + 1, (size_t)n - 1);
    if (text[0] == 'E') k.ending = 1;
  }
}

// ---- the watchdog

static void log_threads(void) {
  char path[300];
  char text[512];
  char name[64];
  snprintf(path, sizeof path, "/proc/%d/task", (int)k.daemon);
  DIR* tasks = opendir(path);
  if (tasks == NULL) return;
  for (struct dirent* entry; (entry = readdir(tasks)) != NULL;) {
    if (entry->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "/proc/%d/task/%.20s/comm", (int)k.daemon, entry->d_name);
    if (read_small(path, name, sizeof name) > 0) name[strcspn(name, "\n")] = '\0';
    snprintf(path, sizeof path, "/proc/%d/task/%.20s/stack", (int)k.daemon, entry->d_name);
    if (read_small(path, text, sizeof text) <= 0) {
      snprintf(path, sizeof path, "/proc/%d/task/%.20s/wchan", (int)k.daemon, entry->d_name);
      if (read_small(path, text, sizeof text) <= 0) copy_text(text, sizeof text, "?");
    }
    for (char* at = text; *at != '\0'; at++) if (*at == '\n') *at = ' ';
    say(LOG_WARNING, "thread %.20s (%s): %s", entry->d_name, name, text);
  }
  closedir(tasks);
}

static void daemon_hangs(int64_t now) {
  const struct keeper_request* request = &k.page->request;
  say(LOG_ERR, "the daemon (pid %d) has taken no request for %d s; the last one: opcode %u, nodeid %llu, of pid %u", (int)k.daemon,
      (int)((now - k.stuck_since) / 1000), request->opcode, (unsigned long long)request->nodeid, request->pid);
  log_threads();
  if (k.watchdog_aborts) {
    kill(k.daemon, SIGKILL);
    give_up("the daemon hangs");
  }
  k.killed_at = now;
  k.stuck_since = 0;
  kill(k.daemon, SIGKILL);
}

static void watch(void) {
  const int64_t now = now_ms();
  if (k.killed_at != 0 && now - k.killed_at > kKillLimitMs) give_up("the daemon cannot be killed: it waits for a device");
  if (!k.ready || k.watchdog == 0 || k.daemon == 0 || k.killed_at != 0 || k.kept_count == 0) return;
  struct pollfd device = {.fd = k.kept[0], .events = POLLIN};
  const int waiting = poll(&device, 1, 0) > 0 && (device.revents & POLLIN) != 0 && (device.revents & POLLERR) == 0;
  const uint32_t beat = k.page->beat;
  if (!waiting || beat != k.last_beat) {
    k.last_beat = beat;
    k.stuck_since = 0;
  } else if (k.stuck_since == 0) {
    k.stuck_since = now;
  } else if (now - k.stuck_since >= (int64_t)k.watchdog * 1000) {
    daemon_hangs(now);
  }
}

// ---- signals

static void hand_on(int number) {
  const int64_t now = now_ms();
  // Ctrl-C reaches us, and whoever started us and hands it on.
  if (number == k.last_signal && now - k.last_signal_at < kSameSignalMs) return;
  k.last_signal = number;
  k.last_signal_at = now;
  if (k.daemon != 0) kill(k.daemon, number);
  else if (number != SIGUSR1) give_up("told to end while there is no daemon");
}

static int take_signals(int fd) {
  struct signalfd_siginfo info;
  while (read(fd, &info, sizeof info) == (ssize_t)sizeof info) {
    if (info.ssi_signo == SIGCHLD) {
      // What the daemon said last goes before its end.
      receive();
      reap();
    } else {
      hand_on((int)info.ssi_signo);
    }
  }
  return 0;
}

// ---- start

static void fail(const char* what) {
  dprintf(kStarter, "{\"error\":\"lamina-keeper: %s: %s\"}\n", what, strerror(errno));
  exit(1);
}

static void make_state(void) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) fail("socketpair");
  k.control = pair[0];
  k.control_theirs = pair[1];
  for (int i = 0; i < 4; i += 2) {
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, k.shelves + i) != 0) fail("socketpair");
  }
  k.memory = memfd_create("lamina-state", MFD_CLOEXEC);
  if (k.memory < 0 || ftruncate(k.memory, kStateSize) != 0) fail("memfd_create");
  void* page = mmap(NULL, kKeeperPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, k.memory, 0);
  if (page == MAP_FAILED) fail("mmap");
  k.page = page;
}

static unsigned number_from(const char* name, unsigned otherwise) {
  const char* text = getenv(name);
  return text == NULL || *text == '\0' ? otherwise : (unsigned)strtoul(text, NULL, 10);
}

int main(int argc, char** argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: lamina-keeper PROGRAM ARG...\n");
    return 2;
  }
  k.argv = argv + 1;
  const char* bound = getenv("LAMINA_BOUND");
  k.bound = bound != NULL && strcmp(bound, "1") == 0;
  // More than so many deaths within so many seconds end the mount; 0: no limit.
  k.death_limit = number_from("LAMINA_KEEPER_DEATHS", 5);
  k.death_window = (int64_t)number_from("LAMINA_KEEPER_WINDOW", 60) * 1000;
  openlog("lamina-keeper", LOG_PID, LOG_DAEMON);
  k.starter_open = fcntl(kStarter, F_GETFD) >= 0;
  make_state();

  // When memory is short it is the daemon that can go and come again. Ordinary users may not lower the score.
  char score[16];
  if (read_small("/proc/self/oom_score_adj", score, sizeof score) > 0) k.oom_score = atoi(score);
  if (k.oom_score > -900) set_oom_score(-900);

  sigset_t signals;
  sigemptyset(&signals);
  static const int handled[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR1};
  for (size_t i = 0; i < sizeof handled / sizeof *handled; i++) sigaddset(&signals, handled[i]);
  sigprocmask(SIG_BLOCK, &signals, NULL);
  signal(SIGPIPE, SIG_IGN);
  const int fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd < 0) fail("signalfd");

  start_daemon();
  for (;;) {
    // Without a watchdog, and while nothing is to be waited for, this sleeps until somebody speaks.
    int timeout = k.watchdog > 0 ? (k.watchdog < 8 ? 250 : k.watchdog * 125) : -1;
    if (k.killed_at != 0) timeout = 1000;
    if (k.start_at != 0) {
      const int64_t left = k.start_at - now_ms();
      timeout = left > 0 ? (int)left : 0;
    }
    struct pollfd fds[2] = {{.fd = fd, .events = POLLIN}, {.fd = k.control, .events = POLLIN}};
    const int n = poll(fds, 2, timeout);
    if (n > 0 && (fds[1].revents & POLLIN) != 0) receive();
    if (n > 0 && (fds[0].revents & POLLIN) != 0) take_signals(fd);
    if (k.start_at != 0 && now_ms() >= k.start_at) {
      if (connection_over()) finish(0);
      start_daemon();
    }
    watch();
  }
}
