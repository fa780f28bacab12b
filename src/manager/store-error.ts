/** What went wrong, by kind: a program switches on it, and the exit code of the CLI follows from it. */
export type StoreErrorCode =
  'not-found' | 'ambiguous' | 'exists' | 'in-use' | 'invalid' | 'unsupported' | 'corrupt' | 'failed'

/**
 * An error that a person can act on: `message` is one line that names the thing and the cause, `hint` the way out.
 * Anything else that escapes the manager is a bug or an errno of the system.
 */
export class StoreError extends Error {
  override readonly name = 'StoreError'

  constructor(
    readonly code: StoreErrorCode,
    message: string,
    readonly hint?: string,
    options?: ErrorOptions,
  ) {
    super(message, options)
  }
}

/** The command of a container cannot run; the codes are those of shells, and of Docker. */
export class CommandError extends StoreError {
  constructor(
    /** 127: there is none; 126: it is none. */
    readonly exitCode: 126 | 127,
    message: string,
    hint: string,
  ) {
    super('invalid', message, hint)
  }
}

export function notFound(kind: string, name: string, hint?: string): StoreError {
  return new StoreError('not-found', `no such ${kind}: ${name}`, hint ?? `see 'lamina ${kind} ls'`)
}

/** The one line of any error, for a cause clause. */
export function causeOf(error: unknown): string {
  // What went wrong first, not what then went wrong in cleaning up (SuppressedError of `using`).
  if (error instanceof Error && 'suppressed' in error) return causeOf(error.suppressed)
  return error instanceof Error ? error.message : String(error)
}
