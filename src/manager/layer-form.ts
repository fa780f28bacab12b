/** How the store writes layers on this host: kernel whiteouts where they can be made, else the next best dialect. */
import { makeWhiteout, type OverlayPrefix, type WhiteoutDialect } from '../format/index.js'
import * as sys from '../sys/index.js'
import { inUserNamespace } from './rootless/standing.js'

/** trusted.* attributes need CAP_SYS_ADMIN in the initial user namespace. */
export function overlayPrefix(): OverlayPrefix {
  return sys.geteuid() === 0 && !inUserNamespace() ? 'trusted.overlay.' : 'user.overlay.'
}

/** char 0:0 may be made by root, and since Linux 5.8 in a user namespace; an ordinary user writes `.wh.NAME`. */
export function layerDialect(): WhiteoutDialect {
  return sys.geteuid() === 0 ? 'char' : 'file'
}

export function makeLayerWhiteout(dirfd: number, name: string): void {
  makeWhiteout(dirfd, name, layerDialect(), overlayPrefix())
}
