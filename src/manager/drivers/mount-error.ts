import { errnoMessage, errnoName } from '../../base/errno.js'
import { SysError } from '../../base/sys-error.js'
import { StoreError, causeOf } from '../store-error.js'

/** A failed mount in one line: what, where, what the kernel said. */
export function mountFailed(what: string, target: string, error: unknown, hint?: string): StoreError {
  const cause =
    error instanceof SysError ? `${errnoMessage(error.errno)} (${errnoName(error.errno)})` : causeOf(error)
  return new StoreError('failed', `cannot mount ${what} on ${target}: ${cause}`, hint, { cause: error })
}
