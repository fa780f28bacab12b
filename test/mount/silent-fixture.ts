/**
 * A layer whose server does not answer (a FUSE mount whose daemon is stopped; a network filesystem is the same), or whose disk does not
 * (a loop device over a file in such a mount).
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import * as sys from '../../src/sys/index.js'
import { type Mount, pause, type Scratch } from './fixture.js'

export interface Ended {
  code: number | null
  signal: NodeJS.Signals | null
  output: string
}

export interface Command {
  readonly pid: number
  readonly ended: Promise<Ended>
  readonly isOver: () => boolean
}

/** A command of its own: a call that waits holds up only itself. */
export function run(...command: string[]): Command {
  const child = spawn(command[0] ?? '', command.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (data: Buffer) => (output += data.toString()))
  let over = false
  const ended = new Promise<Ended>(resolve =>
    child.once('close', (code, signal) => {
      over = true
      resolve({ code, signal, output })
    }),
  )
  return { pid: child.pid ?? 0, ended, isOver: () => over }
}

export const later = (milliseconds: number): Promise<void> =>
  new Promise(resolve => setTimeout(resolve, milliseconds))

export type Kind = 'server' | 'disk'

/** Seconds. */
const LONGEST_SILENCE = 20

/** One test at a time: whoever looks for a free device waits for those that are silent. Given back by closing it. */
function turnAtLoopDevices(scratch: Scratch): number {
  const fd = fs.openSync(path.join(os.tmpdir(), 'lamina-test-loop-devices'), 'w')
  scratch.pause()
  sys.flock(fd, sys.LOCK_EX)
  scratch.renew()
  return fd
}

/** A directory that can be made to fall silent, and to answer again. */
export class Far implements Disposable {
  private device: string | undefined
  private turn: number | undefined
  private guard: ChildProcess | undefined
  private constructor(
    readonly dir: string,
    private readonly server: number,
  ) {}

  /** `fill` makes what is in it. */
  static begin(scratch: Scratch, kind: Kind, fill: (dir: string) => void): Far {
    const source = scratch.mkdir('source')
    const dir = scratch.mkdir('disk')
    const image = path.join(source, 'image')
    const turn = kind === 'disk' ? turnAtLoopDevices(scratch) : undefined
    if (kind === 'disk') {
      fs.writeFileSync(image, '')
      fs.truncateSync(image, 64 << 20)
      // A block for each inode: none is read along with another.
      execFileSync('mkfs.ext4', ['-q', '-I', '4096', '-b', '4096', '-N', '1024', image])
      execFileSync('mount', ['-o', 'loop', image, dir])
      fill(dir)
      execFileSync('umount', [dir])
    } else {
      fill(source)
    }
    // Nothing of it is remembered, so that each call asks its daemon.
    const mount = scratch.mount({
      subject: 'lamina',
      lowers: kind === 'disk' ? [scratch.mkdir('none')] : [source],
      ...(kind === 'disk' ? { upper: source, work: scratch.mkdir('source-work') } : {}),
      mountpoint: scratch.mkdir('farmnt'),
      options: ['timeout=0'],
    })
    if (kind === 'server') return new Far(mount.mountpoint, mount.pid ?? 0)
    const far = new Far(dir, mount.pid ?? 0)
    far.turn = turn
    const shown = path.join(mount.mountpoint, 'image')
    const losetup = ['--find', '--show', '--direct-io=on', shown]
    far.device = execFileSync('losetup', losetup, { encoding: 'utf8' }).trim()
    execFileSync('mount', ['-t', 'ext4', '-o', 'inode_readahead_blks=0,noatime', far.device, dir])
    return far
  }

  /**
   * Not for longer than a while, whatever becomes of this test: whoever looks at loop devices meanwhile (mkfs, losetup) waits for the
   * file below this one.
   */
  fallSilent(seconds = LONGEST_SILENCE): void {
    process.kill(this.server, 'SIGSTOP')
    this.guard = spawn('sh', ['-c', `sleep ${seconds}; kill -CONT ${this.server}`], {
      stdio: 'ignore',
    })
  }

  /** What it has in memory of the disk's blocks; names and inodes that are known stay so. */
  forget(): void {
    if (this.device !== undefined) execFileSync('blockdev', ['--flushbufs', this.device])
  }

  /** Names that its filesystem remembers and nobody uses, also of what is not there. */
  forgetNames(): void {
    execFileSync('mount', ['-i', '-o', 'remount,noatime', this.dir])
  }

  answer(): void {
    process.kill(this.server, 'SIGCONT')
    this.guard?.kill()
    this.guard = undefined
  }

  [Symbol.dispose](): void {
    this.answer()
    if (this.device === undefined) return
    execFileSync('umount', [this.dir])
    execFileSync('losetup', ['--detach', this.device])
    // Somebody else may be looking at it, and until he has done it keeps its file.
    const attached = `/sys/block/${path.basename(this.device)}/loop`
    for (let tries = 0; tries < 200 && fs.existsSync(attached); tries++) pause(50)
    if (this.turn !== undefined) fs.closeSync(this.turn)
  }
}

export function fillFar(dir: string): void {
  for (const name of ['far', 'both']) fs.mkdirSync(path.join(dir, name))
  for (let i = 0; i < 20; i++) fs.writeFileSync(path.join(dir, 'far', `f${i}`), `far ${i}`)
  fs.writeFileSync(path.join(dir, 'far', 'big'), Buffer.alloc(4 << 20, 7))
  fs.symlinkSync('f1', path.join(dir, 'far', 'link'))
}

export function nearLayer(scratch: Scratch): string {
  const near = scratch.mkdir('near')
  fs.mkdirSync(path.join(near, 'near'), { recursive: true })
  for (let i = 0; i < 20; i++) fs.writeFileSync(path.join(near, 'near', `n${i}`), `near ${i}`)
  return near
}

/** A view of a directory of this disk over `far`. */
export function mountOver(scratch: Scratch, far: Far, options: readonly string[]): Mount {
  return scratch.mount({
    subject: 'lamina',
    lowers: [nearLayer(scratch), far.dir],
    upper: scratch.mkdir('upper'),
    work: scratch.mkdir('work'),
    mountpoint: scratch.mkdir('mnt'),
    options,
  })
}

export function fillUpper(dir: string): void {
  for (const name of ['upper', 'work', 'upper/u']) fs.mkdirSync(path.join(dir, name))
  for (let i = 0; i < 20; i++) fs.writeFileSync(path.join(dir, 'upper', 'u', `u${i}`), `upper ${i}`)
  fs.writeFileSync(path.join(dir, 'upper', 'u', 'big'), Buffer.alloc(4 << 20, 7))
}
