import { toUtf8 } from './bytes.js'
import { errnoMessage, errnoName } from './errno.js'
import { debug } from './log.js'

/** Stacks cost more than the syscalls that failed, so they are captured only with LAMINA_DEBUG=sys. */
const withStack = debug('sys') !== undefined

/** A syscall's failure. `errno` is positive. */
export class SysError extends Error {
  readonly errno: number
  readonly syscall: string
  /** A byte name, as it was given to the syscall. */
  declare readonly path?: string

  constructor(errno: number, syscall: string, path?: string) {
    const message =
      path === undefined
        ? `${syscall}: ${errnoMessage(errno)}`
        : `${syscall}: ${errnoMessage(errno)}: '${toUtf8(path)}'`
    if (withStack) {
      super(message)
    } else {
      const limit = Error.stackTraceLimit
      Error.stackTraceLimit = 0
      super(message)
      Error.stackTraceLimit = limit
    }
    this.errno = errno
    this.syscall = syscall
    if (path !== undefined) this.path = path
  }

  /** `ENOENT`, as errors of Node.js have it. */
  get code(): string {
    return errnoName(this.errno)
  }

  override get name(): string {
    return 'SysError'
  }
}
