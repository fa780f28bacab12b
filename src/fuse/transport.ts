/**
 * The seam below the protocol: where frames come from and where replies go.
 * Behind it: the device (transport-device.ts), recorded frames (transport-replay.ts), and decorators of either
 * (trace.ts, debug.ts).
 */

import type { Account } from '../sys/account.js'
import type { AnsweredDirectory, Issued, LowerFile, Told } from './filesystem.js'

export interface Transport {
  /** The frame of the present onFrame call, valid until that returns. The same memory for the transport's whole life. */
  readonly input: ArrayBuffer
  /** Where a reply is encoded, header included, before {@link send}. */
  readonly output: ArrayBuffer

  /**
   * Begins to deliver. `onFrame` is called with the frame's length, never from within itself.
   * `onEnd` is called once, with the errno that ended it: ENODEV is an unmount, ECONNABORTED an abort.
   */
  start(onFrame: (length: number) => void, onEnd: (errno: number) => void): void

  /** Sends output[0..length). 0, or -errno: -ENOENT says that nobody waits for this reply any more. */
  send(length: number): number

  /** Sends a message of its own memory. */
  sendBuffer(message: Buffer): number

  /**
   * Sends a notification from a thread of its own, in order. The kernel may take the lock of the directory or page
   * concerned, which a request may hold that only this daemon can answer: a synchronous write would wait for itself.
   * Those about inodes are in order, and so are those about names. Gives the number of one about an inode, 1 for the first; 0 of others,
   * or where nothing can be sent.
   */
  notify(message: Buffer): number
  /** The callback is told the number, as {@link notify} gave it, of the last one that the kernel has taken. Once. */
  onNotified(callback: (number: number) => void): void

  /** Notifications that are not sent yet. */
  notifying(): number

  /** Serves this READ or WRITE from the registered file of its nodeid; answers EIO where there is none. */
  resubmit(frame: Buffer): void

  registerFile(nodeid: number, fd: number, writable: boolean, ino?: number, told?: Told | 'unknown'): void
  /** See KernelSide.fileOf. */
  fileOf(nodeid: number): number | undefined
  /** See KernelSide.showFiles. */
  showFiles(timeout: number): void
  /** WRITEs of files registered from here on are noted in the account, and get no more room than it has. */
  limit(account: Account): void
  unregisterFile(nodeid: number): boolean
  isRegistered(nodeid: number): 0 | 1 | 2
  pin(nodeid: number, on: boolean): void
  /** From now on the least recently used registrations that are not pinned are closed beyond `max` (a few more now and then); gives how many were. */
  keepFiles(max: number): number

  /** See KernelSide.followAttributes. */
  followAttributes(nodeid: number, fd: number, oneLink: boolean): void
  /** See KernelSide. */
  answerNames(directory: AnsweredDirectory): void
  takeIssued(): readonly Issued[]
  /** See KernelSide.tellFiles. */
  tellFiles(directory: number, files: readonly LowerFile[]): void
  readonly newest: Float64Array
  /** See KernelSide.answersChanged. */
  answersChanged(nodeid: number): void
  /** See KernelSide.hasWork. */
  hasWork(on: boolean): void
  /** From now on onFrame gets every request but READ and WRITE of registered files: for those that watch. */
  askAll(): void

  /** FUSE_DEV_IOC_BACKING_OPEN: a backing id, or -errno. */
  backingOpen(fd: number): number
  /** FUSE_DEV_IOC_BACKING_CLOSE: 0 or -errno. */
  backingClose(id: number): number

  counters(): TransportCounters

  /** Ends delivery and closes everything that the transport owns, the device included. onEnd is not called. */
  close(): void
}

export interface TransportCounters {
  /** Frames by opcode, those that never entered JavaScript included. */
  readonly requests: Float64Array
  readonly framesToJs: number
  readonly readsInline: number
  readonly readsThreaded: number
  readonly writesInline: number
  readonly writesThreaded: number
  readonly bytesRead: number
  readonly bytesWritten: number
  readonly registered: number
  readonly wakeups: number
  /** Directories whose attributes are answered without onFrame; a descriptor each. */
  readonly followed: number
  /** LOOKUPs that were answered without onFrame. */
  readonly namesAnswered: number
  readonly attributesAnswered: number
}
