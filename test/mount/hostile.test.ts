import fs from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import * as sys from '../../src/sys/index.js'
import { setxattr, write } from '../conformance/posix.js'
import { Scratch, unavailable, type Mount } from './fixture.js'

/**
 * Layers that cannot be trusted: whatever is in them, the daemon reads and writes nothing outside of them, does not crash, does not
 * hang, and goes on serving what is sound. Unmounting fails when the daemon met an exception that it did not expect.
 */

const skip = unavailable('lamina') ?? false
const SECRET = 'not for the eyes of a container'
const ON = ['redirect_dir=on', 'metacopy=on', 'index=on', 'xino=on']

/** Two lower layers, and beside them something that no layer may lead to. */
class Trap implements Disposable {
  readonly scratch: Scratch
  readonly outside: string

  constructor(name: string) {
    this.scratch = new Scratch(`hostile-${name}`, 60)
    this.outside = this.scratch.mkdir('outside')
    fs.writeFileSync(path.join(this.outside, 'secret'), SECRET)
    for (const layer of ['lower0', 'lower1', 'upper', 'work', 'mnt']) this.scratch.mkdir(layer)
    this.write('lower1', 'sound', 'sound')
    this.write('lower1', 'dir/inner', 'inner')
  }

  at(...names: string[]): string {
    return this.scratch.path(...names)
  }

  write(layer: string, name: string, data: string): string {
    const file = this.at(layer, name)
    fs.mkdirSync(path.dirname(file), { recursive: true })
    write(file, data)
    return file
  }

  mount(options: readonly string[] = ON): Mount {
    return this.scratch.overlay('lamina', 2, options)
  }

  /** Looks at everything and changes what it can, then checks that the world outside is as it was. */
  probe(t: Test, mount: Mount): void {
    const seen: string[] = []
    const sound = path.join(mount.mountpoint, 'sound')
    const visit = (dir: string, depth: number): void => {
      for (const name of attempt(() => fs.readdirSync(dir)) ?? []) {
        const at = path.join(dir, name)
        if (at === sound) continue
        const stat = attempt(() => fs.lstatSync(at))
        if (stat?.isFile() === true) seen.push(attempt(() => fs.readFileSync(at, 'latin1')) ?? '')
        attempt(() => sys.listxattrAt(sys.AT_FDCWD, at))
        if (stat?.isDirectory() === true && depth < 12) visit(at, depth + 1)
        attempt(() => fs.lchownSync(at, 1, 1))
        if (stat?.isFile() === true) {
          attempt(() => fs.chmodSync(at, 0o600))
          attempt(() => fs.appendFileSync(at, 'written'))
          attempt(() => fs.linkSync(at, `${at}.link`))
        }
        attempt(() => fs.renameSync(at, `${at}.moved`))
        if (stat?.isFile() === true) attempt(() => fs.unlinkSync(`${at}.moved`))
        attempt(() => fs.mkdirSync(`${at}.new`))
      }
    }
    t.equal(fs.readFileSync(sound, 'utf8'), 'sound', 'what is sound is served')
    visit(mount.mountpoint, 0)
    t.notOk(
      seen.some(data => data.includes(SECRET)),
      'nothing from outside is shown',
    )
    t.strictSame(fs.readdirSync(this.outside), ['secret'])
    t.equal(fs.readFileSync(path.join(this.outside, 'secret'), 'utf8'), SECRET, 'nothing outside is changed')
    const stat = fs.statSync(path.join(this.outside, 'secret'))
    t.strictSame([stat.uid, stat.nlink, stat.mode & 0o777], [0, 1, 0o644], 'nor its owner, names or mode')
    fs.writeFileSync(path.join(mount.mountpoint, 'alive'), 'alive')
    t.equal(fs.readFileSync(path.join(mount.mountpoint, 'alive'), 'utf8'), 'alive', 'the daemon lives')
  }

  [Symbol.dispose](): void {
    this.scratch[Symbol.dispose]()
  }
}

function attempt<T>(fn: () => T): T | undefined {
  try {
    return fn()
  } catch {
    return undefined
  }
}

