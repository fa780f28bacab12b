/** What the process behind a request may do. */
import { readFileSync } from 'node:fs'
import * as sys from '../sys/index.js'
import type { Caller } from '../fuse/filesystem.js'

const NO_UID = 0xffffffff

/**
 * Whether the caller has a capability (CAP_*). A kernel that allows idmapped mounts says who asks only where something is
 * created: the process itself tells the rest. False when it cannot be told.
 */
export function isCapable(caller: Caller, capability: number): boolean {
  if (caller.uid !== NO_UID) return caller.uid === 0
  try {
    const status = readFileSync(`/proc/${caller.pid}/status`, 'latin1')
    const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1]
    return effective !== undefined && ((BigInt(`0x${effective}`) >> BigInt(capability)) & 1n) === 1n
  } catch {
    return false
  }
}

/** Whether the caller's process is in a group, as its filesystem gid or beside. False where that cannot be told. */
export function isInGroup(caller: Caller, gid: number): boolean {
  try {
    const status = readFileSync(`/proc/${caller.pid}/status`, 'latin1')
    const ids = (head: string): string[] =>
      new RegExp(`^${head}:\\s*(.*)$`, 'm').exec(status)?.[1]?.trim().split(/\s+/) ?? []
    return ids('Gid').slice(3).concat(ids('Groups')).includes(String(gid))
  } catch {
    return false
  }
}

/** Setuid and setgid fall for whoever changes the content without this. */
export function keepsSuidgid(caller: Caller): boolean {
  return isCapable(caller, sys.CAP_FSETID)
}
