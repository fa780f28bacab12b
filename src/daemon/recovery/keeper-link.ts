/**
 * The daemon's side of native/keeper/keeper.c: what it was given, and what it says. A daemon without a keeper has no link; one whose
 * keeper has died goes on without.
 */
import * as sys from '../../sys/index.js'
import { Fd } from '../../base/fd.js'
import { SysError } from '../../base/sys-error.js'

const F_SETFD = 2
const FD_CLOEXEC = 1
const MOST_FDS = 253

export type WatchdogAction = 'replace' | 'abort'

export class KeeperLink {
  private constructor(
    private readonly socket: number,
    readonly memory: number,
    /** Two socket pairs. */
    readonly shelves: readonly number[],
    /** What a predecessor handed over, in its order; undefined for the first daemon. */
    readonly kept: Fd[] | undefined,
    /** A predecessor has hung in a call on a layer. */
    readonly hung: boolean,
  ) {}

  /** As the keeper's environment says; undefined without one. The variables are taken away: helper programs need no keeper. */
  static fromEnvironment(): KeeperLink | undefined {
    const numbers = (name: string): number[] | undefined => {
      const text = process.env[name]
      delete process.env[name]
      return text === undefined ? undefined : text === '' ? [] : text.split(',').map(Number)
    }
    const socket = numbers('LAMINA_KEEPER')?.[0]
    const [memory, ...shelves] = numbers('LAMINA_KEEPER_STATE') ?? []
    const kept = numbers('LAMINA_KEEPER_FDS')
    const hung = numbers('LAMINA_KEEPER_HUNG') !== undefined
    if (socket === undefined || memory === undefined) return undefined
    for (const fd of [socket, memory, ...shelves, ...(kept ?? [])]) sys.fcntl(fd, F_SETFD, FD_CLOEXEC)
    return new KeeperLink(
      socket,
      memory,
      shelves,
      kept?.map(fd => new Fd(fd)),
      hung,
    )
  }

  /** The keeper keeps these for successors, /dev/fuse first. */
  keep(fds: readonly number[]): void {
    for (let from = 0; from < fds.length; from += MOST_FDS) this.say('F', fds.slice(from, from + MOST_FDS))
  }

  /** The mount is there, or taken over: from now on this daemon's end is not the mount's. */
  ready(facts: {
    mountpoint: string
    device: string
    record: string
    watchdog: number
    watchdogAction: WatchdogAction
    /** A successor knows how to go on beside a layer that does not answer. */
    patient: boolean
  }): void {
    const { mountpoint, device, record, watchdog, watchdogAction, patient } = facts
    if (watchdog > 0) sys.reportStack(this.socket)
    this.strings('R', [
      mountpoint,
      device,
      record,
      String(Math.round(watchdog)),
      watchdogAction,
      patient ? 'patient' : 'waits',
    ])
  }

  /** The mount has ended, and so does this daemon. */
  ending(): void {
    this.say('E')
  }

  /** This daemon is killed, and that program started in its place, with the flags of this one. */
  replaceBy(program: string, main: string): void {
    this.strings('U', [program, ...process.execArgv, main])
  }

  private strings(letter: string, strings: readonly string[]): void {
    this.say(letter + strings.map(text => `${text}\0`).join(''))
  }

  private say(text: string, fds: readonly number[] = []): void {
    try {
      sys.sendFd(this.socket, fds, Buffer.from(text, 'latin1'))
    } catch (error) {
      // The keeper is gone: the mount goes on without.
      if (!(error instanceof SysError)) throw error
    }
  }
}
