import { Fd } from '../base/fd.js'
import { addon, check } from './addon.js'
import {
  AT_EMPTY_PATH,
  FSCONFIG_CMD_CREATE,
  FSCONFIG_SET_FLAG,
  FSCONFIG_SET_STRING,
  FSMOUNT_CLOEXEC,
  FSOPEN_CLOEXEC,
  OPEN_TREE_CLOEXEC,
} from './constants.js'

/*
 * Mounts and namespaces of the calling thread. Paths are byte strings.
 */

/**
 * mount(2). `source`, `fstype` and `data` may be null.
 * @throws SysError E2BIG: `data` does not fit the one page that the kernel takes (fsconfig() has no such limit)
 */
export function mount(
  source: string | null,
  target: string,
  fstype: string | null,
  flags: number,
  data: string | null,
): void {
  check(addon.mount(source, target, fstype, flags, data), 'mount', target)
}

export function umount2(target: string, flags = 0): void {
  check(addon.umount2(target, flags), 'umount2', target)
}

/** OPEN_TREE_CLOEXEC is always added; OPEN_TREE_CLONE makes a detached copy, AT_RECURSIVE with what is mounted below. */
export function openTree(dirfd: number, path: string, flags: number): Fd {
  const extra = path === '' ? AT_EMPTY_PATH : 0
  return new Fd(check(addon.openTree(dirfd, path, flags | extra | OPEN_TREE_CLOEXEC), 'open_tree', path))
}

/** Empty paths (the descriptors themselves) need MOVE_MOUNT_F_EMPTY_PATH and MOVE_MOUNT_T_EMPTY_PATH in `flags`. */
export function moveMount(fromFd: number, from: string, toFd: number, to: string, flags: number): void {
  check(addon.moveMount(fromFd, from, toFd, to, flags), 'move_mount', to)
}

export interface MountAttr {
  /** MOUNT_ATTR_* to set and to clear. */
  set?: number
  clear?: number
  /** MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE. */
  propagation?: number
  /** The user namespace of MOUNT_ATTR_IDMAP. */
  usernsFd?: number
}

/** mount_setattr(2), Linux 5.12. Path '' is `dirfd` itself. */
export function mountSetattr(dirfd: number, path: string, flags: number, attr: MountAttr): void {
  const extra = path === '' ? AT_EMPTY_PATH : 0
  const { set = 0, clear = 0, propagation = 0, usernsFd = -1 } = attr
  check(
    addon.mountSetattr(dirfd, path, flags | extra, set, clear, propagation, usernsFd),
    'mount_setattr',
    path,
  )
}

/** A filesystem context, close-on-exec. @throws SysError ENODEV: no such filesystem */
export function fsopen(fstype: string): Fd {
  return new Fd(check(addon.fsopen(fstype, FSOPEN_CLOEXEC), 'fsopen', fstype))
}

/**
 * fsconfig(2). A failure says why in the context's log, see fsLog().
 * @param aux the descriptor of FSCONFIG_SET_FD and FSCONFIG_SET_PATH, the length of FSCONFIG_SET_BINARY
 */
export function fsconfig(
  fd: number,
  command: number,
  key: string | null,
  value: string | Uint8Array | null,
  aux = 0,
): void {
  check(addon.fsconfig(fd, command, key, value, aux), 'fsconfig', key ?? undefined)
}

export function fsconfigString(fd: number, key: string, value: string): void {
  fsconfig(fd, FSCONFIG_SET_STRING, key, value)
}

export function fsconfigFlag(fd: number, key: string): void {
  fsconfig(fd, FSCONFIG_SET_FLAG, key, null)
}

export function fsconfigCreate(fd: number): void {
  fsconfig(fd, FSCONFIG_CMD_CREATE, null, null)
}

/** The detached mount of a created context, close-on-exec. `attributes` is MOUNT_ATTR_*. */
export function fsmount(fd: number, attributes = 0): Fd {
  return new Fd(check(addon.fsmount(fd, FSMOUNT_CLOEXEC, attributes), 'fsmount'))
}

/** The kernel's messages about a context that were not read yet: `e overlay: …` (e, w, i: error, warning, info). */
export function fsLog(fd: number): string[] {
  const messages: string[] = []
  const buffer = Buffer.alloc(8192)
  for (let length = addon.pread(fd, buffer, 0, buffer.length, -1); length > 0;) {
    messages.push(buffer.toString('latin1', 0, length).trimEnd())
    length = addon.pread(fd, buffer, 0, buffer.length, -1)
  }
  return messages
}

/**
 * unshare(2) of the calling thread only; native jobs and other threads keep their namespaces. CLONE_NEWUSER is refused
 * (EINVAL), because Node has several threads.
 */
export function unshare(flags: number): void {
  check(addon.unshare(flags), 'unshare')
}

/** Joins a namespace, or several of a pidfd. @param type CLONE_NEW* that `fd` must be, 0 for any */
export function setns(fd: number, type: number): void {
  check(addon.setns(fd, type), 'setns')
}

export function pivotRoot(newRoot: string, putOld: string): void {
  check(addon.pivotRoot(newRoot, putOld), 'pivot_root', newRoot)
}

export function fchdir(fd: number): void {
  check(addon.fchdir(fd), 'fchdir')
}
