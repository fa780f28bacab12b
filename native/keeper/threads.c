// What the daemon's threads do, as /proc has it.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "keeper.h"

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

void log_threads(void) {
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

// ---- waiting for a device

// As ps(1) shows it; '?' where there is no such thread.
static char state_of(const char* thread) {
  char stat[512];
  thread_file(thread, "stat", stat, sizeof stat);
  // The name before it may have anything in it.
  const char* after_name = strrchr(stat, ')');
  return after_name != NULL && after_name[1] == ' ' ? after_name[2] : '?';
}

static const char* main_thread(void) {
  static char number[16];
  snprintf(number, sizeof number, "%d", (int)k.daemon);
  return number;
}

static unsigned long long number_behind(const char* text, const char* name) {
  const char* at = strstr(text, name);
  return at == NULL ? 0 : strtoull(at + strlen(name), NULL, 10);
}

// Source: kernel/hung_task.c, which knows them by the same: in state D, and not run since.
int64_t asleep_for(int64_t now) {
  char status[4096];
  thread_file(main_thread(), "status", status, sizeof status);
  const unsigned long long slept =
      number_behind(status, "voluntary_ctxt_switches:") + number_behind(status, "nonvoluntary_ctxt_switches:");
  if (state_of(main_thread()) != 'D') {
    k.asleep_since = 0;
  } else if (k.asleep_since == 0 || slept != k.asleep_at) {
    k.asleep_since = now;
    k.asleep_at = slept;
  }
  return k.asleep_since == 0 ? 0 : now - k.asleep_since;
}

int lost_its_main_thread(void) { return state_of(main_thread()) == 'Z'; }

// ---- what a daemon that is killed cannot leave

enum { kArguments = 6 };

// False: it is in none, or that may not be known.
static int system_call_of(const char* thread, long* number, unsigned long long arguments[kArguments]) {
  char text[256];
  thread_file(thread, "syscall", text, sizeof text);
  char* at = text;
  *number = strtol(text, &at, 10);
  if (at == text || *number < 0) return 0;
  for (int i = 0; i < kArguments; i++) {
    char* end = at;
    arguments[i] = strtoull(at, &end, 16);
    if (end == at) return 0;
    at = end;
  }
  return 1;
}

static int opens_to_read(unsigned long long flags) { return (flags & (O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY))) == 0; }

// openat2's flags are in the daemon's memory.
static int opens2_to_read(unsigned long long how) {
  uint64_t flags = 0;
  const struct iovec here = {&flags, sizeof flags};
  const struct iovec there = {(void*)(uintptr_t)how, sizeof flags};
  return process_vm_readv(k.daemon, &here, 1, &there, 1, 0) == (ssize_t)sizeof flags && opens_to_read(flags);
}

static int reads(long number, const unsigned long long arguments[kArguments]) {
  switch (number) {
    case SYS_openat:
    case SYS_open_by_handle_at:
      return opens_to_read(arguments[2]);
#ifdef SYS_openat2
    case SYS_openat2:
      return opens2_to_read(arguments[2]);
#endif
#ifdef SYS_open
    case SYS_open:
      return opens_to_read(arguments[1]);
    case SYS_stat:
    case SYS_lstat:
    case SYS_access:
    case SYS_readlink:
#endif
    case SYS_newfstatat:
    case SYS_fstat:
    case SYS_statx:
    case SYS_statfs:
    case SYS_fstatfs:
    case SYS_faccessat:
    case SYS_getdents64:
    case SYS_readlinkat:
    case SYS_getxattr:
    case SYS_lgetxattr:
    case SYS_fgetxattr:
    case SYS_listxattr:
    case SYS_llistxattr:
    case SYS_flistxattr:
    case 464:  // getxattrat
    case 465:  // listxattrat
    case SYS_name_to_handle_at:
    case SYS_lseek:
    case SYS_pread64:
    case SYS_preadv:
    case SYS_preadv2:
      return 1;
    default:
      return 0;
  }
}

// Whether the threads in state D are in such calls. `left`: and there are no others.
static int only_reads(int left) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/task", (int)k.daemon);
  DIR* tasks = opendir(path);
  if (tasks == NULL) return 0;
  int only = 1;
  for (struct dirent* entry; only && (entry = readdir(tasks)) != NULL;) {
    if (entry->d_name[0] == '.') continue;
    const char state = state_of(entry->d_name);
    // Ended.
    if (state == 'Z' || state == 'X' || state == '?') continue;
    long number;
    unsigned long long arguments[kArguments];
    if (state != 'D') {
      only = !left;
      continue;
    }
    only = system_call_of(entry->d_name, &number, arguments) && reads(number, arguments);
  }
  closedir(tasks);
  return only;
}

int waits_only_to_read(void) { return only_reads(0); }

int only_reads_left(void) { return only_reads(1); }
