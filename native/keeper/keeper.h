// What the files of the keeper share. One process serves one mount, so its state is one variable.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <syslog.h>

#include "state.h"

enum { kStarter = 3, kMaxKept = 4096, kMaxDeaths = 64 };

struct keeper {
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
  int patient;  // a successor can go on while a layer does not answer
  int hung;     // a daemon has waited in the kernel for a layer: its successors do not
  int64_t deaths[kMaxDeaths];  // times of the last ones, a ring
  unsigned death_count;
  unsigned death_limit;
  int64_t death_window;
  int64_t start_at;       // when to start the next daemon; 0: not waiting
  int64_t killed_at;      // when the daemon was killed by us
  int64_t kill_grace;     // how much longer than usual its end is waited for, milliseconds
  int replacing;          // it was killed for another program to take its place: no death that counts
  pid_t left_behind;      // the last daemon that could not be killed, and whose successor did not wait for its end; 0: it has ended
  int waits_too;          // it was said that the successor waits as well
  int64_t stuck_since;    // requests wait and the heart does not beat
  int64_t asleep_since;   // requests wait, and the main thread for a device; 0: it does not
  unsigned long long asleep_at;  // how often it had gone to sleep by then
  int64_t asked_at;       // when a daemon that hangs was asked for its stack; 0: it was not
  uint32_t last_beat;
  int last_signal;
  int64_t last_signal_at;
  int oom_score;
};

extern struct keeper k;

// text.c
int64_t now_ms(void);
// To standard error (the log, if there is one) and to syslog: the reason of a death must not be lost.
__attribute__((format(printf, 2, 3))) void say(int priority, const char* format, ...);
// The bytes read, with a NUL behind them; -1 where it cannot be read.
int read_small(const char* path, char* out, size_t size);
void write_small(const char* path, const char* text);
void copy_text(char* to, size_t size, const char* from);
void set_oom_score(int score);

// mountpoint.c
// Whether our mount is what is on top there: nothing that somebody else mounted since may be taken away.
int mounted_here(void);
void abort_connection(void);
void unmount(void);
void remove_record(void);

// life.c
void start_daemon(void);
void reap(void);
// The daemon can do nothing any more, and will be gone some day.
void leave_behind(void);
// The connection is over: unmounted or aborted, and no daemon can serve it.
int connection_over(void);
_Noreturn void finish(int code);
// Ends the mount under its users: they get an error instead of waiting for ever.
_Noreturn void give_up(const char* why);

// messages.c
void receive(void);

// threads.c
void log_threads(void);
// For how long the daemon's main thread has been in one sleep from which only a device wakes it, milliseconds, as far as was seen: to be asked
// again and again.
int64_t asleep_for(int64_t now);
// The main thread has ended, and the process has not: others of its threads wait for a device.
int lost_its_main_thread(void);
// Whether what waits for a device are system calls that read.
int waits_only_to_read(void);
// Whether all that is left of a daemon that was killed are system calls that read.
int only_reads_left(void);

// watchdog.c
void watch(void);
// Milliseconds until it should be called, -1 never.
int watch_again_in(void);
// What JavaScript was doing, as the daemon says; NULL: it does not say.
void stack_came(const char* text);
