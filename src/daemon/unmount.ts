import * as sys from '../sys/index.js'
import type { ByteName } from '../base/bytes.js'
import { E } from '../base/errno.js'
import { SysError } from '../base/sys-error.js'
import type { UnmountHow } from './control-protocol.js'
import { runHelper } from './helper-program.js'

const FLAGS: Readonly<Record<UnmountHow, number>> = {
  plain: sys.UMOUNT_NOFOLLOW,
  lazy: sys.MNT_DETACH | sys.UMOUNT_NOFOLLOW,
  force: sys.MNT_FORCE | sys.MNT_DETACH | sys.UMOUNT_NOFOLLOW,
}

/**
 * Unmounts what is on top at `mountpoint`, in this process's mount namespace. umount(2) may wait for the mount's
 * daemon (dirty pages), so the daemon itself calls this from another thread only.
 * @throws SysError EBUSY, EINVAL (nothing mounted there), EPERM
 */
export async function unmountHere(mountpoint: ByteName, how: UnmountHow): Promise<void> {
  try {
    sys.umount2(mountpoint, FLAGS[how])
  } catch (error) {
    if (!(error instanceof SysError) || error.errno !== E.EPERM) throw error
    await unmountByHelper(mountpoint, how)
  }
}

/** fusermount3 is setuid root and unmounts what its caller has mounted. */
export async function unmountByHelper(mountpoint: ByteName, how: UnmountHow): Promise<void> {
  const args = ['-u', ...(how === 'plain' ? [] : ['-z']), '--']
  for (const helper of ['fusermount3', 'fusermount']) {
    const result = await runHelper(helper, [...args, mountpoint])
    if (result === undefined) continue
    if (result.code === 0) return
    const busy = /busy/i.test(result.stderr)
    throw new SysError(busy ? E.EBUSY : E.EPERM, 'umount2', mountpoint)
  }
  throw new SysError(E.EPERM, 'umount2', mountpoint)
}
