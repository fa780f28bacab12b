/**
 * `container cp`: files between the host and a container, as docker cp has it. Paths of the container are resolved with its
 * rootfs as `/` and used by descriptor, so that no symlink in it, also one that is swapped meanwhile, leads out.
 * Source: docs.docker.com/reference/cli/docker/container/cp
 */
import { fromUtf8, toUtf8, type ByteName } from '../../base/bytes.js'
import { E } from '../../base/errno.js'
import type { Fd } from '../../base/fd.js'
import { SysError } from '../../base/sys-error.js'
import { applyTar, decompress, tarTree, type ByteSource } from '../../oci/index.js'
import * as sys from '../../sys/index.js'
import type { Stat } from '../../sys/index.js'
import { Copier, type CopyTotals, type Override } from '../copy-tree.js'
import { IN_ROOT } from '../mounts/target.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import { rootOf, specOf } from './container-spec.js'
import { ContainerUse } from './uses.js'

const OPEN_DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW
const PARENT = sys.O_PATH | sys.O_DIRECTORY
/** As in the kernel (MAXSYMLINKS). */
const MAX_SYMLINKS = 40

export interface CopyOptions {
  /**
   * Keep owners; otherwise everything belongs to root in the container, to the caller on the host, where nothing is a device then, or
   * gives rights to whoever runs it.
   */
  readonly archive?: boolean
  /** Of a source that is a symlink, copy what it leads to. */
  readonly followLink?: boolean
  readonly signal?: AbortSignal
}

/** A tree in which paths are looked up. */
interface Side {
  /** AT_FDCWD is the host. */
  readonly root: number
  readonly resolve: number
  /** In front of paths in messages: `web:`. */
  readonly prefix: string
}

const HOST: Side = { root: sys.AT_FDCWD, resolve: 0, prefix: '' }

interface Source {
  readonly fd: Fd
  readonly stat: Stat
  /** What it is called at the destination. */
  readonly name: ByteName
  /** `DIR/.`: what is in the directory, not itself. */
  readonly contentsOnly: boolean
  readonly shown: string
}

/** @throws StoreError not-found, invalid */
export async function copyOut(
  store: Store,
  ref: string,
  from: string,
  to: string,
  options: CopyOptions = {},
): Promise<CopyTotals> {
  await using use = await ContainerUse.begin(store, ref)
  using rootfs = openRootfs(use.rootfs)
  const own: Override = {
    uid: sys.geteuid(),
    gid: process.getegid?.() ?? 0,
    harmless: true,
    changeMode: mode => mode & ~(sys.S_ISUID | sys.S_ISGID),
  }
  const override = options.archive === true ? {} : own
  return await copyBetween(inside(rootfs, ref), from, HOST, to, override, options)
}

/** @throws StoreError not-found, invalid */
export async function copyIn(
  store: Store,
  from: string,
  ref: string,
  to: string,
  options: CopyOptions = {},
): Promise<CopyTotals> {
  await using use = await ContainerUse.begin(store, ref)
  using rootfs = openRootfs(use.rootfs)
  const root = rootOf(specOf(store.containers.find(ref)))
  const override = options.archive === true ? {} : root
  return await copyBetween(HOST, from, inside(rootfs, ref), to, override, options, root)
}

/** What is at a path of the container as a tar, under its own name. */
export async function* copyOutTar(
  store: Store,
  ref: string,
  from: string,
  options: CopyOptions = {},
): AsyncGenerator<Uint8Array, void, void> {
  await using use = await ContainerUse.begin(store, ref)
  using rootfs = openRootfs(use.rootfs)
  const side = inside(rootfs, ref)
  const source = openSource(side, from, options)
  using held = source.fd
  const { signal } = options
  if (sys.S_ISDIR(source.stat.mode)) {
    using dir = sys.openat(held.n, '.', sys.O_RDONLY | sys.O_DIRECTORY)
    const prefix = source.contentsOnly ? {} : { prefix: `${source.name}/` }
    yield* tarTree(dir.n, { contents: 'plain', root: true, ...prefix, signal })
    return
  }
  using parent = openDirOf(side, from)
  using dir = sys.openat(parent.n, '.', OPEN_DIR)
  const name = source.name
  yield* tarTree(dir.n, { contents: 'plain', exclude: path => path !== name, signal })
}

