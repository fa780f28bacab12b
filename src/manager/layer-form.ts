/** How the store writes layers on this host: kernel whiteouts where they can be made, else the next best dialect. */
import { readFileSync } from 'node:fs'
import { makeWhiteout, type OverlayPrefix, type WhiteoutDialect } from '../format/index.js'
import * as sys from '../sys/index.js'

/** trusted.* attributes need CAP_SYS_ADMIN in the initial user namespace. */
export function overlayPrefix(): OverlayPrefix {
  return sys.geteuid() === 0 && !inUserNamespace() ? 'trusted.overlay.' : 'user.overlay.'
}

/** char 0:0 may be made by root, and since Linux 5.8 in a user namespace; an ordinary user writes `.wh.NAME`. */
export function layerDialect(): WhiteoutDialect {
  return sys.geteuid() === 0 ? 'char' : 'file'
}

/** An ordinary user has one id to give away: the others are kept in an attribute, which the fuse driver shows. */
export function ownership(): 'chown' | 'xattr' {
  return sys.geteuid() === 0 ? 'chown' : 'xattr'
}

export function makeLayerWhiteout(dirfd: number, name: string): void {
  makeWhiteout(dirfd, name, layerDialect(), overlayPrefix())
}

/** The initial user namespace maps everything onto itself. */
function inUserNamespace(): boolean {
  try {
    return !/^\s*0\s+0\s+4294967295\s*$/.test(readFileSync('/proc/self/uid_map', 'latin1'))
  } catch {
    return false
  }
}
