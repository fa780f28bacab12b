#!/usr/bin/env bash
# A C project of 60 files on a view: make -j2, an incremental make, running what was built, make clean over lower objects.
# shellcheck source=test/integration/lib.sh
source "$(dirname "$0")/lib.sh"

lower=$scratch/lower
mkdir -p "$lower/src" "$lower/include"
for file in $(seq 60); do
  printf '#include <stdio.h>\n#include "all.h"\nint f%d(int x) { char b[64]; snprintf(b, sizeof b, "%%d", x); return x + %d; }\n' \
    "$file" "$file" >"$lower/src/f$file.c"
  echo "int f$file(int x);" >>"$lower/include/all.h"
done
{
  printf '#include <stdio.h>\n#include "all.h"\nint main(void) { int x = 0;\n'
  for file in $(seq 60); do echo "x = f$file(x);"; done
  # shellcheck disable=SC2016 # C, not shell
  printf 'printf("%%d\\n", x); return 0; }\n'
} >"$lower/src/main.c"
cat >"$lower/Makefile" <<'MAKE'
CFLAGS = -O1 -g -Iinclude
objects = $(patsubst src/%.c,build/%.o,$(wildcard src/*.c))
build/program: $(objects) build/libstatic.a
	$(CC) -o $@ $(objects)
build/libstatic.a: $(objects)
	ar rcs $@ $(objects)
build/%.o: src/%.c include/all.h | build
	$(CC) $(CFLAGS) -MMD -c -o $@ $<
	@echo compiled $@ >>build/log
build:
	mkdir -p $@
clean:
	rm -rf build
MAKE
listing "$lower" >"$scratch/lower.before"

overlay a "$lower"
cd "$scratch/a/merged"
check 'make -j2' make -j2 -s
check 'the program runs and counts' equal "$(build/program)" 1830
check 'all 61 files were compiled' equal "$(wc -l <build/log)" 61
check 'make has nothing left to do' make -q
echo '/* changed */' >>src/f7.c
check 'after a change of one source make has' fails make -q
check 'make compiles' make -j2 -s
check 'that one file only' equal "$(wc -l <build/log)" 62
check 'rebuilding a program that is running' bash -ec '
  cp build/program running; ./running >/dev/null
  mkfifo gate; (exec 3<gate; exec ./running) & exec 4>gate; touch src/f8.c; make -j2 -s; exec 4>&-; wait $!; rm -f running gate'
cd /
check 'mounting it again works' remount a "$lower"
check 'make has nothing to do after it: times were kept' make -q -C "$scratch/a/merged"

unmount a
overlay b "$scratch/a/upper:$lower"
cd "$scratch/b/merged"
check 'objects in the lower layer are up to date' make -q
touch include/all.h
check 'a change of the header' make -j2 -s
check 'compiles all of them, over lower objects' equal "$(grep -c . build/log)" $((63 + 61))
check 'the program runs' equal "$(build/program)" 1830
check 'make clean' make -s clean
check 'the lower objects are gone from the view' fails test -e build
check 'and make makes all of them anew' make -j2 -s
check 'the directory is opaque: the log counts from one' equal "$(wc -l <build/log)" 61
check 'strip writes over the program' strip build/program
check 'which runs' equal "$(build/program)" 1830
cd /
check 'the lower layer is untouched' diff "$scratch/lower.before" <(listing "$lower")
finish
