// The mount as others see it: its place, its connection, its record.
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "keeper.h"

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

int mounted_here(void) {
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

void unmount(void) {
  // By force: where fusectl is not mounted nothing else ends what waits for a daemon that is still there.
  if (mounted_here() && umount2(k.mountpoint, MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW) != 0) unmount_by_helper();
}

void abort_connection(void) {
  const char* minor = strchr(k.device, ':');
  if (minor == NULL) return;
  char path[128];
  snprintf(path, sizeof path, "/sys/fs/fuse/connections/%s/abort", minor + 1);
  write_small(path, "1");
}

void remove_record(void) {
  if (k.record[0] == '\0') return;
  static const char* const endings[] = {".json", ".json.new", ".sock"};
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
    char path[600];
    snprintf(path, sizeof path, "%s%s", k.record, endings[i]);
    unlink(path);
  }
}
