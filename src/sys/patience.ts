import { Fd } from '../base/fd.js'
import { SysError } from '../base/sys-error.js'
import { addon, check } from './addon.js'

/** No errno of the kernel's: a filesystem has not answered in time (native/patience.h). Its number is added. */
const SILENT = 10_000

/** Most filesystems that can be told apart. */
export const MOST_REMOTE = 255

/** How a filesystem is used: bits, as in native/patience.h. */
export const USE = {
  /** What the kernel has in memory is asked for on the spot, which costs next to nothing. Not where a server has to be asked. */
  disk: 1,
  /** It is changed as well. */
  upper: 2,
} as const

/**
 * Calls that read through `fd`, and through descriptors opened from it, are waited for only so long from now on; `filesystem` is a
 * number from 1 to {@link MOST_REMOTE} with one way of using it ({@link USE}), or 0: `fd` is like any other again.
 */
export function coverDescriptor(fd: number, filesystem: number, use = 0): void {
  check(addon.coverDescriptor(fd, filesystem, use), 'cover')
}

/** `fd`, which came from elsewhere, is covered as `like` is. */
export function coverAlike(fd: number, like: number): void {
  addon.coverAlike(fd, like)
}

/**
 * A file without a name in a directory, whose one block is read past what the kernel has in memory: so it tells whether the disk answers.
 * @throws SysError EINVAL where the filesystem always reads through its memory
 */
export function makePulse(dirfd: number): Fd {
  return new Fd(check(addon.makePulse(dirfd), 'pulse'))
}

/** `pulse` is what is asked before a request's first change on the filesystem of `fd`, which is covered; it stays open. */
export function setPulse(fd: number, pulse: number): void {
  addon.setPulse(fd, pulse)
}

/** Whether the filesystem of `fd` answers, as that is asked before a first change. @throws SysError when it does not */
export function mayChange(fd: number): void {
  check(addon.mayChange(fd), 'pulse')
}

/** A request begins, which has changed nothing of an upper layer and can be given up until it does; or it is over. */
export function serving(on: boolean): void {
  addon.serving(on)
}

/** `callback` hears of each filesystem that was silent and has answered. Call it once. */
export function onAnswer(callback: (filesystem: number) => void): void {
  addon.onAnswer(callback)
}

/** Which filesystem has not answered; undefined for every other error. */
export function silentFilesystem(error: unknown): number | undefined {
  return error instanceof SysError && error.errno > SILENT ? error.errno - SILENT : undefined
}
