/** What program.ts is told, as JSON on descriptor 3. */
import type { BundleOptions } from '../oci-bundle.js'

export interface EnterRequest {
  readonly bundle: BundleOptions
}

/** Where {@link EnterRequest} comes in. */
export const REQUEST_FD = 3

/** A socket, to which lamina-enter sends the other end of a terminal. */
export const TERMINAL_FD = 4

/** Where lamina-enter itself lies when it is started. */
export const PROGRAM_FD = 5

/** As Docker has it, of what went wrong before the command. */
export const EXIT = { failed: 125 } as const
