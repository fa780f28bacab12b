// Small files, the clock, and what is told to people.
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "keeper.h"

int64_t now_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void say(int priority, const char* format, ...) {
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

int read_small(const char* path, char* out, size_t size) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  const ssize_t n = read(fd, out, size - 1);
  close(fd);
  if (n < 0) return -1;
  out[n] = '\0';
  return (int)n;
}

void write_small(const char* path, const char* text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  if (write(fd, text, strlen(text)) < 0) {
    // Not allowed, or gone already: as good as it gets.
  }
  close(fd);
}

void copy_text(char* to, size_t size, const char* from) { snprintf(to, size, "%s", from); }

void set_oom_score(int score) {
  char text[16];
  snprintf(text, sizeof text, "%d", score);
  write_small("/proc/self/oom_score_adj", text);
}
