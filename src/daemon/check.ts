import { realpathSync } from 'node:fs'
import * as sys from '../sys/index.js'
import { toBuffer, type ByteName } from '../base/bytes.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import type { OverlayConfig } from '../overlay/config.js'
import { refuseKernelOverlays, waitForUpper } from './in-use.js'
import { mountAt } from './mountinfo.js'
import { CheckError, identity, place, quoted, type Place } from './place.js'
import { readRecords } from './run-dir.js'

/** Checks everything and gives the mountpoint's real path. @throws CheckError */
export async function checkMount(config: OverlayConfig, exclusive: boolean): Promise<ByteName> {
  const mountpoint = checkMountpoint(config.mountpoint, exclusive)
  const lowers = [...config.lower, ...(config.dataOnly ?? [])].map(path => place('lowerdir', path))
  if (config.upper !== undefined && config.work !== undefined) {
    const upper = place('upperdir', config.upper)
    const work = place('workdir', config.work)
    checkApart(upper, work, lowers)
    checkWorkdir(work)
    refuseKernelOverlays(upper, work)
    await waitForUpper(upper)
    await waitForUpper(work)
  }
  return mountpoint.path
}

/** The mountpoint must be an existing directory; a mount whose daemon is dead is in the way. */
function checkMountpoint(path: ByteName, exclusive: boolean): Place {
  const found = place('mountpoint', path)
  const real = realpathSync.native(toBuffer(path), 'latin1')
  if (exclusive) {
    const top = mountAt(real)
    const there = readRecords().find(
      ({ record }) => record.mountpoint === real && record.device === top?.device,
    )
    if (there !== undefined) {
      throw new CheckError(
        `${quoted(real)} is a Lamina mount already (pid ${there.record.pid}); lamina umount ends it`,
      )
    }
  }
  return { ...found, path: real }
}

/** Finds which of `places` a directory is, or lies in, without leaving its mount; compared by device and inode. */
class Enclosure {
  private readonly places: Map<string, Place>
  /** Directories known to lie in none of the places: layers are mostly siblings. */
  private readonly outside = new Set<string>()

  constructor(places: readonly Place[]) {
    this.places = new Map(places.map(p => [identity(p.stat), p]))
  }

  of(path: ByteName): Place | undefined {
    const walked: string[] = []
    let at = sys.openat(sys.AT_FDCWD, path, sys.O_PATH | sys.O_DIRECTORY)
    try {
      let stat = sys.statFd(at.n)
      const mount = stat.mntId
      for (;;) {
        const id = identity(stat)
        const found = this.places.get(id)
        if (found !== undefined) return found
        if (this.outside.has(id)) break
        walked.push(id)
        const parent = sys.openat(at.n, '..', sys.O_PATH | sys.O_DIRECTORY)
        at.close()
        at = parent
        stat = sys.statFd(at.n)
        if (stat.mntId !== mount || identity(stat) === id) break
      }
    } catch (error) {
      if (!(error instanceof SysError) || error.errno !== E.EACCES) throw error
    } finally {
      at.close()
    }
    for (const id of walked) this.outside.add(id)
    return undefined
  }
}

/** upper, work and lowers must not lie in one another: a change would show, or be changed, twice. */
function checkApart(upper: Place, work: Place, lowers: readonly Place[]): void {
  const overlap = (inner: Place, outers: Enclosure): void => {
    const outer = outers.of(inner.path)
    if (outer === undefined) return
    const same = identity(outer.stat) === identity(inner.stat)
    const how = same ? 'the same directory as' : 'inside'
    throw new CheckError(
      `${inner.role} ${quoted(inner.path)} is ${how} ${outer.role} ${quoted(outer.path)}; keep them side by side`,
    )
  }
  if (upper.stat.dev !== work.stat.dev) {
    throw new CheckError(
      `workdir ${quoted(work.path)} is on another filesystem than upperdir ${quoted(upper.path)}; put it beside the upperdir`,
    )
  }
  if (upper.stat.mntId !== work.stat.mntId) {
    throw new CheckError(
      `workdir ${quoted(work.path)} is on another mount than upperdir ${quoted(upper.path)}; reach both through one mount`,
    )
  }
  overlap(upper, new Enclosure([work, ...lowers]))
  overlap(work, new Enclosure([upper, ...lowers]))
  const writable = new Enclosure([upper, work])
  for (const lower of lowers) overlap(lower, writable)
}

/** What overlays keep in a workdir: the kernel's and ours `work` and `index`, fuse-overlayfs `work`. */
const OURS = new Set(['work', 'index'])

function checkWorkdir(work: Place): void {
  let names: readonly string[]
  try {
    using fd = sys.openat(sys.AT_FDCWD, work.path, sys.O_RDONLY | sys.O_DIRECTORY)
    names = sys.listDir(fd.n).names
    const foreign = names.find(name => !OURS.has(name) || !sys.S_ISDIR(sys.statAt(fd.n, name)?.mode ?? 0))
    if (foreign !== undefined) {
      throw new CheckError(
        `workdir ${quoted(work.path)} is not empty (${quoted(foreign)}) and no overlay made that; give an empty directory`,
      )
    }
  } catch (error) {
    if (!(error instanceof SysError)) throw error
    if (error.errno !== E.EACCES) throw error
    throw new CheckError(`no permission to read workdir ${quoted(work.path)}`)
  }
}
