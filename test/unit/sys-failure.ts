import { SysError } from '../../src/base/sys-error.js'

/** The SysError that `fn` throws, undefined when it returns. Anything else that it throws passes. */
export function failure(fn: () => unknown): SysError | undefined {
  try {
    fn()
    return undefined
  } catch (error) {
    if (error instanceof SysError) return error
    throw error
  }
}

/** The same of a promise. */
export async function rejection(promise: Promise<unknown>): Promise<SysError | undefined> {
  try {
    await promise
    return undefined
  } catch (error) {
    if (error instanceof SysError) return error
    throw error
  }
}
