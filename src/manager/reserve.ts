/**
 * Room for the one thing that must work on a full disk: removing. A row is deleted before its directory is, and SQLite needs
 * some room even to open its file (a new -shm and -wal). So ROOT/reserve has eight files that hold 2 MiB and eight inodes, given up by the
 * first command that finds the disk full, and made again by the next one that finds room.
 */
import { mkdirSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fromUtf8 } from '../base/bytes.js'
import * as sys from '../sys/index.js'

const FILES = 8
const FILE_SIZE = 256 << 10
const SIZE = FILES * FILE_SIZE

export class Reserve {
  readonly #dir: string
  #low = false

  constructor(readonly root: string) {
    this.#dir = join(root, 'reserve')
  }

  /** To be called before the database is opened. Never fails. */
  atOpen(): void {
    const room = roomOn(this.root)
    if (room === undefined) return
    this.#low = room.bytes < SIZE || room.inodes < FILES
    if (this.#low) removeQuietly(this.#dir)
    else if (room.bytes > 8 * SIZE && !this.#isWhole()) this.#fill()
  }

  /** When the database is closed: as much is taken back as there is. Never fails. */
  atClose(): void {
    if (this.#low) this.#fill()
    this.#low = false
  }

  #isWhole(): boolean {
    try {
      return readdirSync(this.#dir).length >= FILES
    } catch {
      return false
    }
  }

  /** Each file is there for its room and for its inode. */
  #fill(): void {
    try {
      mkdirSync(this.#dir, { recursive: true, mode: 0o700 })
      for (let i = 0; i < FILES; i += 1) {
        const path = fromUtf8(join(this.#dir, String(i)))
        using file = sys.openat(sys.AT_FDCWD, path, sys.O_WRONLY | sys.O_CREAT, 0o600)
        sys.fallocateSync(file.n, 0, 0, FILE_SIZE)
      }
    } catch {
      // Full again, a filesystem without fallocate, or a store that is not ours to write: what there is must do.
    }
  }
}

/** Whether a failure to open or write there may be for want of room. */
export function isFull(root: string): boolean {
  const room = roomOn(root)
  return room !== undefined && (room.bytes < FILE_SIZE || room.inodes < 3)
}

function removeQuietly(dir: string): void {
  try {
    rmSync(dir, { recursive: true, force: true })
  } catch {
    // Not ours to write: then the store is not, either.
  }
}

/** What is free on the filesystem of `root`. */
function roomOn(root: string): { readonly bytes: number; readonly inodes: number } | undefined {
  try {
    using dir = sys.openat(sys.AT_FDCWD, fromUtf8(root), sys.O_RDONLY | sys.O_DIRECTORY)
    const { bavail, frsize, files, ffree } = sys.fstatfs(dir.n)
    // btrfs and others make inodes as they need them, and say 0.
    return { bytes: bavail * frsize, inodes: files === 0 ? Infinity : ffree }
  } catch {
    return undefined
  }
}
