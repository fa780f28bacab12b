/** What a container may do: `--security-opt`, `--cap-add`, `--cap-drop`, `--device`, in a container's record. */
import { grantedCapabilities } from './capabilities.js'
import { DEFAULT_PROFILE } from './default-profile.js'
import type { DeviceSpec } from './devices.js'
import { resolveProfile, thisMachine, type LinuxSeccomp, type Profile } from './seccomp-profile.js'

export interface SecurityOptions {
  /** `CAP_…`, or `ALL`. */
  readonly capAdd?: readonly string[]
  readonly capDrop?: readonly string[]
  readonly noNewPrivileges?: boolean
  /** A profile as it was given; {@link DEFAULT_PROFILE} otherwise. */
  readonly seccomp?: 'unconfined' | Profile
  readonly devices?: readonly DeviceSpec[]
}

export function capabilitiesOf(options: SecurityOptions = {}): string[] {
  return grantedCapabilities(options.capAdd, options.capDrop)
}

/** `undefined` without a filter. */
export function seccompOf(options: SecurityOptions = {}): LinuxSeccomp | undefined {
  const { seccomp = DEFAULT_PROFILE } = options
  return seccomp === 'unconfined'
    ? undefined
    : resolveProfile(seccomp, capabilitiesOf(options), thisMachine())
}
