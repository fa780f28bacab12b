import { E } from '../base/errno.js'
import { Fd } from '../base/fd.js'
import { SysError } from '../base/sys-error.js'
import { addon, check } from './addon.js'

export const SOCK_STREAM = 1
export const SOCK_SEQPACKET = 5
export const SOCK_NONBLOCK = 0o4000

/** Two connected UNIX sockets, close-on-exec. */
export function socketpair(type = SOCK_STREAM): [Fd, Fd] {
  const pair = addon.socketpair(type)
  if (typeof pair === 'number') throw new SysError(-pair, 'socketpair')
  return [new Fd(pair[0]), new Fd(pair[1])]
}

/** A socket to which others can connect from now on, in place of one that was at `path`. @throws SysError ENAMETOOLONG: 107 bytes at most */
export function listenAt(path: string): Fd {
  return new Fd(check(addon.listenAt(path), 'listen', path))
}

/** Sends descriptors with at least one byte of `data`; they stay open here. Gives the bytes sent. */
export function sendFd(socket: number, fds: readonly number[], data: Uint8Array = Buffer.of(0)): number {
  return check(addon.sendFds(socket, fds, data), 'sendmsg')
}

/**
 * Receives one message and the descriptors with it, close-on-exec.
 * @returns undefined when a non-blocking socket has none; `bytes` 0 and no descriptors when the other side has closed
 * @throws SysError EMFILE: there was no room for all descriptors; then none is given
 */
export function recvFd(
  socket: number,
  buffer: Uint8Array = Buffer.alloc(1),
): { bytes: number; fds: Fd[] } | undefined {
  const result = addon.recvFds(socket, buffer)
  if (typeof result === 'number') {
    if (result === -E.EAGAIN) return undefined
    throw new SysError(-result, 'recvmsg')
  }
  return { bytes: result[0] ?? 0, fds: result.slice(1).map(fd => new Fd(fd)) }
}

/**
 * As {@link recvFd} of a non-blocking socket, but the message stays where it is; the next call gives the one behind it, after
 * {@link setPeekOffset} has begun at 0. `undefined` behind the last one.
 */
export function peekFd(socket: number, buffer: Uint8Array): { bytes: number; fds: Fd[] } | undefined {
  const result = addon.peekFds(socket, buffer)
  if (typeof result === 'number') {
    if (result === -E.EAGAIN) return undefined
    throw new SysError(-result, 'recvmsg')
  }
  return { bytes: result[0] ?? 0, fds: result.slice(1).map(fd => new Fd(fd)) }
}

/** SO_PEEK_OFF; -1 turns it off. */
export function setPeekOffset(socket: number, offset: number): void {
  check(addon.setPeekOffset(socket, offset), 'setsockopt')
}

/** Takes up to `most` messages away, with the descriptors in them; gives how many there were. */
export function discardMessages(socket: number, most = Number.MAX_SAFE_INTEGER): number {
  return addon.discardMessages(socket, most)
}

/** The process that connected to the other end of a UNIX socket, or made the pair; `undefined` for one of another PID namespace. */
export function peerPid(socket: number): number | undefined {
  return check(addon.peerPid(socket), 'getsockopt') || undefined
}
