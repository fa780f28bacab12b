import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { E } from '../../src/base/errno.js'
import { isOrphanHolder, lamina, Scratch, unavailable, type Mount } from './fixture.js'

/** What is unlinked and open outlives the daemon: listed for another process at first, on the shelf later (src/daemon/recovery/shelf.ts). */

const skip = unavailable('lamina') ?? false

class Kept implements Disposable {
  private readonly scratch: Scratch
  readonly mount: Mount
  readonly log: string
  private made = 0
  private readonly open: { fd: number; data: string }[] = []

  constructor(name: string) {
    this.scratch = new Scratch(name, 60)
    this.log = this.scratch.path('log')
    const before = { ...process.env }
    Object.assign(process.env, {
      LAMINA_RUN: this.scratch.mkdir('run'),
      LAMINA_LOG: this.log,
      LAMINA_KEEPER_DEATHS: '0',
    })
    this.mount = this.scratch.overlay('lamina', 1, ['keeper=1'])
    process.env['LAMINA_LOG'] = before['LAMINA_LOG'] ?? ''
  }

  /** Files without a name, open here. */
  unlinked(count: number): void {
    for (let i = 0; i < count; i++) {
      const data = `file ${this.made++}`
      const file = path.join(this.mount.mountpoint, data)
      const fd = fs.openSync(file, 'w+')
      fs.writeSync(fd, data)
      fs.unlinkSync(file)
      this.open.push({ fd, data })
    }
  }

  /** How many of them are there with their data; the others must be ESTALE. */
  left(): number {
    let left = 0
    for (const { fd, data } of this.open) {
      try {
        const buffer = Buffer.alloc(100)
        // Not from the page cache alone: the size is asked of the daemon.
        if (fs.fstatSync(fd).size !== data.length) throw new Error(`${data}: another size`)
        const length = fs.readSync(fd, buffer, 0, 100, 0)
        if (buffer.toString('latin1', 0, length) !== data) throw new Error(`${data}: other data`)
        fs.writeSync(fd, data, 0)
        left++
      } catch (error) {
        // Node has no name for it.
        if ((error as NodeJS.ErrnoException).errno !== -E.ESTALE) throw error
      }
    }
    return left
  }

  private get children(): number[] {
    const { keeper } = this.mount
    return fs
      .readFileSync(`/proc/${keeper}/task/${keeper}/children`, 'utf8')
      .split(' ')
      .filter(Boolean)
      .map(Number)
  }

  get holder(): number | undefined {
    return this.children.find(isOrphanHolder)
  }

  /** When everything of before is listed, or on the shelf. */
  async holderOther(than?: number): Promise<number> {
    await until('another process keeps descriptors', () => this.holder !== undefined && this.holder !== than)
    return this.holder ?? 0
  }

  /** Descriptors in messages. */
  get onShelf(): number {
    const infos = `/proc/${this.mount.keeper}/fdinfo`
    return fs
      .readdirSync(infos)
      .map(fd => Number(/^scm_fds:\s+(\d+)$/m.exec(textOf(path.join(infos, fd)))?.[1] ?? 0))
      .reduce((sum, count) => sum + count, 0)
  }

  /** Kills these, and the daemon; returns when another one answers. */
  async killDaemon(...others: number[]): Promise<void> {
    const { pid } = this.mount
    for (const each of [...others, pid ?? 0]) process.kill(each, 'SIGKILL')
    await until('another daemon answers', () => {
      fs.statSync(this.mount.mountpoint)
      return this.mount.pid !== undefined && this.mount.pid !== pid
    })
  }

  close(): void {
    for (const { fd } of this.open.splice(0)) fs.closeSync(fd)
  }

  [Symbol.dispose](): void {
    this.close()
    this.scratch[Symbol.dispose]()
  }
}

const later = (milliseconds: number): Promise<void> =>
  new Promise(resolve => setTimeout(resolve, milliseconds))

