import { Fd } from '../base/fd.js'
import { SysError } from '../base/sys-error.js'
import { addon, check } from './addon.js'

const strings = (list: readonly string[]): Buffer =>
  Buffer.from(list.map(each => `${each}\0`).join(''), 'latin1')

/**
 * execve(2): this process becomes the program at `path`, with all signals at their defaults. Strings are byte strings. Never
 * returns.
 * @throws SysError ENOENT, EACCES, ENOEXEC
 */
export function exec(path: string, args: readonly string[], env: readonly string[]): never {
  check(addon.exec(path, strings(args), strings(env)), 'execve', path)
  throw new Error('execve returned')
}

/** sethostname(2), for the UTS namespace of this process. @throws SysError EPERM, EINVAL: longer than 64 bytes */
export function setHostname(name: string): void {
  check(addon.setHostname(name), 'sethostname')
}

/** The same with the program behind a descriptor. @throws SysError EACCES, ENOEXEC */
export function execFd(fd: number, args: readonly string[], env: readonly string[]): never {
  check(addon.exec(fd, strings(args), strings(env)), 'execveat')
  throw new Error('execveat returned')
}

/** A copy of a program, in memory, that nobody can change. @throws SysError ENOENT, EACCES (sysctl vm.memfd_noexec) */
export function sealedCopy(path: string): Fd {
  return new Fd(check(addon.sealedCopy(path), 'memfd_create', path))
}

/** A descriptor from which what this process becomes can read `bytes`. */
export function memoryFile(bytes: Uint8Array): Fd {
  return new Fd(check(addon.memoryFile(bytes), 'memfd_create'))
}

/** pipe2(2), close-on-exec. */
export function pipe(): [read: Fd, write: Fd] {
  const pair = addon.pipe()
  if (typeof pair === 'number') throw new SysError(-pair, 'pipe2')
  return [new Fd(pair[0]), new Fd(pair[1])]
}

/** Every descriptor from `first` on is closed in what this process starts, those too that it was started with. */
export function closeOnExec(first: number): void {
  check(addon.closeOnExec(first), 'close_range')
}

/** Numbers of system calls by name, and this machine's number for seccomp filters (AUDIT_ARCH_*), 0 where that is not known. */
export function syscalls(): {
  readonly numbers: Readonly<Record<string, number>>
  readonly auditArch: number
} {
  const { '': arch = 0, ...numbers } = addon.syscalls()
  return { numbers, auditArch: arch >>> 0 }
}

/**
 * From now on whoever writes an S to the other end of `socket` is told where JavaScript is, also when it never returns. False where this
 * version of Node lacks what that takes.
 */
export function reportStack(socket: number): boolean {
  return addon.reportStack(socket) === 0
}

/** A descriptor of this process, which is readable for others when it has ended. @throws SysError ENOSYS before Linux 5.3 */
export function pidfdSelf(): Fd {
  return new Fd(check(addon.pidfdSelf(), 'pidfd_open'))
}

/** A descriptor through which the process of {@link holdOrphans} sees that it is asked. */
export function signalsOfOthers(): Fd {
  return new Fd(check(addon.signalsOfOthers(), 'signalfd'))
}

/**
 * Starts a process that keeps this one's descriptors open beyond its end, until it has sent those that `table` lists to one of two sockets
 * (native/orphan-holder.cc). `table` is memory shared with whoever comes next, `self` of {@link pidfdSelf}, `signals` of
 * {@link signalsOfOthers}. Gives its id.
 * @throws SysError EAGAIN, ENOMEM: no further process; ENOSYS, EPERM: not allowed here
 */
export function holdOrphans(table: Uint8Array, self: number, signals: number, a: number, b: number): number {
  return check(addon.holdOrphans(table, self, signals, a, b), 'clone')
}

/** Ends the process, threads included that wait for a filesystem that does not answer: process.exit() waits for them. */
export function exitNow(code: number): never {
  return addon.exitNow(code)
}
