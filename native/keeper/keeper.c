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
//                     the record without its ending, seconds of the watchdog (0: none), "replace" or "abort", "patient": a successor
//                     that finds LAMINA_KEEPER_HUNG can serve while a layer does not answer
//   U program\0main\0 replace the daemon by this one now; the old one comes back if this one does not get to R
//   E                 the mount has ended: the daemon's next end is the last
//   J text            where JavaScript is, a line each: the answer to an S, which is all that the keeper says
//
// Signals: TERM, INT, HUP, USR1 are handed on. The daemon has a process group of its own, so that a terminal's Ctrl-C comes once.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "keeper.h"

struct keeper k;

// ---- signals

static const int64_t kSameSignalMs = 300;

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
  if (k.death_limit >= kMaxDeaths) k.death_limit = kMaxDeaths - 1;
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
    int timeout = watch_again_in();
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
