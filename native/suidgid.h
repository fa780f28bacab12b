// Setuid and setgid of a file whose content or owner changes by somebody without CAP_FSETID.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace lamina {

// Whether the thread `pid` is in a group, as its filesystem gid or beside. False where that cannot be told. Only for what is rare: it
// reads /proc.
inline bool in_group(pid_t pid, gid_t gid) {
  char path[40];
  snprintf(path, sizeof path, "/proc/%d/status", pid);
  const int fd = pid > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return false;
  // The lines of groups come within the first kilobyte; 65,536 groups are the most.
  constexpr size_t kMost = size_t{1} << 20;
  char* const text = static_cast<char*>(malloc(kMost));
  size_t length = 0;
  for (ssize_t n = 1; text != nullptr && n > 0 && length < kMost - 1; length += n > 0 ? static_cast<size_t>(n) : 0) {
    n = read(fd, text + length, kMost - 1 - length);
  }
  close(fd);
  if (text == nullptr) return false;
  text[length] = '\0';
  const auto line_has = [&](const char* head, size_t skip) {
    const char* at = strstr(text, head);
    if (at == nullptr) return false;
    at += strlen(head);
    for (char* end; *at != '\0' && *at != '\n'; at = end) {
      const unsigned long id = strtoul(at, &end, 10);
      if (end == at) return false;
      if (skip > 0) {
        skip--;
      } else if (id == gid) {
        return true;
      }
      while (*end == ' ' || *end == '\t') end++;
    }
    return false;
  };
  // Of the four the filesystem's is last.
  const bool in = line_has("\nGid:", 3) || line_has("\nGroups:", 0);
  free(text);
  return in;
}

// What falls when `pid` writes. Setgid without group execution marked mandatory locking, and stays for who is in the group.
// Source: fs/attr.c, setattr_should_drop_suidgid
inline mode_t without_suidgid(const struct stat& st, pid_t pid) {
  mode_t mode = st.st_mode & ~static_cast<mode_t>(S_ISUID);
  if ((mode & S_ISGID) != 0 && ((mode & S_IXGRP) != 0 || !in_group(pid, st.st_gid))) mode &= ~static_cast<mode_t>(S_ISGID);
  return mode;
}

// 0 or an errno.
inline int kill_suidgid(int fd, pid_t pid) {
  struct stat st;
  if (fstat(fd, &st) != 0) return errno;
  if ((st.st_mode & (S_ISUID | S_ISGID)) == 0) return 0;
  const mode_t mode = without_suidgid(st, pid);
  return mode == st.st_mode || fchmod(fd, mode & 07777) == 0 ? 0 : errno;
}

}  // namespace lamina
