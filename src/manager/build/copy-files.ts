/** COPY and ADD: files into the mounted tree of a step. Every target path is resolved inside that tree. */
import { createReadStream } from 'node:fs'
import type { Fd } from '../../base/fd.js'
import { fromUtf8, toUtf8 } from '../../base/bytes.js'
import { E } from '../../base/errno.js'
import { SysError } from '../../base/sys-error.js'
import {
  applyTar,
  decompress,
  parseDockerignore,
  peek,
  type CopyStep,
  type IgnoreRules,
} from '../../oci/index.js'
import * as sys from '../../sys/index.js'
import type { Stat } from '../../sys/index.js'
import { resolveWorkdir } from '../config-change.js'
import { resolveUser } from '../container-user.js'
import { Copier, type Override } from '../copy-tree.js'
import { StoreError } from '../store-error.js'
import type { CopySource } from './copy-source.js'
import type { RemoteFile } from './remote-files.js'

const OPEN_DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW
const IN_ROOT = sys.RESOLVE_IN_ROOT | sys.RESOLVE_NO_MAGICLINKS

export async function copyFiles(
  step: CopyStep,
  source: CopySource,
  rootfs: number,
  workingDir: string | undefined,
  signal?: AbortSignal,
  /** Files that come in addition to the sources: they are not unpacked. */
  remote: readonly RemoteFile[] = [],
): Promise<void> {
  const override = overrideOf(step, source, rootfs)
  const copier = new Copier(rootfs, signal, override)
  const exclude = step.exclude.length > 0 ? parseDockerignore(step.exclude.join('\n')) : undefined
  const intoDir = /(^|\/)\.{0,2}$/.test(step.destination)
  const target = fromUtf8(resolveWorkdir(workingDir, step.destination)).slice(1)
  const paths = step.sources.flatMap(pattern => source.expand(pattern))
  const many = paths.length + step.inline.length + remote.length > 1
  for (const path of paths) {
    using fd = source.open(path)
    const stat = sys.statFd(fd.n)
    const walker = new Walker(copier, source, exclude)
    if (sys.S_ISDIR(stat.mode)) {
      // A directory's content, not the directory; with --parents below its own path.
      using dir = makeDirectories(rootfs, step.parents ? joined(target, path) : target, override)
      using from = sys.openat(fd.n, '.', OPEN_DIR)
      await walker.directory(from.n, dir.n, path)
      continue
    }
    if (
      step.kind === 'add' &&
      sys.S_ISREG(stat.mode) &&
      (await addArchive(fd, rootfs, target, override, signal))
    )
      continue
    const name = path.slice(path.lastIndexOf('/') + 1)
    const parent = step.parents
      ? joined(target, path.slice(0, Math.max(0, path.length - name.length - 1)))
      : target
    await place(copier, fd, stat, rootfs, parent, name, intoDir || many || step.parents)
  }
  for (const { path, name } of remote) {
    const asDir = intoDir || many
    if (name === '' && asDir) {
      throw new StoreError(
        'invalid',
        'the URL does not end in the name of a file',
        'say one: ADD URL /dir/name',
      )
    }
    using fd = sys.openat(sys.AT_FDCWD, fromUtf8(path), sys.O_PATH | sys.O_NOFOLLOW)
    await place(copier, fd, sys.statFd(fd.n), rootfs, target, name === '' ? baseName(target) : name, asDir)
  }
  for (const { name, content } of step.inline)
    writeInline(rootfs, target, fromUtf8(name), content, override, intoDir || many)
}

function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}

function joined(a: string, b: string): string {
  return a === '' ? b : b === '' ? a : `${a}/${b}`
}

function overrideOf(step: CopyStep, source: CopySource, rootfs: number): Override {
  const owner = step.chown === undefined ? undefined : chownIds(rootfs, step.chown)
  const fallback = source.owners ? {} : { uid: 0, gid: 0 }
  if (step.chmod !== undefined && !/^[0-7]{1,4}$/.test(step.chmod)) {
    throw new StoreError('invalid', `--chmod=${step.chmod} is no octal mode`, 'e.g. --chmod=0644')
  }
  return {
    ...fallback,
    ...owner,
    ...(step.chmod === undefined ? {} : { mode: Number.parseInt(step.chmod, 8) }),
  }
}

/** Without a group, `--chown=1000` means group 1000, and a name its own group. */
function chownIds(rootfs: number, text: string): { uid: number; gid: number } {
  const { uid, gid } = resolveUser(rootfs, /^\d+$/.test(text) ? `${text}:${text}` : text)
  return { uid, gid }
}

/** One file (or link, fifo, device) under its own name in a directory, or as the target itself. */
async function place(
  copier: Copier,
  fd: Fd,
  stat: Stat,
  rootfs: number,
  target: string,
  name: string,
  intoDir: boolean,
): Promise<void> {
  const existing = statInRoot(rootfs, target)
  const asDir = intoDir || target === '' || (existing !== undefined && sys.S_ISDIR(existing.mode))
  const dirPath = asDir ? target : target.slice(0, Math.max(0, target.lastIndexOf('/')))
  const as = asDir ? name : target.slice(target.lastIndexOf('/') + 1)
  using dir = makeDirectories(rootfs, dirPath, copier.override)
  clear(dir.n, as)
  copier.totals.entries += 1
  await copier.create(fd.n, '', stat, dir.n, as)
}

