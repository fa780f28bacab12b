import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import type { Fd } from '../../src/base/fd.js'
import * as sys from '../../src/sys/index.js'
import { failure } from './sys-failure.js'

export interface Scratch {
  path: string
  /** Of the directory, for reading. */
  dir: Fd
}

/** A directory of the test's own, removed afterwards. `parent` chooses the filesystem. */
export function scratch(t: Test, parent = tmpdir()): Scratch {
  const path = mkdtempSync(join(parent, 'lamina-sys-'))
  const dir = sys.openat(sys.AT_FDCWD, path, sys.O_RDONLY | sys.O_DIRECTORY)
  t.teardown(() => {
    dir.close()
    rmSync(path, { recursive: true, force: true })
  })
  return { path, dir }
}

/** Creates a file with `content`. */
export function file(dir: Fd, name: string, content = '', mode = 0o644): void {
  using fd = sys.openat(dir.n, name, sys.O_CREAT | sys.O_WRONLY | sys.O_TRUNC, mode)
  const bytes = Buffer.from(content)
  if (bytes.length > 0) sys.pwriteSync(fd.n, bytes, 0, bytes.length, 0)
}

/** How many descriptors the process has. */
export function openFds(): number {
  return readdirSync('/proc/self/fd').length
}

/** The errno that `fn` throws, 0 when it does not. */
export function errnoOf(fn: () => unknown): number {
  return failure(fn)?.errno ?? 0
}

export const isRoot = sys.geteuid() === 0