/** Fills the layers of `trap` with one kind of malice. */
const kinds: Record<string, (trap: Trap) => void> = {
  'symlinks to outside, absolute and climbing, as file, directory, marker and in the way of a merge':
    trap => {
      for (const layer of ['lower0', 'upper']) {
        for (const [i, target] of [trap.outside, '../outside', '../outside/secret', '/', '..'].entries())
          fs.symlinkSync(target, trap.at(layer, `link${i}`))
        fs.symlinkSync('../outside', trap.at(layer, '.wh.sound2'))
      }
      fs.symlinkSync('../../outside', trap.at('lower0', 'dir'))
      fs.mkdirSync(trap.at('lower1', 'link0'))
      trap.write('lower1', 'link0/secret', 'inside')
    },
  'redirects to outside, upwards, to itself, of any length, of any bytes': trap => {
    fs.symlinkSync('../../outside', trap.at('lower1', 'dir', 'out'))
    fs.symlinkSync('../outside', trap.at('lower1', 'out'))
    const targets = [
      '/../outside',
      '/dir/../../outside',
      '/dir/out',
      '/out',
      'out',
      '/out/.',
      '../outside',
      '..',
      '.',
      '/',
      '//',
      '',
      '/dir/',
      '/dir//inner',
      '/dir\0/inner',
      trap.outside,
      'n'.repeat(4000),
      `/${'d/'.repeat(1500)}d`,
      '\xff\xfe',
    ]
    for (const [i, target] of targets.entries()) {
      for (const layer of ['upper', 'lower0']) {
        fs.mkdirSync(trap.at(layer, `redirected${i}`))
        setxattr(trap.at(layer, `redirected${i}`), 'trusted.overlay.redirect', target)
      }
    }
  },
  'redirects in a circle': trap => {
    for (const [from, to] of [
      ['a', '/b'],
      ['b', '/c'],
      ['c', '/a'],
      ['self', '/self'],
      ['deep', '/deep/deep/deep'],
    ] as const) {
      for (const layer of ['upper', 'lower0', 'lower1']) {
        fs.mkdirSync(trap.at(layer, from))
        setxattr(trap.at(layer, from), 'trusted.overlay.redirect', to)
      }
    }
  },
  'metacopy files whose data is outside, a device, a fifo, a symlink, a directory, or nowhere': trap => {
    fs.symlinkSync('../outside', trap.at('lower1', 'out'))
    fs.symlinkSync('../outside/secret', trap.at('lower1', 'link'))
    sys.mknodat(sys.AT_FDCWD, trap.at('lower1', 'fifo'), sys.S_IFIFO | 0o666, 0)
    sys.mknodat(sys.AT_FDCWD, trap.at('lower1', 'kmsg'), sys.S_IFCHR | 0o666, sys.makedev(1, 11))
    sys.mknodat(sys.AT_FDCWD, trap.at('lower1', 'zero'), sys.S_IFCHR | 0o666, sys.makedev(1, 5))
    const targets = ['/out/secret', '/link', '/fifo', '/kmsg', '/zero', '/dir', '/dir/../../outside/secret']
    for (const [i, target] of [...targets, '/nowhere', '../outside/secret', ''].entries()) {
      for (const layer of ['upper', 'lower0']) {
        const file = trap.write(layer, `metacopy${i}`, '')
        fs.truncateSync(file, 1000)
        setxattr(file, 'trusted.overlay.metacopy', '')
        setxattr(file, 'trusted.overlay.redirect', target)
      }
    }
    for (const name of ['link', 'fifo', 'kmsg', 'zero', 'dir']) {
      const file = trap.write('lower0', name, '')
      setxattr(file, 'trusted.overlay.metacopy', '')
    }
  },
  'a metacopy file in a circle': trap => {
    for (const [from, to] of [
      ['one', '/two'],
      ['two', '/one'],
      ['same', '/same'],
    ] as const) {
      for (const layer of ['upper', 'lower0', 'lower1']) {
        const file = trap.write(layer, from, '')
        setxattr(file, 'trusted.overlay.metacopy', '')
        setxattr(file, 'trusted.overlay.redirect', to)
      }
    }
  },
  'attributes of every name, huge and of garbage': trap => {
    const values = ['', 'y', '\0', '\xff'.repeat(40), 'A'.repeat(3500), '-1', 'U+999999999', 'L-2147483648']
    const names = ['opaque', 'redirect', 'origin', 'metacopy', 'nlink', 'impure', 'whiteout', 'upper', 'uuid']
    let n = 0
    for (const prefix of ['trusted.overlay.', 'user.overlay.']) {
      for (const name of names) {
        for (const value of values) {
          const file = trap.write('upper', `garbage${n}`, 'x')
          trap.write('lower0', `garbage${n}`, 'below')
          const dir = trap.at('upper', `garbage${n++}.d`)
          fs.mkdirSync(dir)
          for (const on of [file, dir]) attempt(() => setxattr(on, prefix + name, value))
        }
      }
    }
    for (const attr of [
      'user.containers.override_stat',
      'user.fuseoverlayfs.override_stat',
      'security.fuseoverlayfs.override_stat',
    ]) {
      for (const value of ['', '0', ':::', '-1:-1:7777777', '0:0:4755:block-1-1', '9'.repeat(3000)]) {
        attempt(() => setxattr(trap.write('lower0', `stat${n++}`, 'x'), attr, value))
      }
    }
    setxattr(trap.at('upper'), 'trusted.overlay.impure', 'y')
  },
  'origins that lie: of a file outside, of another layer, of a directory, of nothing': trap => {
    setxattr(trap.at('upper'), 'trusted.overlay.impure', 'y')
    const outside = handleOf(path.join(trap.outside, 'secret'))
    for (const [i, record] of [
      outside,
      handleOf(trap.outside),
      handleOf(trap.at('lower1', 'dir')),
      handleOf(trap.at('work')),
      Buffer.concat([outside.subarray(0, 21), Buffer.alloc(outside.length - 21, 0xff)]),
      Buffer.concat([outside, Buffer.alloc(90, 1)]),
    ].entries()) {
      for (const attr of ['trusted.overlay.origin', 'trusted.overlay.upper']) {
        setxattr(trap.write('upper', `origin${i}`, 'own'), attr, record)
        const dir = trap.at('upper', `origin${i}.d`)
        fs.mkdirSync(dir, { recursive: true })
        setxattr(dir, attr, record)
      }
    }
  },
  'an index whose entries lie': trap => {
    fs.mkdirSync(trap.at('work', 'index'))
    fs.linkSync(trap.write('lower1', 'linked', 'linked'), trap.at('lower1', 'linked2'))
    const names = ['ff', 'nothex', handleOf(trap.at('lower1', 'linked')).toString('hex')]
    for (const [i, name] of names.entries()) {
      const entry = trap.at('work/index', name)
      if (i === 1) fs.symlinkSync('../../outside/secret', entry)
      else if (i === 0) fs.mkdirSync(entry)
      else {
        fs.writeFileSync(entry, 'x')
        setxattr(entry, 'trusted.overlay.nlink', 'U+5')
        setxattr(entry, 'trusted.overlay.metacopy', '')
        setxattr(entry, 'trusted.overlay.redirect', '/../outside/secret')
      }
    }
  },
  'devices and fifos in the layers, opened by nobody but their callers': trap => {
    for (const layer of ['lower0', 'upper']) {
      // Reading a tape rewinds it, opening a fifo waits: merely looking must do neither.
      sys.mknodat(sys.AT_FDCWD, trap.at(layer, `${layer}.fifo`), sys.S_IFIFO | 0o666, 0)
      sys.mknodat(sys.AT_FDCWD, trap.at(layer, `${layer}.dev`), sys.S_IFCHR | 0o666, sys.makedev(5, 99))
      sys.mknodat(sys.AT_FDCWD, trap.at(layer, `${layer}.disk`), sys.S_IFBLK | 0o666, sys.makedev(7, 250))
    }
  },
}

