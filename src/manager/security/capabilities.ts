/** Which capabilities a container gets. Source: capabilities(7), linux/capability.h; defaults of moby oci/caps/defaults.go. */
import { readFileSync } from 'node:fs'
import { StoreError } from '../store-error.js'

/** By number. */
const NAMES = (
  'CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST ' +
  'NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE ' +
  'SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG ' +
  'WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE'
)
  .split(' ')
  .map(name => `CAP_${name}`)

/** As Docker grants them. */
const DEFAULT: readonly string[] = [
  ...['CAP_CHOWN', 'CAP_DAC_OVERRIDE', 'CAP_FOWNER', 'CAP_FSETID', 'CAP_KILL', 'CAP_SETGID', 'CAP_SETUID'],
  ...['CAP_SETPCAP', 'CAP_NET_BIND_SERVICE', 'CAP_NET_RAW', 'CAP_SYS_CHROOT', 'CAP_MKNOD'],
  ...['CAP_AUDIT_WRITE', 'CAP_SETFCAP'],
]

export const capabilityNumber = (name: string): number => NAMES.indexOf(name)

/**
 * `SYS_ADMIN`, `cap_sys_admin` or `ALL`, as the name or `ALL`.
 * @throws StoreError invalid
 */
export function parseCapability(text: string): string {
  const upper = text.toUpperCase()
  if (upper === 'ALL') return upper
  const name = upper.startsWith('CAP_') ? upper : `CAP_${upper}`
  if (NAMES.includes(name)) return name
  throw new StoreError(
    'invalid',
    `there is no capability '${text}'`,
    'capabilities(7) lists them; ALL is all',
  )
}

/** By name, in the kernel's order. Docker's rule: ALL comes first, then what the other option names. */
export function grantedCapabilities(add: readonly string[] = [], drop: readonly string[] = []): string[] {
  const wanted = add.includes('ALL')
    ? possible().filter(name => !drop.includes(name))
    : drop.includes('ALL')
      ? add
      : [...DEFAULT.filter(name => !drop.includes(name)), ...add]
  return NAMES.filter(name => wanted.includes(name))
}

/** What this process could give away. */
function possible(): string[] {
  const hex = /^CapBnd:\t([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1] ?? '0'
  const bits = BigInt(`0x${hex}`)
  return NAMES.filter((_, number) => ((bits >> BigInt(number)) & 1n) === 1n)
}
