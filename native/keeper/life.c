// The daemon's life: its start, its end, and what becomes of the mount then.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "keeper.h"

static const int64_t kLastChildMs = 1000;

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
  if (k.hung) setenv("LAMINA_KEEPER_HUNG", "1", 1);
  execvp(k.argv[0], k.argv);
  dprintf(STDERR_FILENO, "lamina-keeper: cannot run %s: %s\n", k.argv[0], strerror(errno));
  _exit(127);
}

void start_daemon(void) {
  k.start_at = 0;
  k.killed_at = 0;
  k.stuck_since = 0;
  k.asked_at = 0;
  k.asleep_since = 0;
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

int connection_over(void) {
  if (k.kept_count == 0) return 1;
  struct pollfd device = {.fd = k.kept[0], .events = POLLIN};
  return poll(&device, 1, 0) > 0 && (device.revents & (POLLERR | POLLNVAL)) != 0;
}

// The daemon's other processes (native/orphan-holder.cc) end a moment after it; whoever waits for us may count on that. What waits in
// the kernel for a dead device is left behind.
static void wait_for_children(void) {
  const int64_t end = now_ms() + kLastChildMs;
  for (pid_t pid; (pid = waitpid(-1, NULL, WNOHANG)) >= 0;) {
    if (pid == 0 && now_ms() >= end) return;
    if (pid == 0) poll(NULL, 0, 1);
  }
}

_Noreturn void finish(int code) {
  wait_for_children();
  if (k.was_ready) remove_record();
  exit(code);
}

_Noreturn void give_up(const char* why) {
  say(LOG_ERR, "%s: the mount is ended", why);
  abort_connection();
  unmount();
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
  const unsigned known = k.death_count < kMaxDeaths ? k.death_count : kMaxDeaths;
  unsigned recent = 0;
  for (unsigned i = 0; i < known; i++) recent += now - k.deaths[i] < k.death_window;
  return recent;
}

static void count_death(int status, int64_t now) {
  if (!k.replacing) {
    k.deaths[k.death_count++ % kMaxDeaths] = now;
    k.page->deaths++;
    k.page->last_status = (uint32_t)status;
    k.page->last_death = (double)time(NULL) * 1000;
  }
  k.replacing = 0;
}

static void next_daemon(int64_t now) {
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

static void daemon_ended(int status) {
  const pid_t pid = k.daemon;
  k.daemon = 0;
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  // Before the mount was there: the daemon has told its starter why, and there is nothing to take over.
  if (!k.was_ready || k.ending) finish(code);
  if (connection_over()) finish(WIFEXITED(status) ? code : 0);

  char cause[128];
  const int64_t now = now_ms();
  count_death(status, now);
  say(LOG_WARNING, "the daemon (pid %d) has ended: %s", (int)pid, cause_of(status, cause, sizeof cause));
  next_daemon(now);
}

void leave_behind(void) {
  const pid_t pid = k.left_behind = k.daemon;
  k.daemon = k.waits_too = 0;
  if (!k.was_ready || k.ending || connection_over()) finish(0);
  const int64_t now = now_ms();
  count_death(SIGKILL, now);
  k.hung = 1;
  say(LOG_WARNING, "the daemon (pid %d) will end when a layer answers for which it waits: the next one does not wait for that, "
      "and asks layers in a way that takes longer until \"lamina daemon restart\"", (int)pid);
  next_daemon(now);
}

void reap(void) {
  int status = 0;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    if (pid == k.daemon) daemon_ended(status);
    if (pid != k.left_behind) continue;
    say(LOG_NOTICE, "the daemon (pid %d) that waited for a layer has ended", (int)pid);
    k.left_behind = k.waits_too = 0;
    // What the next one waits for comes as well.
    k.stuck_since = k.asleep_since = 0;
  }
}
