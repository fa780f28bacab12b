/** What the builder does not see of a context, taken away from a view of it: whiteouts in the view's upper directory. */
import type { ByteName } from '../../base/bytes.js'
import type { Fd } from '../../base/fd.js'
import * as sys from '../../sys/index.js'
import { Copier } from '../copy-tree.js'
import { makeLayerWhiteout } from '../layer-form.js'

const OPEN_DIR = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW

/**
 * @param paths topmost ones, none below another
 * @param lower the context
 * @param upper the empty upper directory
 */
export function hidePaths(paths: Iterable<ByteName>, lower: number, upper: number): void {
  const copier = new Copier(upper)
  for (const path of paths) {
    const parts = path.split('/')
    const name = parts.pop() ?? ''
    const opened: Fd[] = []
    try {
      let [from, to] = [lower, upper]
      for (const part of parts) {
        const source = sys.openat(from, part, OPEN_DIR)
        opened.push(source)
        const isNew = sys.statAt(to, part) === undefined
        if (isNew) sys.mkdirat(to, part, 0o700)
        const made = sys.openat(to, part, OPEN_DIR)
        opened.push(made)
        if (isNew) copier.metadata(source.n, '', sys.statFd(source.n), made.n, '')
        from = source.n
        to = made.n
      }
      makeLayerWhiteout(to, name)
    } finally {
      for (const fd of opened) fd.close()
    }
  }
}
