/** Something that reads bytes which others may have written. */
export interface Target {
  /** Inputs to start from: what is really written. */
  readonly seeds: readonly Buffer[]
  /** Files below dist/src whose coverage counts, as parts of their paths. */
  readonly covers: readonly string[]
  /** Reads them. @throws whenever that is not how garbage should be taken */
  run(input: Buffer): Promise<void> | void
  close(): void
}

/** A fault that is not an orderly refusal: the program ran into something that it did not expect. */
export function isFault(error: unknown): boolean {
  return (
    error instanceof TypeError ||
    error instanceof RangeError ||
    error instanceof ReferenceError ||
    !(error instanceof Error)
  )
}
