// What the daemon says (keeper.c has the list).
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "keeper.h"

enum { kPacket = 16384, kMaxFdsInPacket = 253 };

static void free_words(char** words) {
  for (char** at = words; at != NULL && *at != NULL; at++) free(*at);
  free(words);
}

// Strings that each end in NUL, and one more; NULL without memory.
static char** words_of(char* text, size_t size, const char* last) {
  size_t count = 0;
  for (size_t i = 0; i < size; i++) count += text[i] == '\0';
  char** words = calloc(count + 2, sizeof *words);
  if (words == NULL) return NULL;
  size_t used = 0;
  for (char* at = text; at < text + size && used < count; at += strlen(at) + 1) {
    if ((words[used++] = strdup(at)) == NULL) break;
  }
  if (last != NULL && (used == 0 || words[used - 1] != NULL)) words[used++] = strdup(last);
  if (used > 0 && words[used - 1] == NULL) {
    free_words(words);
    return NULL;
  }
  return words;
}

static void became_ready(char* text, size_t size) {
  char** words = words_of(text, size, NULL);
  int count = 0;
  while (words != NULL && words[count] != NULL) count++;
  if (count < 5) {
    free_words(words);
    return;
  }
  copy_text(k.mountpoint, sizeof k.mountpoint, words[0]);
  copy_text(k.device, sizeof k.device, words[1]);
  copy_text(k.record, sizeof k.record, words[2]);
  k.watchdog = atoi(words[3]);
  k.watchdog_aborts = strcmp(words[4], "abort") == 0;
  k.patient = count > 5 && strcmp(words[5], "patient") == 0;
  free_words(words);
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
  if (argv == NULL || argv[0] == NULL || !k.ready || k.daemon == 0) {
    free_words(argv);
    return;
  }
  int words = 0;
  while (argv[words] != NULL) words++;
  say(LOG_NOTICE, "the daemon is replaced by %s", argv[words > 2 ? words - 2 : 0]);  // program, flags, main, mountpoint
  k.previous = k.argv;
  k.argv = argv;
  k.replacing = 1;
  k.hung = 0;
  k.kill_grace = 0;
  k.killed_at = now_ms();
  kill(k.daemon, SIGKILL);
}

void receive(void) {
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
    if ((message.msg_flags & MSG_CTRUNC) != 0) {
      say(LOG_ERR, "too few descriptors to keep what the daemon hands over (ulimit -n): the mount will not outlive it");
    }
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
    if (text[0] == 'J') stack_came(text + 1);
  }
}
