/**
 * What a RUN step has that must not be on disk: secrets, the bundle with its environment, sockets. A tmpfs in the scratch
 * directory of the step, which a sweep unmounts after kill -9.
 */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fromUtf8 } from '../../base/bytes.js'
import type { Fd } from '../../base/fd.js'
import * as sys from '../../sys/index.js'
import { attach, cloneTree, makeTmpfs } from '../mounts/mount-tree.js'

const CREATE = sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_NOFOLLOW

export interface Owner {
  readonly uid?: number
  readonly gid?: number
  /** Permission bits. */
  readonly mode?: number
}

export class StepMemory implements Disposable {
  readonly path: string
  readonly #root: Fd
  #count = 0

  constructor(scratch: string) {
    this.path = join(scratch, 'memory')
    mkdirSync(this.path, { mode: 0o700 })
    using place = sys.openat(sys.AT_FDCWD, fromUtf8(this.path), sys.O_PATH | sys.O_DIRECTORY)
    // A script of a heredoc is run from here.
    this.#root = makeTmpfs(['mode=0700', 'exec', 'size=64m'], false)
    attach(this.#root.n, place.n)
  }

  /** For a while: a path that is short enough for a socket. */
  get shortPath(): string {
    return `/proc/self/fd/${this.#root.n}`
  }

  /** A name of its own. */
  name(kind: string): string {
    return `${kind}-${(this.#count += 1)}`
  }

  directory(): string {
    const name = this.name('dir')
    mkdirSync(join(this.path, name), { mode: 0o755 })
    return name
  }

  file(name: string, data: Uint8Array, owner: Owner): void {
    using fd = sys.openat(this.#root.n, fromUtf8(name), CREATE, 0o600)
    for (let at = 0; at < data.length;) at += sys.pwriteSync(fd.n, data, at, data.length - at, at)
    this.own(name, owner)
  }

  own(name: string, { uid = 0, gid = 0, mode = 0o600 }: Owner): void {
    sys.fchownat(this.#root.n, name, uid, gid)
    sys.chmodAt(this.#root.n, name, mode)
  }

  /** A detached mount of something in here. `attributes` is MOUNT_ATTR_*. */
  tree(name: string, attributes: number): Fd {
    const tree = cloneTree(this.#root.n, fromUtf8(name), { recursive: false, readOnly: false })
    sys.mountSetattr(tree.n, '', 0, { set: attributes })
    return tree
  }

  /** Where a runtime can take a mount from that has no path yet. */
  place(tree: Fd): string {
    const name = this.name('place')
    if (sys.S_ISDIR(sys.statFd(tree.n).mode)) mkdirSync(join(this.path, name), { mode: 0o755 })
    else sys.openat(this.#root.n, name, CREATE, 0o600).close()
    using target = sys.openat(this.#root.n, name, sys.O_PATH | sys.O_NOFOLLOW)
    attach(tree.n, target.n)
    return join(this.path, name)
  }

  [Symbol.dispose](): void {
    sys.umount2(fromUtf8(this.path), sys.MNT_DETACH)
    this.#root.close()
  }
}
