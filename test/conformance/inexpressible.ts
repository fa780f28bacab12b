/**
 * What the path calls of fuse-native (libfuse 2.9, fuse-native 2.2.6) cannot express, and the cases that need it: as
 * docs/architecture/daemon.md lists them.
 */
const REASONS: readonly (readonly [reason: string, cases: readonly RegExp[]])[] = [
  [
    'times are milliseconds, mtime is set to what was meant for atime, UTIME_OMIT and times before 1970 are lost',
    [
      /^time: /,
      /^copy-up: .*: content, owner, mode, xattrs and mtime/,
      /^options metacopy: truncate, times and xattrs/,
      /^copy-up: (parents are made|symlinks, fifos|times of a symlink|atime and mtime)/,
    ],
  ],
  [
    'nobody says who asks: what is made belongs to the daemon, and what depends on the caller does not happen',
    [
      /^permission: (what users may do|new files belong|setgid directories|setuid and setgid|the same by root|a file of mode 0444)/,
      /^xattr: an ordinary user/,
    ],
  ],
  ['names are decoded as UTF-8', [/not UTF-8/, /^lookup: all 253 one-byte names/]],
  ['there is no fallocate, tmpfile, lseek, copy_file_range, ioctl', [/fallocate/, /O_TMPFILE/]],
  ['rename has no flags', [/RENAME_/, /^options redirectDir: a merged directory, and over an empty one/]],
  ['an open file without a name is asked for by its path', [/^inode: a file made under an old name/]],
  ['the kernel does not apply POSIX ACLs', [/^xattr: (POSIX ACLs are checked|default ACLs make)/]],
]

/** Why a case (`topic: name`) cannot pass through fuse-native; undefined where it must. */
export function inexpressible(name: string): string | undefined {
  return REASONS.find(([, cases]) => cases.some(pattern => pattern.test(name)))?.[0]
}
