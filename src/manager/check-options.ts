/** For the library's functions: what TypeScript would say of an object of options, for callers without it. */
import { unknownKey, type Keys } from '../base/nearest.js'
import { StoreError } from './store-error.js'

/** @throws StoreError invalid */
export function checkOptions<T extends object>(call: string, options: T, known: Keys<T>): void {
  const wrong = unknownKey(options, known)
  if (wrong === undefined) return
  throw new StoreError('invalid', `${call}: ${wrong}`, `known are ${Object.keys(known).join(', ')}`)
}

function checkArgument(call: string, options: unknown, known: Readonly<Record<string, true>>): void {
  if (typeof options === 'object' && options !== null) checkOptions(call, options, known)
}

/**
 * The function, which looks at its argument number `at` first. Around what is public only: functions within pass on what they were
 * given, of which each takes its own part.
 */
export function withOptions<A extends unknown[], R>(
  call: (...args: A) => Promise<R>,
  at: number,
  known: Readonly<Record<string, true>>,
): (...args: A) => Promise<R> {
  return async (...args) => {
    checkArgument(call.name, args[at], known)
    return await call(...args)
  }
}

/** The same for a stream. */
export function streamWithOptions<A extends unknown[], R>(
  call: (...args: A) => AsyncGenerator<R, void, void>,
  at: number,
  known: Readonly<Record<string, true>>,
): (...args: A) => AsyncGenerator<R, void, void> {
  return async function* (...args) {
    checkArgument(call.name, args[at], known)
    yield* call(...args)
  }
}
