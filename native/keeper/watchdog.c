// A daemon that takes no requests: what it does instead is logged, and it is ended.
#define _GNU_SOURCE
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "keeper.h"

// A daemon that was killed and has not gone after so long waits in the kernel for something that does not come.
static const int64_t kKillLimitMs = 10000;
// JavaScript that runs says at once where.
static const int64_t kStackLimitMs = 1000;

static void join_lines(char* text) {
  for (char* at = text; *at != '\0'; at++) {
    if (*at == '\n') *at = at[1] == '\0' ? '\0' : ' ';
  }
}

// One of the files of a thread in /proc; empty where it may not be read.
static void thread_file(const char* thread, const char* file, char* out, size_t size) {
  char path[128];
  snprintf(path, sizeof path, "/proc/%d/task/%.20s/%s", (int)k.daemon, thread, file);
  if (read_small(path, out, size) <= 0) out[0] = '\0';
  join_lines(out);
}

static void log_threads(void) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/task", (int)k.daemon);
  DIR* tasks = opendir(path);
  if (tasks == NULL) return;
  int idle = 0;
  for (struct dirent* entry; (entry = readdir(tasks)) != NULL;) {
    if (entry->d_name[0] == '.') continue;
    char name[64];
    char call[256];
    char where[1024];
    thread_file(entry->d_name, "comm", name, sizeof name);
    // The system call's number and arguments, "running" outside of one.
    thread_file(entry->d_name, "syscall", call, sizeof call);
    thread_file(entry->d_name, "stack", where, sizeof where);
    if (where[0] == '\0') thread_file(entry->d_name, "wchan", where, sizeof where);
    // Of the pools: there are dozens, and they wait for work.
    if (strstr(where, "futex") != NULL && atoi(entry->d_name) != (int)k.daemon) {
      idle++;
      continue;
    }
    say(LOG_WARNING, "thread %.20s (%s): system call %s; %s", entry->d_name, name, call[0] ? call : "?", where);
  }
  if (idle > 0) say(LOG_WARNING, "%d more threads wait for work, or for each other", idle);
  closedir(tasks);
}

static void end_it(void) {
  if (k.watchdog_aborts) {
    kill(k.daemon, SIGKILL);
    give_up("the daemon hangs");
  }
  k.killed_at = now_ms();
  k.asked_at = k.stuck_since = 0;
  kill(k.daemon, SIGKILL);
}

void stack_came(const char* text) {
  if (k.asked_at == 0) return;
  say(LOG_WARNING, "where JavaScript is:");
  for (const char* at = text; *at != '\0';) {
    const size_t length = strcspn(at, "\n");
    if (length > 0) say(LOG_WARNING, "  %.*s", (int)length, at);
    at += length + (at[length] == '\n');
  }
  end_it();
}

static void daemon_hangs(int64_t now) {
  const struct keeper_request* request = &k.page->request;
  say(LOG_ERR, "the daemon (pid %d) has taken no request for %d s; the last one: opcode %u, nodeid %llu, of pid %u", (int)k.daemon,
      (int)((now - k.stuck_since) / 1000), request->opcode, (unsigned long long)request->nodeid, request->pid);
  log_threads();
  k.asked_at = now;
  if (send(k.control, "S", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) k.asked_at = now - kStackLimitMs;
}

void watch(void) {
  const int64_t now = now_ms();
  if (k.killed_at != 0 && now - k.killed_at > kKillLimitMs) give_up("the daemon cannot be killed: it waits for a device");
  if (!k.ready || k.watchdog == 0 || k.daemon == 0 || k.killed_at != 0 || k.kept_count == 0) return;
  if (k.asked_at != 0) {
    if (now - k.asked_at < kStackLimitMs) return;
    say(LOG_WARNING, "JavaScript does not say where it is: it waits in a system call, or the process is stopped");
    end_it();
    return;
  }
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
