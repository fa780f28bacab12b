import { fromUtf8 } from '../../base/bytes.js'
import { E } from '../../base/errno.js'
import { SysError } from '../../base/sys-error.js'
import * as sys from '../../sys/index.js'
import { unmountOne } from '../mount-table.js'
import { StoreError } from '../store-error.js'
import { mountFailed } from './mount-error.js'

/** Shows `source` at `target`; read-only needs a second call, as MS_RDONLY is ignored by the first. */
export function bindMount(source: string, target: string, readOnly: boolean): void {
  const to = fromUtf8(target)
  try {
    sys.mount(fromUtf8(source), to, null, sys.MS_BIND, null)
    try {
      // Private: what is mounted inside later is nobody else's business.
      sys.mount(null, to, null, sys.MS_PRIVATE, null)
      if (readOnly) sys.mount(null, to, null, sys.MS_BIND | sys.MS_REMOUNT | sys.MS_RDONLY, null)
    } catch (error) {
      sys.umount2(to, sys.MNT_DETACH)
      throw error
    }
  } catch (error) {
    throw mountFailed(`${source} (bind)`, target, error)
  }
}

/** A target that is not mounted is no error: it is what was wanted. */
export function unmountTarget(target: string, force: boolean): void {
  try {
    unmountOne(fromUtf8(target), force)
  } catch (error) {
    if (!(error instanceof SysError)) throw error
    if (error.errno === E.EINVAL || error.errno === E.ENOENT) return
    if (error.errno === E.EBUSY) {
      throw new StoreError(
        'in-use',
        `cannot unmount ${target}: a process uses it`,
        "end the process ('fuser -m' names it), or detach the mount with --force",
        { cause: error },
      )
    }
    throw new StoreError('failed', `cannot unmount ${target}: ${error.message}`, undefined, { cause: error })
  }
}
