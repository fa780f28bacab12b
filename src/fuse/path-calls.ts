/**
 * Path calls, as libfuse's high level makes them, turned into the requests of a {@link FileSystem}: each call looks its path
 * up from the root, does what is asked with the inode found, and gives all references back.
 *
 * What a path cannot say is lost here: which of several names of an inode is meant, who asks, names that are not UTF-8.
 */
import { fromUtf8, toUtf8, type ByteName } from '../base/bytes.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import * as sys from '../sys/index.js'
import { Again, type Attr, type Caller, type DirSink, type FileSystem, type SetAttr } from './filesystem.js'
import type { StatFsReply } from './filesystem.js'
import type { PathFiles } from './path-files.js'

const ROOT = 1

/** An inode found for one call. */
interface Found {
  readonly nodeid: number
}

export class PathCalls {
  /** By name, as the session counts them. */
  readonly requests: Record<string, number> = {}
  readonly errors: Record<string, number> = {}
  waits = 0
  faults = 0
  /** Open files: the number that libfuse keeps, and the inode. */
  readonly #open = new Map<number, number>()
  #nextHandle = 1
  /** libfuse's high level passes on nobody's ids. */
  readonly #caller: Caller = { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0, pid: 0 }

  constructor(
    readonly fs: FileSystem,
    readonly files: PathFiles,
  ) {}

  /** Runs one call to its end, waiting where the filesystem asks for that. Gives 0 or -errno, and the result. */
  async run<T>(name: string, call: () => T | Promise<T>): Promise<{ errno: number; value?: T }> {
    this.requests[name] = (this.requests[name] ?? 0) + 1
    for (;;) {
      try {
        return { errno: 0, value: await call() }
      } catch (error) {
        if (error instanceof Again) {
          this.waits += 1
          const failed = await error.ready.then(
            () => undefined,
            (reason: unknown) => ({ reason }),
          )
          if (failed === undefined) continue
          return this.#failed(name, failed.reason)
        }
        return this.#failed(name, error)
      }
    }
  }

