#!/bin/sh
# Writes `{"read", __NR_read},` for every system call that the compiler's headers know to the file $1.
set -e
echo '#include <asm/unistd.h>' | ${CXX:-c++} -x c++ -E -dM - |
  sed -n 's/^#define __NR_\([a-z_][a-z0-9_]*\) .*/{"\1", __NR_\1},/p' | grep -v -e '"syscalls"' -e '"arch_specific_syscall"' | sort >"$1"
test -s "$1"
