import fs from 'node:fs'
import t from 'tap'
import { Shelf } from '../../src/daemon/recovery/shelf.js'
import type { Fd } from '../../src/base/fd.js'
import * as sys from '../../src/sys/index.js'

/** Two socket pairs, and the descriptors of files whose numbers are their nodeids. */
class Case implements Disposable {
  private readonly sockets = [0, 1].flatMap(() => sys.socketpair(sys.SOCK_SEQPACKET | sys.SOCK_NONBLOCK))
  private readonly found: Fd[] = []
  readonly fds = this.sockets.map(fd => fd.n)

  /** As native/orphan-holder.cc sends them. */
  send(socket: number, nodeids: readonly number[]): void {
    const file = fs.openSync('/dev/null', 'r')
    sys.sendFd(
      socket,
      nodeids.map(() => file),
      Buffer.from(Float64Array.from(nodeids).buffer),
    )
    fs.closeSync(file)
  }

  /** What a daemon finds that comes next and keeps it all, or what `only` says. */
  next(only?: readonly number[]): number[] {
    const shelf = new Shelf(this.fds)
    const found = shelf.take()
    this.found.push(...found.values())
    const wanted = [...found].filter(([nodeid]) => only?.includes(nodeid) !== false)
    shelf.settle(new Map(wanted.map(([nodeid, fd]) => [nodeid, fd.n])))
    return [...found.keys()].sort((a, b) => a - b)
  }

  [Symbol.dispose](): void {
    for (const fd of [...this.found, ...this.sockets]) fd.close()
  }
}

const numbers = (from: number, count: number): number[] => Array.from({ length: count }, (_, i) => from + i)

t.test('what is in either socket, or in both, is found by every daemon that comes after', t => {
  using it = new Case()
  const [a = -1, , c = -1] = it.fds
  it.send(a, numbers(1, 253))
  it.send(a, numbers(254, 10))
  it.send(c, numbers(200, 100))
  for (let daemon = 0; daemon < 3; daemon++) t.strictSame(it.next(), numbers(1, 299))
  t.end()
})

t.test('what is not wanted is found no more', t => {
  using it = new Case()
  const [a = -1, , c = -1] = it.fds
  it.send(a, numbers(1, 20))
  it.send(c, numbers(21, 20))
  it.next([5, 25])
  t.strictSame(it.next(), [5, 25])
  it.next([])
  t.strictSame(it.next(), [])
  t.end()
})

t.test('what is put and dropped without a table is there, and is not', t => {
  using it = new Case()
  const shelf = new Shelf(it.fds)
  const fd = fs.openSync('/dev/null', 'r')
  for (const nodeid of numbers(1, 400)) shelf.put(nodeid, fd)
  for (const nodeid of numbers(1, 390)) shelf.drop(nodeid, fd)
  fs.closeSync(fd)
  const found = it.next()
  t.strictSame(
    found.filter(nodeid => nodeid > 390),
    numbers(391, 10),
  )
  t.ok(found.length < 50, 'most of what was dropped is gone')
  t.end()
})
