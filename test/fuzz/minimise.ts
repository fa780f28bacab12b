import type { Operation } from './operation.js'
import { replay, type Failure, type Plan } from './session.js'

/**
 * The shortest list of operations, found within `seconds`, that still fails in the same operation: halves, quarters and so
 * on are left out as long as what remains fails (Zeller's ddmin).
 */
export async function minimise(plan: Plan, failure: Failure, seconds: number): Promise<Failure> {
  const until = Date.now() + seconds * 1000
  const culprit = failure.operations[failure.at]?.op
  let best = failure
  const fails = async (operations: Operation[]): Promise<boolean> => {
    const { failure: again } = await replay(plan, operations)
    if (again === undefined || again.operations[again.at]?.op !== culprit) return false
    best = again
    return true
  }
  let operations = failure.operations.slice(0, failure.at + 1)
  let pieces = 2
  while (operations.length > 1 && Date.now() < until) {
    const size = Math.ceil(operations.length / pieces)
    let smaller: Operation[] | undefined
    for (let start = 0; start < operations.length && Date.now() < until; start += size) {
      const rest = [...operations.slice(0, start), ...operations.slice(start + size)]
      if (rest.length > 0 && (await fails(rest))) {
        smaller = best.operations.slice(0, best.at + 1)
        break
      }
    }
    if (smaller !== undefined) {
      operations = smaller
      pieces = Math.max(2, pieces - 1)
    } else if (size > 1) pieces = Math.min(operations.length, pieces * 2)
    else break
  }
  return best
}
