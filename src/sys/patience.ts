import { SysError } from '../base/sys-error.js'
import { addon, check } from './addon.js'

/** No errno of the kernel's: a filesystem has not answered in time (native/patience.h). Its number is added. */
const SILENT = 10_000

/** Most filesystems that can be told apart. */
export const MOST_REMOTE = 255

/**
 * Calls that read through `fd`, and through descriptors opened from it, are waited for only so long from now on; `filesystem` is a
 * number from 1 to {@link MOST_REMOTE}, or 0: `fd` is like any other again.
 */
export function coverDescriptor(fd: number, filesystem: number): void {
  check(addon.coverDescriptor(fd, filesystem), 'cover')
}

/** `callback` hears of each filesystem that was silent and has answered. Call it once. */
export function onAnswer(callback: (filesystem: number) => void): void {
  addon.onAnswer(callback)
}

/** Which filesystem has not answered; undefined for every other error. */
export function silentFilesystem(error: unknown): number | undefined {
  return error instanceof SysError && error.errno > SILENT ? error.errno - SILENT : undefined
}
