// A daemon that takes no requests: what it does instead is logged, and it is ended.
#define _GNU_SOURCE
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
// Most have gone by then.
static const int64_t kLateMs = 1000;
// No disk that works takes so long for one block.
static const int64_t kSleepLimitMs = 5000;
enum { kSoonMs = 250, kLookMs = 2000 };

static void end_it(void) {
  if (k.watchdog_aborts) {
    kill(k.daemon, SIGKILL);
    give_up("the daemon hangs");
  }
  k.killed_at = now_ms();
  k.kill_grace = 0;
  k.asked_at = k.stuck_since = k.asleep_since = 0;
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

static void log_hang(const char* what, int64_t since, int64_t now) {
  const struct keeper_request* request = &k.page->request;
  say(LOG_ERR, "the daemon (pid %d) has %s for %d s; the last one: opcode %u, nodeid %llu, of pid %u", (int)k.daemon, what,
      (int)((now - since) / 1000), request->opcode, (unsigned long long)request->nodeid, request->pid);
  log_threads();
}

static void daemon_hangs(int64_t now) {
  log_hang("taken no request", k.stuck_since, now);
  k.asked_at = now;
  if (send(k.control, "S", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) k.asked_at = now - kStackLimitMs;
}

static int goes_on_beside_layers(void) { return k.patient && k.watchdog != 0 && !k.watchdog_aborts; }

static int64_t sleep_limit_ms(void) {
  const int64_t watchdog_ms = (int64_t)k.watchdog * 1000;
  return watchdog_ms < kSleepLimitMs ? watchdog_ms : kSleepLimitMs;
}

// A change of upper was announced, and may be under way.
static int changing(void) { return k.page->serving != 0 && (k.page->said & 1) != 0; }

// It was killed, and is still there.
static void wait_for_its_end(int64_t now) {
  const int late = k.hung || now - k.killed_at >= kLateMs;
  if (goes_on_beside_layers() && late && !changing() && only_reads_left()) {
    leave_behind();
  } else if (now - k.killed_at > kKillLimitMs + k.kill_grace) {
    if (changing()) give_up("the daemon cannot be killed: it waits for a device, and may be changing upper");
    give_up("the daemon cannot be killed: it waits for a device");
  }
}

// True: nothing else is to be done about it.
static int look_at_threads(int64_t now) {
  if (lost_its_main_thread()) {
    // Killed by somebody else. It does not hurt to say it again.
    end_it();
    return 1;
  }
  const int64_t asleep = asleep_for(now);
  if (k.asleep_since == 0 || changing() || !waits_only_to_read()) return 0;
  if (k.left_behind != 0) {
    // A layer that every daemon has to wait for: upper, or one whose filesystem is not known.
    if (!k.waits_too && asleep >= sleep_limit_ms()) {
      log_hang("waited for a device, as the one before does,", k.asleep_since, now);
      say(LOG_ERR, "the mount waits until it answers");
      k.waits_too = 1;
    }
    return 1;
  }
  if (asleep < sleep_limit_ms()) return 0;
  log_hang("taken no request and waited for a device", k.asleep_since, now);
  end_it();
  k.hung = 1;
  // What comes in between is given the time that it would have had.
  k.kill_grace = (int64_t)k.watchdog * 1000;
  return 1;
}

// The mount has ended, and nobody is to wait for a daemon that cannot end before a device answers.
static void wait_for_the_last(int64_t now) {
  if (!lost_its_main_thread()) return;
  if (k.stuck_since == 0) k.stuck_since = now;
  if (now - k.stuck_since < kLateMs) return;
  say(LOG_NOTICE, "the mount has ended; the daemon (pid %d) will end when a layer answers for which it waits", (int)k.daemon);
  finish(0);
}

void watch(void) {
  const int64_t now = now_ms();
  if (k.daemon == 0) return;
  if (k.ending) {
    wait_for_the_last(now);
    return;
  }
  if (k.killed_at != 0) {
    wait_for_its_end(now);
    return;
  }
  if (!k.ready || k.watchdog == 0 || k.kept_count == 0) return;
  if (k.asked_at != 0) {
    if (now - k.asked_at < kStackLimitMs) return;
    say(LOG_WARNING, "JavaScript does not say where it is: it waits in a system call, or the process is stopped");
    end_it();
    return;
  }
  struct pollfd device = {.fd = k.kept[0], .events = POLLIN};
  const int waiting = poll(&device, 1, 0) > 0 && (device.revents & POLLIN) != 0 && (device.revents & POLLERR) == 0;
  const uint32_t beat = k.page->beat;
  if (!waiting) k.asleep_since = 0;
  if (waiting && goes_on_beside_layers() && look_at_threads(now)) return;
  if (!waiting || beat != k.last_beat) {
    k.last_beat = beat;
    k.stuck_since = 0;
  } else if (k.stuck_since == 0) {
    k.stuck_since = now;
  } else if (now - k.stuck_since >= (int64_t)k.watchdog * 1000) {
    daemon_hangs(now);
  }
}

int watch_again_in(void) {
  if (k.killed_at != 0) return goes_on_beside_layers() ? kSoonMs : 1000;
  if (k.asked_at != 0) return 100;
  if (k.watchdog <= 0) return -1;
  const int usual = k.watchdog < 8 ? kSoonMs : k.watchdog * 125;
  if (!goes_on_beside_layers()) return usual;
  if (k.asleep_since != 0) return kSoonMs;
  return usual < kLookMs ? usual : kLookMs;
}