async function until(what: string, holds: () => boolean, seconds = 20): Promise<void> {
  for (const end = Date.now() + seconds * 1000; !holds(); await later(5))
    if (Date.now() > end) throw new Error(`not in ${seconds} s: ${what}`)
}

function textOf(file: string): string {
  try {
    return fs.readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}

function alive(pid: number): boolean {
  return !/^$|\) [ZX]/.test(textOf(`/proc/${pid}/stat`))
}

t.test('700 unlinked files outlive three daemons, whether listed or on the shelf', { skip }, async t => {
  using it = new Kept('orphans-many')
  it.unlinked(1)
  const holder = await it.holderOther()
  t.ok(Number(/VmRSS:\s+(\d+)/.exec(textOf(`/proc/${holder}/status`))?.[1]) < 1024, 'its memory, KiB')
  it.unlinked(699)
  await it.killDaemon()
  t.equal(it.left(), 700)
  t.notOk(alive(holder))
  await it.killDaemon()
  t.equal(it.left(), 700, 'before the second one has unlinked anything')
  it.unlinked(1)
  await it.holderOther()
  it.unlinked(20)
  await it.killDaemon()
  t.equal(it.left(), 721)
})

t.test('what is unlinked for longer is put on the shelf', { skip }, async t => {
  using it = new Kept('orphans-old')
  it.unlinked(1)
  const holder = await it.holderOther()
  it.unlinked(300)
  await until('all are there', () => it.onShelf === 301)
  it.unlinked(5)
  t.equal(it.onShelf, 301)
  await it.killDaemon(holder)
  t.equal(it.left(), 301, 'with the process that keeps the listed ones killed, too')
  t.match(textOf(it.log), /5 files without a name are lost/)
})

t.test(
  'the process that keeps descriptors is killed: nothing is lost, another one comes',
  { skip },
  async t => {
    using it = new Kept('orphans-killed')
    it.unlinked(1)
    const holder = await it.holderOther()
    it.unlinked(10)
    process.kill(holder, 'SIGKILL')
    await until('it is dead', () => !alive(holder))
    it.unlinked(10)
    t.ok(it.onShelf >= 10, 'put on the shelf at once')
    const next = await it.holderOther(holder)
    t.equal(it.onShelf, 21)
    it.unlinked(10)
    await it.killDaemon()
    t.equal(it.left(), 31)
    t.notOk(alive(next))
  },
)

t.test(
  'the process that keeps descriptors is stopped: the next daemon does not wait for ever',
  { skip },
  async t => {
    using it = new Kept('orphans-stopped')
    it.unlinked(1)
    const holder = await it.holderOther()
    it.unlinked(10)
    process.kill(holder, 'SIGSTOP')
    await it.killDaemon()
    t.notOk(alive(holder))
    t.equal(it.left(), 1, 'that of before it')
  },
)

t.test('lamina daemon restart keeps what is listed, and leaves no process', { skip }, async t => {
  using it = new Kept('orphans-restart')
  it.unlinked(1)
  const holder = await it.holderOther()
  it.unlinked(300)
  lamina('daemon', 'restart', it.mount.mountpoint)
  t.notOk(alive(holder))
  t.equal(it.left(), 301)
})

t.test(
  'no process is left when the mount has ended, nor when the keeper was killed before',
  { skip },
  async t => {
    for (const keeperFirst of [false, true]) {
      using it = new Kept('orphans-end')
      const { keeper = 0, mountpoint, pid = 0 } = it.mount
      it.unlinked(1)
      const holder = await it.holderOther()
      if (keeperFirst) process.kill(keeper, 'SIGKILL')
      it.close()
      lamina('umount', mountpoint)
      await until('all have ended', () => ![keeper, pid, holder].some(alive))
      t.pass(keeperFirst ? 'the keeper was killed' : 'unmounted')
      it.mount.kill()
    }
  },
)