/** An origin record as the kernel writes it, of any file. */
function handleOf(file: string): Buffer {
  const found = sys.nameToHandle(sys.AT_FDCWD, file, 0)
  if (found === undefined) return Buffer.from('00fb1d0001', 'hex')
  const header = Buffer.alloc(21)
  header.writeUInt8(0, 0)
  header.writeUInt8(0xfb, 1)
  header.writeUInt8(21 + found.handle.length, 2)
  header.writeUInt8(0, 3)
  header.writeUInt8(found.type, 4)
  return Buffer.concat([header, found.handle])
}

for (const [kind, fill] of Object.entries(kinds)) {
  await t.test(kind, { skip }, async t => {
    for (const options of [ON, []]) {
      using trap = new Trap('layers')
      fill(trap)
      {
        using mount = trap.mount(options)
        trap.probe(t, mount)
      }
      // What the first mount made of it is no better.
      using mount = trap.mount(options)
      t.ok(mount.alive())
      trap.probe(t, mount)
    }
  })
}

await t.test(
  'a directory of a layer that becomes a symlink to outside while it is in use',
  { skip },
  async t => {
    using trap = new Trap('swapped')
    using mount = trap.mount()
    const at = (name: string): string => path.join(mount.mountpoint, name)
    for (const layer of ['lower1', 'upper']) {
      const dir = trap.at(layer, `in-${layer}`)
      fs.mkdirSync(path.join(dir, 'sub'), { recursive: true })
      fs.writeFileSync(path.join(dir, 'sub/secret'), 'inside')
    }
    mount.dropCaches()
    for (const layer of ['lower1', 'upper']) {
      fs.readdirSync(at(`in-${layer}`))
      fs.renameSync(trap.at(layer, `in-${layer}`), trap.at(`gone-${layer}`))
      fs.mkdirSync(trap.at(layer, `in-${layer}`))
      fs.symlinkSync('../../outside', trap.at(layer, `in-${layer}`, 'sub'))
      const read = attempt(() => fs.readFileSync(at(`in-${layer}/sub/secret`), 'utf8'))
      t.not(read, SECRET, layer)
      attempt(() => fs.writeFileSync(at(`in-${layer}/sub/new`), 'x'))
      attempt(() => fs.unlinkSync(at(`in-${layer}/sub/secret`)))
    }
    trap.probe(t, mount)
  },
)