/** Unpacks a tar, compressed or not, in a directory of the container; owners are those of the archive. */
export async function copyInTar(
  store: Store,
  stream: ByteSource,
  ref: string,
  to: string,
  options: CopyOptions = {},
): Promise<void> {
  await using use = await ContainerUse.begin(store, ref)
  if (specOf(store.containers.find(ref)).ids !== undefined) {
    throw new StoreError(
      'unsupported',
      'a tar cannot go into a container with --uidmap',
      'unpack it, and copy that',
    )
  }
  using rootfs = openRootfs(use.rootfs)
  const side = inside(rootfs, ref)
  using place = tryOpen(side, fromUtf8(to), sys.O_PATH)
  if (place === undefined || !sys.S_ISDIR(sys.statFd(place.n).mode)) {
    throw new StoreError('invalid', `${ref}:${to} is no directory`, 'a tar is unpacked in one that is there')
  }
  using dir = sys.openat(place.n, '.', OPEN_DIR)
  const { data } = await decompress(stream, { what: 'standard input', limit: false })
  await applyTar(dir.n, data, { whiteouts: 'literal', what: 'standard input', signal: options.signal })
}

function openRootfs(path: string): Fd {
  return sys.openat(sys.AT_FDCWD, fromUtf8(path), PARENT)
}

const inside = (rootfs: Fd, ref: string): Side => ({
  root: rootfs.n,
  resolve: IN_ROOT,
  prefix: `${ref}:`,
})

async function copyBetween(
  fromSide: Side,
  from: string,
  toSide: Side,
  to: string,
  override: Override,
  options: CopyOptions,
  creator?: { readonly uid: number; readonly gid: number },
): Promise<CopyTotals> {
  const source = openSource(fromSide, from, options)
  using held = source.fd
  const place = placeFor(toSide, to, source)
  using dir = place.dir
  const copier = new Copier(dir.n, options.signal, override, creator)
  if (!sys.S_ISDIR(source.stat.mode)) {
    await copyFile(copier, held, source, dir, place.name)
    return copier.totals
  }
  using fromDir = sys.openat(held.n, '.', OPEN_DIR)
  if (place.name === '.') {
    // There before us: its owner and mode are its own.
    using toDir = sys.openat(dir.n, '.', OPEN_DIR)
    await merge(copier, fromDir, toDir, '')
    return copier.totals
  }
  await mergeInto(copier, fromDir, source.stat, dir, place.name, '')
  return copier.totals
}

async function copyFile(copier: Copier, from: Fd, source: Source, dir: Fd, name: ByteName): Promise<void> {
  if (isLeftOut(copier, source.stat)) {
    throw new StoreError('invalid', `${source.shown} is a device`, 'only --archive copies one to the host')
  }
  clear(dir.n, name, source.shown)
  copier.totals.entries += 1
  if (sys.S_ISLNK(source.stat.mode)) copier.make(() => sys.symlinkat(sys.readlinkat(from.n, ''), dir.n, name))
  else {
    await copier.create(from.n, '', source.stat, dir.n, name)
    return
  }
  copier.metadata(from.n, '', source.stat, dir.n, name)
}

/** The content of one directory into another, which keeps what the first does not have. */
async function merge(copier: Copier, from: Fd, to: Fd, path: ByteName): Promise<void> {
  for (const name of sys.listDir(from.n).names) {
    const stat = sys.statAt(from.n, name)
    // Gone since it was listed; or a socket, which is nothing without the process that listens.
    if (stat === undefined || sys.S_ISSOCK(stat.mode)) continue
    if (isLeftOut(copier, stat)) {
      process.emitWarning(
        `the device '${toUtf8(path + name)}' was left out: only --archive copies it`,
        'LaminaWarning',
      )
      continue
    }
    if (!sys.S_ISDIR(stat.mode)) {
      clear(to.n, name, path + name)
      await copier.object(from.n, name, stat, to.n, path + name)
      continue
    }
    using child = sys.openat(from.n, name, OPEN_DIR)
    await mergeInto(copier, child, stat, to, name, path)
  }
}

