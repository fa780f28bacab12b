/** What program.ts is told, as JSON on descriptor 3. */
import type { BundleOptions } from '../oci-bundle.js'

export interface EnterRequest {
  /** `pid` of a process whose mounts are joined; without it the rootfs gets the mounts of a new container. */
  readonly pid?: number
  readonly bundle: BundleOptions
}

/** Where {@link EnterRequest} comes in. */
export const REQUEST_FD = 3

/** As shells have it: not found, found and not to be run, anything else that went wrong before the command. */
export const EXIT = { notFound: 127, notExecutable: 126, failed: 125 } as const
