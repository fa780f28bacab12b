import { addon, type AccountHandle } from './addon.js'

/** As native/account.cc numbers them. */
const USED = 0
const BASELINE = 1
const SETTLE = 2
const GONE = 3
const FORGET = 4
const HOLD = 5
const RELEASE = 6
const NEED = 7

const PAGE = 4096
/** Filesystems that say at once how many blocks a file has. Source: linux/magic.h, xfs, f2fs */
const PROMPT: readonly number[] = [0xef53, 0x58465342, 0x9123683e, 0x01021994, 0xf2f52010]

/**
 * What a mount with a size limit takes, shared with the data plane; see native/account.h for the words. All sizes in bytes.
 */
export class Account {
  readonly handle: AccountHandle

  constructor(
    readonly limit: number,
    used: number,
    /** Sizes are charged, not blocks. */
    readonly bySize: boolean,
  ) {
    this.handle = addon.accountOpen(limit, used, bySize)
  }

  /** Whether sizes must be charged on a filesystem of this type (statfs f_type). */
  static chargesSizes(type: number): boolean {
    return !PROMPT.includes(type)
  }

  /** What an object with these attributes is charged. */
  weigh(stat: { readonly size: number; readonly blocks: number }): number {
    return this.bySize ? Math.ceil(stat.size / PAGE) * PAGE : stat.blocks * 512
  }

  get used(): number {
    return addon.account(this.handle, USED, 0, 0, 0)
  }

  baseline(nodeid: number, bytes: number): void {
    addon.account(this.handle, BASELINE, nodeid, bytes, 0)
  }

  settle(nodeid: number, bytes: number): void {
    addon.account(this.handle, SETTLE, nodeid, bytes, 0)
  }

  gone(nodeid: number, bytes: number): void {
    addon.account(this.handle, GONE, nodeid, bytes, 0)
  }

  forget(nodeid: number): void {
    addon.account(this.handle, FORGET, nodeid, 0, 0)
  }

  /** Whether there is room; it is then kept until {@link release}. */
  hold(bytes: number): boolean {
    return addon.account(this.handle, HOLD, bytes, 0, 0) === 1
  }

  release(bytes: number): void {
    addon.account(this.handle, RELEASE, bytes, 0, 0)
  }

  /** Bytes of a range of a file that have no room on disk yet. */
  need(fd: number, offset: number, length: number): number {
    return addon.account(this.handle, NEED, fd, offset, length)
  }
}
