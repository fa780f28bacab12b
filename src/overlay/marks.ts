/**
 * Which of the overlay's own attributes a mount believes. A mount has one namespace of them, as the kernel's overlayfs: `trusted.` where
 * the daemon may write that, which then only root can have written; else, or with `userxattr`, `user.`, which the owner of any file can
 * write. There nothing is followed that would show what its writer could not see himself, unless that was asked for.
 *
 * Source: Documentation/filesystems/overlayfs.rst, "Permission model" and "User xattr"; fs/overlayfs/params.c
 */
import { readFileSync } from 'node:fs'
import * as sys from '../sys/index.js'
import type { OverlayPrefix } from '../format/index.js'
import type { MountOptions } from './config.js'

/** What is followed from where it stands in a layer to an object elsewhere in the layers. */
export interface Follows {
  readonly redirect: boolean
  readonly metacopy: boolean
}

/** The namespace of a mount, as far as privilege and options say. */
export function namespaceOf({ userxattr }: MountOptions): OverlayPrefix {
  return !userxattr && isTrusted() ? 'trusted.overlay.' : 'user.overlay.'
}

export function follows({ redirectDir, metacopy }: MountOptions, prefix: OverlayPrefix): Follows {
  const trusted = prefix === 'trusted.overlay.'
  const asked = redirectDir === 'on' || redirectDir === 'follow' || (metacopy && redirectDir === 'auto')
  return {
    redirect: redirectDir !== 'nofollow' && (trusted || asked),
    metacopy: trusted || metacopy,
  }
}

/**
 * Whether the daemon is root for everybody: CAP_SYS_ADMIN in the initial user namespace, which maps every id onto itself. Only then may it
 * write trusted.* (fs/xattr.c), and only in its mounts setuid means something to others.
 */
export function isTrusted(): boolean {
  const initial = /^\s*0\s+0\s+4294967295\s*$/.test(readFileSync('/proc/self/uid_map', 'latin1'))
  return initial && sys.hasCapability(sys.CAP_SYS_ADMIN)
}
