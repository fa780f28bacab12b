import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { pause, Scratch, unavailable, type Mount } from './fixture.js'

/** What lies in the directory that a walk comes to next is looked up before it is asked for, and what changes meanwhile is seen. */

const skip = unavailable('lamina') ?? false
const DIRS = 12
const FILES = 30

function plant(lower: string): void {
  for (let d = 0; d < DIRS; d++) {
    fs.mkdirSync(path.join(lower, `d${d}`, 'inner'), { recursive: true })
    for (let f = 0; f < FILES; f++) fs.writeFileSync(path.join(lower, `d${d}`, `f${f}`), `${d} ${f}\n`)
    fs.symlinkSync(`f${d}`, path.join(lower, `d${d}`, 'link'))
    fs.writeFileSync(path.join(lower, `d${d}`, 'inner', 'deep'), 'deep')
  }
}

/** Names, types, modes, sizes, links and times as find(1) sees them, sorted; directories' own sizes and times are the layer's affair. */
function listed(dir: string): string[] {
  const found = execFileSync(
    'find',
    [
      dir,
      '-mindepth',
      '1',
      '-printf',
      '%P %y %m %U %G %l ',
      '-type',
      'd',
      '-printf',
      '\n',
      '-o',
      '-printf',
      '%s %n %T@\n',
    ],
    { encoding: 'utf8', maxBuffer: 1 << 26 },
  )
  return found.split('\n').sort()
}

/** The order in which a walk comes to the directories of the mount's root. */
function order(mount: Mount): string[] {
  return execFileSync('ls', ['-U', mount.mountpoint], { encoding: 'utf8' })
    .split('\n')
    .filter(name => name.startsWith('d'))
}

function walk(dir: string): void {
  execFileSync('find', [dir, '-printf', ''])
}

t.test('a walk is answered from what was looked up ahead, and finds what is there', { skip }, child => {
  using scratch = new Scratch('ahead', 60)
  plant(scratch.mkdir('lower0'))
  const mount = scratch.overlay('lamina')
  // A walk that does something with what it finds.
  for (const name of order(mount)) {
    walk(path.join(mount.mountpoint, name))
    pause(30)
  }
  const { found, used } = mount.stats().ahead
  child.ok(used > DIRS * FILES * 0.5, `${used} of ${DIRS * (FILES + 2)} names`)
  child.ok(used <= found)
  child.same(listed(mount.mountpoint), listed(scratch.path('lower0')))
  using again = mount.remount()
  child.same(listed(again.mountpoint), listed(scratch.path('lower0')), 'a quick one')
  child.end()
})

for (const index of ['on', 'off'])
  t.test(`what changes after it was looked up is seen, index=${index}`, { skip }, child => {
    using scratch = new Scratch('ahead', 60)
    const lower = scratch.mkdir('lower0')
    plant(lower)
    for (let d = 0; d < DIRS; d++)
      fs.linkSync(path.join(lower, `d${d}`, 'f9'), path.join(lower, `d${(d + 3) % DIRS}`, 'hard'))
    const model = scratch.mkdir('model')
    execFileSync('cp', ['-a', `${lower}/.`, model])
    const mount = scratch.overlay('lamina', 1, [`index=${index}`])
    const names = order(mount)
    const changes: ((dir: string, root: string) => void)[] = [
      dir => fs.appendFileSync(path.join(dir, 'f1'), 'more'),
      dir => fs.chmodSync(path.join(dir, 'f2'), 0o600),
      dir => fs.unlinkSync(path.join(dir, 'f3')),
      dir => fs.renameSync(path.join(dir, 'f4'), path.join(dir, 'f5')),
      dir => fs.writeFileSync(path.join(dir, 'new'), 'new'),
      dir => fs.rmSync(path.join(dir, 'inner'), { recursive: true }),
      // Through its other name, in a directory that was read before.
      (_, root) => fs.appendFileSync(path.join(root, names[0] ?? '', 'hard'), 'linked'),
    ]
    // From the second one on each is expected.
    for (const name of names.slice(0, 2)) walk(path.join(mount.mountpoint, name))
    for (const [i, change] of changes.entries()) {
      pause(150) // for the daemon to look ahead
      const name = names[i + 2]
      if (name === undefined) break
      for (const root of [mount.mountpoint, model]) change(path.join(root, name), root)
      const [shown, wanted] = [mount.mountpoint, model].map(root =>
        listed(path.join(root, name)).map(line => line.replace(/ [0-9.]+$/, '')),
      )
      // Without an index a lower file with two names becomes two files when it is copied up.
      if (index === 'on' || i < changes.length - 1) child.same(shown, wanted, `${name}: ${String(change)}`)
    }
    child.ok(mount.stats().ahead.found > 3 * FILES, `${mount.stats().ahead.found} names were looked up ahead`)
    child.equal(mount.stats().faults, 0)
    child.end()
  })

for (const keeper of [0, 1])
  t.test(`what was looked up and never asked for is not kept, keeper=${keeper}`, { skip }, async child => {
    using scratch = new Scratch('ahead', 60)
    plant(scratch.mkdir('lower0'))
    const mount = scratch.overlay('lamina', 1, [`keeper=${keeper}`])
    const names = order(mount)
    for (const name of names.slice(0, 3)) {
      walk(path.join(mount.mountpoint, name))
      pause(50)
    }
    const { found, used } = mount.stats().ahead
    child.ok(found - used >= FILES, `${found} looked up, ${used} used`)
    if (keeper === 1) {
      const { pid } = mount
      process.kill(pid ?? 0, 'SIGKILL')
      child.equal(fs.readFileSync(path.join(mount.mountpoint, names[3] ?? '', 'f0'), 'utf8').length, 4)
      while (mount.pid === undefined || mount.pid === pid) pause(10)
    }
    mount.dropCaches()
    for (let tries = 0; tries < 100 && mount.stats().inodes > 1; tries++) pause(20)
    child.equal(mount.stats().inodes, 1)
    child.end()
  })