  #failed(name: string, error: unknown): { errno: number } {
    this.errors[name] = (this.errors[name] ?? 0) + 1
    if (error instanceof SysError) return { errno: -error.errno }
    this.faults += 1
    process.stderr.write(
      `${name}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
    )
    return { errno: -E.EIO }
  }

  // ---- paths

  #at<T>(path: string, use: (found: Found) => T): T {
    return this.#walk(
      fromUtf8(path)
        .split('/')
        .filter(name => name !== ''),
      use,
    )
  }

  #inParent<T>(path: string, use: (parent: Found, name: ByteName) => T): T {
    const names = fromUtf8(path)
      .split('/')
      .filter(name => name !== '')
    const name = names.pop()
    if (name === undefined) throw new SysError(E.EEXIST, 'path', path)
    return this.#walk(names, parent => use(parent, name))
  }

  #walk<T>(names: readonly ByteName[], use: (found: Found) => T): T {
    const held: number[] = []
    let result: T
    try {
      let nodeid = ROOT
      for (const name of names) {
        const entry = this.fs.lookup(nodeid, name, this.#caller)
        if (entry.nodeid === 0) throw new SysError(E.ENOENT, 'lookup', name)
        nodeid = entry.nodeid
        held.push(nodeid)
      }
      result = use({ nodeid })
    } catch (error) {
      this.#forget(held)
      throw error
    }
    if (result instanceof Promise) {
      return result.finally(() => {
        this.#forget(held)
      }) as T
    }
    this.#forget(held)
    return result
  }

  #forget(nodeids: readonly number[]): void {
    for (const nodeid of nodeids) this.fs.forget(nodeid, 1)
  }

  // ---- attributes

  getattr(path: string): Attr {
    return this.#at(path, ({ nodeid }) => this.fs.getattr(nodeid, undefined).attr)
  }

  setattr(path: string, change: Omit<SetAttr, 'killSuidgid'>, handle?: number): void {
    const full = { ...change, killSuidgid: false }
    const open = handle === undefined ? undefined : this.#open.get(handle)
    if (open !== undefined) this.fs.setattr(open, full, this.#caller)
    else this.#at(path, ({ nodeid }) => void this.fs.setattr(nodeid, full, this.#caller))
  }

  statfs(): StatFsReply {
    return this.fs.statfs(ROOT)
  }

  readlink(path: string): string {
    return toText(this.#at(path, ({ nodeid }) => this.fs.readlink(nodeid)))
  }

  /** The whole directory: names, and of each the inode number and its type as mode bits. */
  readdir(path: string): { names: string[]; stats: { ino: number; mode: number }[] } {
    return this.#at(path, ({ nodeid }) => {
      const names: string[] = []
      const stats: { ino: number; mode: number }[] = []
      const sink: DirSink = {
        plus: false,
        // DT_ values are the type bits of the mode, shifted.
        add: (name, ino, type) => names.push(toText(name)) > 0 && stats.push({ ino, mode: type << 12 }) > 0,
        addPlus: () => false,
        fits: () => true,
      }
      this.fs.readdir(nodeid, 0, 0, sink)
      return { names, stats }
    })
  }

  // ---- names

  mknod(path: string, mode: number, rdev: number): void {
    this.#inParent(path, (parent, name) => {
      this.#forget([this.fs.mknod(parent.nodeid, name, mode, rdev, 0, this.#caller).nodeid])
    })
  }

  mkdir(path: string, mode: number): void {
    this.#inParent(path, (parent, name) => {
      this.#forget([this.fs.mkdir(parent.nodeid, name, mode, 0, this.#caller).nodeid])
    })
  }

  symlink(target: string, path: string): void {
    this.#inParent(path, (parent, name) => {
      this.#forget([this.fs.symlink(parent.nodeid, name, fromUtf8(target), this.#caller).nodeid])
    })
  }

  link(path: string, other: string): void {
    this.#at(path, ({ nodeid }) => {
      this.#inParent(other, (parent, name) => {
        this.#forget([this.fs.link(nodeid, parent.nodeid, name, this.#caller).nodeid])
      })
    })
  }

  unlink(path: string): void {
    this.#inParent(path, (parent, name) => {
      this.#holding([this.#lookup(parent, name)], () => {
        this.fs.unlink(parent.nodeid, name, this.#caller)
      })
    })
  }

  rmdir(path: string): void {
    this.#inParent(path, (parent, name) => {
      this.#holding([this.#lookup(parent, name)], () => {
        this.fs.rmdir(parent.nodeid, name, this.#caller)
      })
    })
  }

  rename(path: string, to: string): void {
    this.#inParent(path, (parent, name) => {
      this.#inParent(to, (newParent, newName) => {
        this.#holding([this.#lookup(parent, name), this.#lookup(newParent, newName)], () => {
          this.fs.rename(parent.nodeid, name, newParent.nodeid, newName, 0, this.#caller)
        })
      })
    })
  }

  /** The kernel has looked up what it renames or removes: of an inode that nobody holds nothing could be forgotten. */
  #holding(nodeids: readonly number[], call: () => void): void {
    try {
      call()
    } finally {
      this.#forget(nodeids.filter(nodeid => nodeid !== 0))
    }
  }

  /** With a reference; 0 where there is nothing. */
  #lookup(parent: Found, name: ByteName): number {
    try {
      return this.fs.lookup(parent.nodeid, name, this.#caller).nodeid
    } catch (error) {
      if (error instanceof SysError && error.errno === E.ENOENT) return 0
      throw error
    }
  }

  // ---- open files

  async open(path: string, flags: number): Promise<number> {
    const handle = this.#nextHandle++
    await this.#at(path, async ({ nodeid }) => {
      await this.fs.open(nodeid, flags, this.#caller)
      this.#keep(handle, path, nodeid)
    })
    return handle
  }

  /** A reference of its own: the path's are given back at the end of the call. */
  #keep(handle: number, path: string, nodeid: number): void {
    this.#inParent(path, (parent, name) => {
      const entry = this.fs.lookup(parent.nodeid, name, this.#caller)
      if (entry.nodeid !== nodeid) {
        if (entry.nodeid !== 0) this.fs.forget(entry.nodeid, 1)
        throw new SysError(E.ESTALE, 'open', path)
      }
    })
    this.#open.set(handle, nodeid)
  }

  create(path: string, mode: number): number {
    return this.#inParent(path, (parent, name) => {
      const { entry } = this.fs.create(parent.nodeid, name, sys.O_RDWR, mode, 0, this.#caller)
      const handle = this.#nextHandle++
      this.#open.set(handle, entry.nodeid)
      return handle
    })
  }

  read(handle: number, into: Buffer, offset: number): number {
    const nodeid = this.#handle(handle)
    if (this.files.registered(nodeid) === 0) this.fs.prepareIo(nodeid, false)
    return this.files.read(nodeid, into, offset)
  }

  write(handle: number, from: Buffer, offset: number): number {
    const nodeid = this.#handle(handle)
    if (this.files.registered(nodeid) !== 2) this.fs.prepareIo(nodeid, true)
    this.files.write(nodeid, from, offset)
    return from.length
  }

  async fsync(handle: number, datasync: boolean): Promise<void> {
    await this.fs.fsync(this.#handle(handle), datasync)
  }

  async fsyncdir(path: string, datasync: boolean): Promise<void> {
    await this.#at(path, async ({ nodeid }) => {
      await this.fs.fsyncdir(nodeid, datasync)
    })
  }

  release(handle: number): void {
    const nodeid = this.#open.get(handle)
    if (nodeid === undefined) return
    this.#open.delete(handle)
    this.fs.forget(nodeid, 1)
  }

  #handle(handle: number): number {
    const nodeid = this.#open.get(handle)
    if (nodeid === undefined) throw new SysError(E.EBADF, 'read', undefined)
    return nodeid
  }

  // ---- extended attributes

  getxattr(path: string, name: string): Buffer {
    return this.#at(path, ({ nodeid }) => this.fs.getxattr(nodeid, fromUtf8(name), this.#caller))
  }

  setxattr(path: string, name: string, value: Buffer, flags: number): void {
    this.#at(path, ({ nodeid }) => {
      this.fs.setxattr(nodeid, fromUtf8(name), value, flags, false, this.#caller)
    })
  }

  /** As the system call gives them: each ends with NUL. */
  listxattr(path: string): Buffer {
    const names = this.#at(path, ({ nodeid }) => this.fs.listxattr(nodeid, this.#caller))
    return Buffer.from(names.map(name => `${name}\0`).join(''), 'latin1')
  }

  removexattr(path: string, name: string): void {
    this.#at(path, ({ nodeid }) => {
      this.fs.removexattr(nodeid, fromUtf8(name), this.#caller)
    })
  }
}

/** What fuse-native passes on is UTF-8; of other names only a part survives. */
function toText(name: ByteName): string {
  const text = Buffer.from(name, 'latin1').toString('utf8')
  return text.includes('\ufffd') ? toUtf8(name) : text
}
