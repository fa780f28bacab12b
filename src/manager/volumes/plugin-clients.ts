/**
 * Clients of the volume plugin that died without saying so. A use is over when its client is gone and no process on this host has the
 * volume in its mount namespace: a container that outlived dockerd, or podman, has it there.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import type { Socket } from 'node:net'
import { fromUtf8 } from '../../base/bytes.js'
import * as sys from '../../sys/index.js'
import { startTimeOf } from '../containers/uses.js'

/** Who is connected, for {@link isUseOver}: pids are used again, the start time tells. `undefined` for one that is not to be seen from here. */
export function clientOf(socket: Socket): string | undefined {
  // Node.js has no public name for the descriptor of a socket.
  const { _handle: handle } = socket as Socket & { readonly _handle?: { readonly fd?: number } }
  const pid = handle?.fd === undefined || handle.fd < 0 ? undefined : sys.peerPid(handle.fd)
  const started = pid === undefined ? undefined : startTimeOf(pid)
  return started === undefined ? undefined : `${pid}/${started}`
}

/** Whether the use of the volume with this mountpoint, by a client that {@link clientOf} named, is over. */
export function isUseOver(client: string, mountpoint: string): boolean {
  const [pid, started] = client.split('/').map(Number)
  return startTimeOf(pid ?? 0) !== started && !isShownSince(started ?? 0, mountpoint)
}

/**
 * Whether a process that began after `started` (of the client: its containers came later) shows the volume elsewhere than at its own
 * place. True where that cannot be known: an ordinary user does not see what others have mounted.
 */
function isShownSince(started: number, mountpoint: string): boolean {
  const place = `/${fromUtf8(mountpoint).split('/').slice(-2).join('/')}`
  const mounted = mountsOf('self').findLast(({ target }) => target.endsWith(place))
  const seen = new Set<string>()
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid) || (startTimeOf(Number(pid)) ?? 0) < started) continue
    let mounts: Mount[]
    try {
      const namespace = readlinkSync(`/proc/${pid}/ns/mnt`)
      if (seen.has(namespace)) continue
      mounts = mountsOf(pid)
      seen.add(namespace)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      // Gone meanwhile; EINVAL: it is ending.
      if (code === 'ENOENT' || code === 'ESRCH' || code === 'EINVAL') continue
      return true
    }
    for (const { device, root, target } of mounts) {
      // The volume's own directory has an arbitrary name; of a mount on it the device is what others show too.
      if (target.endsWith(place)) continue
      if (`${root}/`.includes(`${place}/`)) return true
      if (mounted !== undefined && device === mounted.device && under(root, mounted.root)) return true
    }
  }
  return false
}

const under = (path: string, root: string): boolean =>
  path === root || path.startsWith(root === '/' ? '/' : `${root}/`)

interface Mount {
  readonly device: string
  readonly root: string
  readonly target: string
}

/** Source: proc_pid_mountinfo(5) */
function mountsOf(pid: string): Mount[] {
  const lines = readFileSync(`/proc/${pid}/mountinfo`, 'latin1').split('\n')
  return lines.map(line => {
    const [, , device = '', root = '', target = ''] = line.split(' ')
    return { device, root, target }
  })
}
