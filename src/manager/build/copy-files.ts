/**
 * COPY and ADD: files into the mounted tree of a step.
 * Source: tonistiigi/fsutil/copy and moby/buildkit solver/llbsolver/file, whose results these are.
 */
import type { Fd } from '../../base/fd.js'
import { fromUtf8, toUtf8, type ByteName } from '../../base/bytes.js'
import type { CopyStep } from '../../oci/index.js'
import * as sys from '../../sys/index.js'
import type { Stat } from '../../sys/index.js'
import { resolveWorkdir } from '../config-change.js'
import { Copier, type Override } from '../copy-tree.js'
import { StoreError } from '../store-error.js'
import { addArchive } from './add-archive.js'
import { newDirectory, overrideOf } from './copy-owner.js'
import { selectSources } from './copy-selection.js'
import { CopyTarget, makeRoom } from './copy-target.js'
import { copyContents } from './copy-walk.js'
import type { RemoteFile } from './remote-files.js'
import type { SourceTree } from './source-tree.js'

const OPEN_DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW

export async function copyFiles(
  step: CopyStep,
  source: SourceTree,
  rootfs: number,
  workingDir: string | undefined,
  signal?: AbortSignal,
  /** Files that come in addition to the sources. */
  remote: readonly RemoteFile[] = [],
): Promise<void> {
  const override = overrideOf(step, source.owners, rootfs)
  const target = new CopyTarget(rootfs, newDirectory(override))
  const sources = selectSources(step, source)
  const place: Destination = {
    target,
    path: fromUtf8(resolveWorkdir(workingDir, step.destination)).slice(1),
    isDirectory: /(^|\/)\.?$/.test(step.destination),
    several: sources.length + remote.length + step.inline.length > 1,
  }
  const unpack = step.unpack ?? step.kind === 'add'
  for (const { name, path, selection } of sources) {
    // Hard links are kept within one source.
    using fd = source.open(path)
    const stat = sys.statFd(fd.n)
    if (sys.S_ISDIR(stat.mode)) {
      using to = target.directory(place.path)
      using from = sys.openat(fd.n, '.', OPEN_DIR)
      const copier = new Copier(to.n, signal, override)
      await copyContents({ source, selection, copier }, from.n, to, path)
      continue
    }
    if (!selection.has(name)) continue
    if (
      unpack &&
      sys.S_ISREG(stat.mode) &&
      (await addArchive(fd, target, place.path, step, override, signal))
    )
      continue
    await copyFile(fd, stat, name, place, override, signal)
  }
  for (const { path, name } of remote) {
    using fd = sys.openat(sys.AT_FDCWD, fromUtf8(path), sys.O_PATH | sys.O_NOFOLLOW)
    if (step.unpack === true && (await addArchive(fd, target, place.path, step, override, signal))) continue
    if (name === '' && place.isDirectory) {
      throw new StoreError(
        'invalid',
        'the URL does not end in the name of a file',
        'say one: ADD URL /dir/name',
      )
    }
    await copyFile(fd, sys.statFd(fd.n), name === '' ? baseName(place.path) : name, place, override, signal)
  }
  for (const { name, content } of step.inline) writeInline(fromUtf8(name), content, place, override)
}

/** What the last word of a step means. */
interface Destination {
  readonly target: CopyTarget
  /** Below the root. */
  readonly path: ByteName
  /** It was written so: with a slash at its end. */
  readonly isDirectory: boolean
  /** More than one thing comes to it. */
  readonly several: boolean
}

/**
 * Where one file goes: under its own name into a directory, else to the destination itself, also where a symlink says so.
 * @throws StoreError failed where several files would come to one name
 */
function placeFile({ target, path, isDirectory, several }: Destination, name: ByteName) {
  if (isDirectory) target.directory(path).close()
  const existing = target.stat(path)
  if (existing !== undefined && sys.S_ISDIR(existing.mode)) return { parent: target.directory(path), name }
  if (several) {
    throw new StoreError(
      'failed',
      `several files cannot go to '/${toUtf8(path)}', which is no directory`,
      'end the destination with /',
    )
  }
  return target.place(path)
}

/** One file (or link, fifo, device); `fd` may be O_PATH. */
async function copyFile(
  fd: Fd,
  stat: Stat,
  name: ByteName,
  to: Destination,
  override: Override,
  signal: AbortSignal | undefined,
): Promise<void> {
  const place = placeFile(to, name)
  using parent = place.parent
  makeRoom(parent.n, place.name)
  await new Copier(parent.n, signal, override).create(fd.n, '', stat, parent.n, place.name)
}

function writeInline(name: ByteName, content: string, to: Destination, override: Override): void {
  const place = placeFile(to, name)
  using parent = place.parent
  makeRoom(parent.n, place.name)
  const flags = sys.O_WRONLY | sys.O_CREAT | sys.O_EXCL | sys.O_NOFOLLOW
  using file = sys.openat(parent.n, place.name, flags, 0o600)
  const bytes = Buffer.from(content)
  for (let at = 0; at < bytes.length;) at += sys.pwriteSync(file.n, bytes, at, bytes.length - at, at)
  sys.fchown(file.n, override.uid ?? 0, override.gid ?? 0)
  sys.fchmod(file.n, override.mode ?? override.changeMode?.(0o644, false) ?? 0o644)
}

function baseName(path: ByteName): ByteName {
  return path.slice(path.lastIndexOf('/') + 1)
}
