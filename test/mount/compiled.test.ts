import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import module from 'node:module'
import path from 'node:path'
import vm from 'node:vm'
import zlib from 'node:zlib'
import t from 'tap'
import { PROJECT, Scratch, umount, unavailable } from './fixture.js'

/** Compiled code that bin/load.js keeps: when it is taken, and that the daemon has it too. */

const skip = unavailable('lamina') ?? false

/** The package as it is installed, with a cache of its own. */
class Package {
  readonly root: string
  readonly cache: string

  constructor(scratch: Scratch) {
    this.root = scratch.mkdir('package')
    this.cache = path.join(this.root, 'dist/.cache')
    fs.cpSync(path.join(PROJECT, 'bin'), path.join(this.root, 'bin'), { recursive: true })
    fs.mkdirSync(path.join(this.root, 'dist'))
    for (const part of ['dist/src', 'build', 'prebuilds', 'package.json'])
      if (fs.existsSync(path.join(PROJECT, part)))
        fs.symlinkSync(path.join(PROJECT, part), path.join(this.root, part))
  }

  run(...args: string[]): { status: number | null; stderr: string } {
    return spawnSync(process.execPath, [path.join(this.root, 'bin/lamina.js'), ...args], { encoding: 'utf8' })
  }

  /** The file with what `command` is compiled to. */
  kept(command: string): string | undefined {
    const names = fs.existsSync(this.cache) ? fs.readdirSync(this.cache) : []
    const name = names.find(each => each.endsWith(`-${process.version}-${process.arch}-${command}`))
    return name === undefined ? undefined : path.join(this.cache, name)
  }
}

/** Exit code of a command whose code was replaced. */
const FORGED = 77

/** What V8 takes for the code of `bundle`, of which it knows no more than the length. */
async function forge(bundle: string): Promise<Buffer> {
  const { length } = module.wrap(fs.readFileSync(bundle, 'latin1'))
  const text = `(function (exports) { exports.main = async () => ${FORGED} })`
  const script = new vm.Script(text.padEnd(length), { filename: bundle })
  const exports: { main?: () => Promise<number> } = {}
  ;(script.runInThisContext() as (to: object) => void)(exports)
  // What was called is in the code.
  await exports.main?.()
  const code = script.createCachedData()
  const sum = Buffer.alloc(4)
  sum.writeUInt32LE(zlib.crc32(code))
  return Buffer.concat([code, sum])
}

t.test('code is taken only from where nobody else may write', { skip }, async t => {
  using scratch = new Scratch('compiled')
  const installed = new Package(scratch)
  t.equal(installed.run('mounts').status, 0)
  const file = installed.kept('mounts') ?? ''
  fs.writeFileSync(file, await forge(path.join(installed.root, 'dist/src/cli/main.bundle.cjs')))
  t.equal(installed.run('mounts').status, FORGED, 'as for the program itself, its owner is trusted')

  const { uid, gid } = fs.statSync(installed.cache)
  for (const [what, mode, owner, group] of [
    ['writable for all', 0o777, uid, gid],
    ['writable for the group', 0o775, uid, gid],
    ["another user's", 0o755, uid + 12_345, gid],
    ["another group's", 0o775, uid, gid + 12_345],
  ] as const) {
    fs.chownSync(installed.cache, owner, group)
    fs.chmodSync(installed.cache, mode)
    const { status, stderr } = installed.run('mounts')
    t.same([status, stderr], [0, ''], what)
  }
  fs.chownSync(installed.cache, uid, gid)
  fs.chmodSync(path.dirname(installed.cache), 0o775)
  t.equal(installed.run('mounts').status, FORGED, 'a group that may write in the package may write here')
})

t.test(
  "the daemon's code is kept, whatever covers the package; damaged, it is made anew",
  { skip },
  async t => {
    using scratch = new Scratch('compiled-daemon')
    const installed = new Package(scratch)
    const mount = (mountpoint: string): void => {
      const { status, stderr } = installed.run('mount', '--lower', scratch.mkdir('lower'), mountpoint)
      t.same([status, stderr], [0, ''])
    }
    const code = async (): Promise<string> => {
      for (;;) {
        const file = installed.kept('daemon-main')
        if (file !== undefined) return file
        await new Promise(resolve => setTimeout(resolve, 5))
      }
    }
    mount(installed.root)
    t.same(fs.readdirSync(installed.root), [], 'what is mounted covers the package')
    umount(installed.root)
    const file = await code()
    t.equal(fs.statSync(installed.cache).mode & 0o777, 0o755)
    t.equal(fs.statSync(file).mode & 0o777, 0o644)

    const mnt = scratch.mkdir('mnt')
    const whole = fs.readFileSync(file)
    for (const damaged of [Buffer.alloc(0), whole.subarray(0, 1000), Buffer.from(whole).fill(0x5a, 4096)]) {
      fs.writeFileSync(file, damaged)
      mount(mnt)
      umount(mnt)
      while (fs.readFileSync(file).equals(damaged)) await new Promise(resolve => setTimeout(resolve, 5))
    }
    const { ino } = fs.statSync(file)
    mount(mnt)
    // Waits for the daemon's end.
    t.equal(installed.run('umount', mnt).status, 0)
    t.equal(fs.statSync(file).ino, ino, 'what is good is left alone')
  },
)