/** Copies trees, leaving out what .dockerignore and --exclude name. */
class Walker {
  constructor(
    readonly copier: Copier,
    readonly source: CopySource,
    readonly exclude: IgnoreRules | undefined,
  ) {}

  async directory(from: number, to: number, path: string): Promise<void> {
    for (const name of sys.listDir(from).names) {
      const full = joined(path, name)
      const stat = sys.statAt(from, name)
      if (stat === undefined) continue
      const isDir = sys.S_ISDIR(stat.mode)
      const hidden = this.source.ignores(full) || this.exclude?.ignores(full) === true
      const mayReturn =
        this.source.ignore?.mayContainExceptions === true || this.exclude?.mayContainExceptions === true
      if (hidden && !(isDir && mayReturn)) continue
      if (!isDir) {
        clear(to, name)
        this.copier.totals.entries += 1
        await this.copier.create(from, name, stat, to, name)
        continue
      }
      const existing = sys.statAt(to, name)
      if (existing === undefined) sys.mkdirat(to, name, 0o700)
      else if (!sys.S_ISDIR(existing.mode)) {
        throw new StoreError('failed', `cannot copy the directory '${toUtf8(full)}' over a file of that name`)
      }
      using child = sys.openat(from, name, OPEN_DIR)
      using childTarget = sys.openat(to, name, OPEN_DIR)
      await this.directory(child.n, childTarget.n, full)
      this.copier.metadata(child.n, '', stat, childTarget.n, '')
    }
  }
}

/** Makes room for a file; a directory in its place is an error, as in docker. */
function clear(dir: number, name: string): void {
  const stat = sys.statAt(dir, name)
  if (stat === undefined) return
  if (sys.S_ISDIR(stat.mode)) {
    throw new StoreError('failed', `cannot copy a file over the directory '${toUtf8(name)}'`)
  }
  sys.unlinkat(dir, name, 0)
}

/** `ADD archive.tar.gz`: unpacked where it is a tar; `false` for any other file. */
async function addArchive(
  fd: Fd,
  rootfs: number,
  target: string,
  override: Override,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const open = (): ReturnType<typeof createReadStream> =>
    createReadStream(`/proc/self/fd/${fd.n}`, { highWaterMark: 1 << 20 })
  if (!(await isTar(open()))) return false
  using dir = makeDirectories(rootfs, target, override)
  const { data } = await decompress(open(), { what: 'the archive of ADD', limit: false })
  await applyTar(dir.n, data, { whiteouts: 'literal', signal, what: 'the archive of ADD' })
  return true
}

/** Compressed or not: the first header says `ustar`. */
async function isTar(source: AsyncIterable<Uint8Array>): Promise<boolean> {
  try {
    const { data } = await decompress(source, { what: 'a file of ADD', limit: false })
    const { head, source: rest } = await peek(data, 512)
    // Leaving the iteration closes what is behind it.
    for await (const _ of rest) break
    return head.length >= 262 && head.toString('latin1', 257, 262) === 'ustar'
  } catch {
    return false
  }
}

function writeInline(
  rootfs: number,
  target: string,
  name: string,
  content: string,
  override: Override,
  intoDir: boolean,
): void {
  const existing = statInRoot(rootfs, target)
  const asDir = intoDir || (existing !== undefined && sys.S_ISDIR(existing.mode))
  using dir = makeDirectories(
    rootfs,
    asDir ? target : target.slice(0, Math.max(0, target.lastIndexOf('/'))),
    override,
  )
  const as = asDir ? name : target.slice(target.lastIndexOf('/') + 1)
  clear(dir.n, as)
  using file = sys.openat(dir.n, as, sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_NOFOLLOW, 0o600)
  const bytes = Buffer.from(content)
  for (let at = 0; at < bytes.length;) at += sys.pwriteSync(file.n, bytes, at, bytes.length - at, at)
  sys.fchown(file.n, override.uid ?? 0, override.gid ?? 0)
  sys.fchmod(file.n, override.mode ?? 0o644)
}

function statInRoot(rootfs: number, path: string): Stat | undefined {
  try {
    using fd = sys.openat2(rootfs, path === '' ? '.' : path, sys.O_PATH, 0, IN_ROOT)
    return sys.statFd(fd.n)
  } catch (error) {
    if (error instanceof SysError && (error.errno === E.ENOENT || error.errno === E.ENOTDIR)) return undefined
    throw error
  }
}

/**
 * Opens a directory of the tree for reading, making what is missing (mode 0755, owner as --chown says, else root).
 * Symlinks are followed inside the tree.
 */
export function makeDirectories(rootfs: number, path: string, owner: Pick<Override, 'uid' | 'gid'> = {}): Fd {
  const parts = path.split('/').filter(part => part !== '')
  let done = ''
  for (const part of parts) {
    const next = joined(done, part)
    if (statInRoot(rootfs, next) === undefined) {
      using parent = sys.openat2(rootfs, done === '' ? '.' : done, sys.O_RDONLY | sys.O_DIRECTORY, 0, IN_ROOT)
      sys.mkdirat(parent.n, part, 0o755)
      sys.fchownat(parent.n, part, owner.uid ?? 0, owner.gid ?? 0)
      sys.chmodAt(parent.n, part, 0o755)
    }
    done = next
  }
  return sys.openat2(rootfs, done === '' ? '.' : done, sys.O_RDONLY | sys.O_DIRECTORY, 0, IN_ROOT)
}
