import { Fd } from '../base/fd.js'
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

/** Takes all capabilities but `keep` (their numbers) out of the bounding set of what this process becomes. */
export function dropBounding(keep: readonly number[]): void {
  const mask = keep.reduce((bits, cap) => bits | (1n << BigInt(cap)), 0n)
  check(addon.dropBounding(Number(mask & 0xffffffffn), Number(mask >> 32n)), 'prctl')
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
