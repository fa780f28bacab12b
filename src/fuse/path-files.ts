/** The data plane of path calls: the files behind inodes, read and written by this process itself. */
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import * as sys from '../sys/index.js'
import type { KernelSide } from './filesystem.js'

interface Registered {
  readonly fd: number
  readonly writable: boolean
  pinned: boolean
}

/** Open files at most, unless more are pinned. */
const MAX_OPEN = 256

/** The kernel cannot be told of changes through fuse-native: entries and attributes must not be cached for long there. */
export class PathFiles implements KernelSide {
  /** Least recently registered first. */
  readonly #files = new Map<number, Registered>()

  get count(): number {
    return this.#files.size
  }

  followAttributes(): void {
    // libfuse asks for each path anew.
  }
  hasWork(): void {
    // libuv does not wait while something is to be done.
  }

  readonly newest = new Float64Array(1)

  answerNames(): void {
    // libfuse asks for each path anew.
  }

  tellFiles(): void {
    // libfuse asks for each path anew.
  }

  takeIssued(): readonly [] {
    return []
  }

  answersChanged(): void {
    // Nothing is remembered.
  }
  registerFile(nodeid: number, fd: number, writable: boolean): void {
    this.unregisterFile(nodeid)
    this.#files.set(nodeid, { fd, writable, pinned: false })
    for (const [id, file] of this.#files) {
      if (this.#files.size <= MAX_OPEN) break
      if (!file.pinned && id !== nodeid) this.unregisterFile(id)
    }
  }

  showFiles(): void {
    // libfuse asks for each path anew.
  }

  limit(): void {
    throw new SysError(E.EOPNOTSUPP, 'size', undefined)
  }

  unregisterFile(nodeid: number): void {
    const file = this.#files.get(nodeid)
    if (file === undefined) return
    this.#files.delete(nodeid)
    sys.close(file.fd)
  }

  fileOf(nodeid: number): number | undefined {
    const file = this.#files.get(nodeid)
    return file === undefined ? undefined : sys.dup(file.fd).release()
  }

  registered(nodeid: number): 0 | 1 | 2 {
    const file = this.#files.get(nodeid)
    return file === undefined ? 0 : file.writable ? 2 : 1
  }

  pin(nodeid: number, on: boolean): void {
    const file = this.#files.get(nodeid)
    if (file !== undefined) file.pinned = on
  }

  /** As much as there is up to the buffer's end. @throws SysError */
  read(nodeid: number, into: Buffer, offset: number): number {
    const { fd } = this.#file(nodeid)
    let done = 0
    while (done < into.length) {
      const n = sys.preadSync(fd, into, done, into.length - done, offset + done)
      if (n === 0) break
      done += n
    }
    return done
  }

  /** All of it. @throws SysError */
  write(nodeid: number, from: Buffer, offset: number): void {
    const { fd } = this.#file(nodeid)
    for (let done = 0; done < from.length;) {
      done += sys.pwriteSync(fd, from, done, from.length - done, offset + done)
    }
  }

  #file(nodeid: number): Registered {
    const file = this.#files.get(nodeid)
    if (file === undefined) throw new SysError(E.EIO, 'read', undefined)
    return file
  }

  invalidateInode(): void {
    // fuse-native has no notifications.
  }

  afterInvalidating(): Promise<void> {
    return Promise.resolve()
  }

  deleteEntry(): void {
    // The same.
  }

  invalidateEntry(): void {
    // The same.
  }

  openBacking(): undefined {
    return undefined
  }

  closeBacking(): void {
    // None was opened.
  }

  close(): void {
    for (const nodeid of [...this.#files.keys()]) this.unregisterFile(nodeid)
  }
}