async function mergeInto(
  copier: Copier,
  from: Fd,
  stat: Stat,
  to: Fd,
  name: ByteName,
  path: ByteName,
): Promise<void> {
  copier.totals.entries += 1
  const existing = sys.statAt(to.n, name)
  if (existing === undefined) copier.make(() => sys.mkdirat(to.n, name, 0o700))
  else if (!sys.S_ISDIR(existing.mode)) {
    throw new StoreError(
      'failed',
      `cannot copy the directory '${toUtf8(path + name)}' over a file of that name`,
    )
  }
  using child = sys.openat(to.n, name, OPEN_DIR)
  await merge(copier, from, child, `${path}${name}/`)
  copier.metadata(from.n, '', stat, child.n, '')
}

function isLeftOut(copier: Copier, { mode }: Stat): boolean {
  return copier.override.harmless === true && (sys.S_ISCHR(mode) || sys.S_ISBLK(mode))
}

function clear(dir: number, name: ByteName, shown: string): void {
  const stat = sys.statAt(dir, name)
  if (stat === undefined) return
  if (sys.S_ISDIR(stat.mode)) {
    throw new StoreError('failed', `cannot copy the file '${toUtf8(shown)}' over a directory of that name`)
  }
  sys.unlinkat(dir, name, 0)
}

function tryOpen(side: Side, path: ByteName, flags: number): Fd | undefined {
  try {
    return sys.openat2(side.root, path === '' ? '.' : path, flags, 0, side.resolve)
  } catch (error) {
    if (error instanceof SysError && error.errno === E.ENOENT) return undefined
    throw error
  }
}

const baseName = (path: ByteName): ByteName => path.slice(path.lastIndexOf('/') + 1)
const trimmed = (path: ByteName): ByteName => path.replace(/(.)\/+$/, '$1')

function openSource(side: Side, text: string, options: CopyOptions): Source {
  const path = fromUtf8(text)
  const follow = options.followLink === true || /(^|\/)\.{0,2}$/.test(path)
  const shown = `${side.prefix}${text}`
  const fd = tryOpen(side, path, sys.O_PATH | (follow ? 0 : sys.O_NOFOLLOW))
  if (fd === undefined) throw new StoreError('not-found', `${shown}: no such file or directory`)
  const stat = sys.statFd(fd.n)
  const name = baseName(trimmed(path))
  const contentsOnly = ['', '.', '..', '/'].includes(name) || path === '/'
  return { fd, stat, name, contentsOnly, shown }
}

function openDirOf(side: Side, text: string): Fd {
  const path = trimmed(fromUtf8(text))
  const slash = path.lastIndexOf('/')
  return sys.openat2(side.root, slash < 0 ? '.' : path.slice(0, slash + 1), PARENT, 0, side.resolve)
}

/** The directory to write in, and the name; `.` is the content of that directory itself. */
function placeFor(side: Side, text: string, source: Source): { dir: Fd; name: ByteName } {
  let path = fromUtf8(text)
  const shown = `${side.prefix}${text}`
  const isDir = sys.S_ISDIR(source.stat.mode)
  for (let links = 0; ; links += 1) {
    const existing = tryOpen(side, path, sys.O_PATH)
    if (existing !== undefined && sys.S_ISDIR(sys.statFd(existing.n).mode)) {
      if (!isDir || !source.contentsOnly) return { dir: existing, name: source.name }
      return { dir: existing, name: '.' }
    }
    existing?.close()
    if (isDir && existing !== undefined) {
      throw new StoreError('invalid', `cannot copy the directory ${source.shown} to the file ${shown}`)
    }
    if (!isDir && path.endsWith('/')) {
      throw new StoreError('invalid', `${shown}: no such directory`, 'make it first, or leave the last / out')
    }
    path = trimmed(path)
    const slash = path.lastIndexOf('/')
    const dir = tryOpen(side, slash < 0 ? '.' : path.slice(0, slash + 1), PARENT)
    if (dir === undefined) {
      throw new StoreError('not-found', `${shown}: the directory that it is to lie in is not there`)
    }
    const name = path.slice(slash + 1)
    const stat = sys.statAt(dir.n, name)
    if (stat === undefined || !sys.S_ISLNK(stat.mode)) return { dir, name }
    // A symlink: what it names is replaced, or made where it is dangling.
    using linked = dir
    if (links > MAX_SYMLINKS) throw new SysError(E.ELOOP, 'open', path)
    const target = sys.readlinkat(linked.n, name)
    path = target.startsWith('/') ? target : `${path.slice(0, slash + 1)}${target}`
  }
}
