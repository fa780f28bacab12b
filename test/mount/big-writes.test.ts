import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { linksOf, mountTmpfs, Scratch, umount, unavailable } from './fixture.js'

/** WRITEs that are large enough to go through a pipe: the same bytes as on a plain directory, whatever lies between them. */

const skip = unavailable('lamina') ?? false
const MIB = 1 << 20

/** Numbers that look random and are the same in each run. */
function sequence(seed: number): (below: number) => number {
  let state = seed
  return below => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

function bytes(size: number, seed: number): Buffer {
  const data = Buffer.alloc(size)
  for (let at = 0; at + 4 <= size; at += 4) data.writeUInt32LE((Math.imul(at, 2654435761) + seed) >>> 0, at)
  return data
}

const pipesOf = (pid: number): number => linksOf(pid).filter(link => link.startsWith('pipe:')).length

await t.test('large, unaligned and sparse writes of several files at once', { skip }, async t => {
  using scratch = new Scratch('big-writes', 120)
  const mount = scratch.overlay('lamina')
  const plain = scratch.mkdir('plain')
  const before = pipesOf(mount.stats().pid)
  const names = ['a', 'b', 'c', 'd', 'e', 'f']
  const scribble = async (directory: string, name: string): Promise<void> => {
    const below = sequence(name.charCodeAt(0))
    const file = await fs.promises.open(path.join(directory, name), 'w+')
    for (let i = 0; i < 12; i++) {
      const [size, offset] = [1 + below(3 * MIB), below(12 * MIB)]
      const { bytesWritten } = await file.write(bytes(size, i), 0, size, offset)
      if (bytesWritten !== size) throw new Error(`${name}: ${bytesWritten} of ${size}`)
      // Requests of other kinds in between: what is expected next is wrong.
      if (i % 3 === 0) await file.truncate(below(16 * MIB))
      if (i % 4 === 0) for (let j = 0; j < 5; j++) await file.write('small', below(12 * MIB))
    }
    await file.close()
  }
  await Promise.all(names.map(async name => await scribble(mount.mountpoint, name)))
  for (const name of names) {
    await scribble(plain, name)
    const expected = fs.readFileSync(path.join(plain, name))
    t.ok(fs.readFileSync(path.join(mount.mountpoint, name)).equals(expected), `${name} in the view`)
    t.ok(fs.readFileSync(scratch.path('upper', name)).equals(expected), `${name} in upper`)
  }
  const { pid, faults } = mount.stats()
  t.equal(faults, 0)
  fs.writeFileSync(path.join(mount.mountpoint, 'big'), bytes(4 * MIB, 1))
  t.ok(pipesOf(pid) > before, 'through pipes')
  t.ok(pipesOf(pid) <= before + 8, 'of which there are few')
  for (let i = 0; i < 8; i++) fs.writeFileSync(path.join(mount.mountpoint, `small${i}`), 'small')
  t.equal(pipesOf(pid), before, 'and none when no more come')
})

await t.test('a first large write to a file that is not known yet', { skip }, async t => {
  using scratch = new Scratch('big-first', 60)
  const data = bytes(3 * MIB, 1)
  fs.writeFileSync(path.join(scratch.mkdir('lower0'), 'below'), bytes(5 * MIB, 2))
  const mount = scratch.overlay('lamina')
  fs.writeFileSync(path.join(mount.mountpoint, 'other'), data)
  const fd = fs.openSync(path.join(mount.mountpoint, 'below'), 'r+')
  fs.writeSync(fd, data, 0, data.length, MIB + 5)
  fs.closeSync(fd)
  const expected = bytes(5 * MIB, 2)
  data.copy(expected, MIB + 5)
  t.ok(fs.readFileSync(path.join(mount.mountpoint, 'below')).equals(expected))
  t.ok(fs.readFileSync(scratch.path('upper', 'below')).equals(expected))
})

for (const [what, options, room] of [
  ['a full disk', [], 'size=8m'],
  ['a limit', ['size=8m'], 'size=64m'],
] as const) {
  await t.test(`${what} in the middle of a large write: a right short count`, { skip }, async t => {
    using scratch = new Scratch('big-full', 60)
    const disk = scratch.mkdir('disk')
    mountTmpfs(disk, room)
    try {
      const [upper, work] = ['upper', 'work'].map(name => scratch.mkdir('disk', name)) as [string, string]
      using mount = scratch.mount({
        subject: 'lamina',
        lowers: [scratch.mkdir('lower0')],
        upper,
        work,
        mountpoint: scratch.mkdir('mnt'),
        options,
      })
      const fd = fs.openSync(path.join(mount.mountpoint, 'data'), 'w+')
      // Several times: what a failed write leaves behind must not come out with the next one.
      for (let round = 0; round < 3; round++) {
        const size = 1_300_001
        const data = bytes(size, round)
        let done = 0
        let failed = ''
        while (failed === '' && done < 32 * MIB) {
          try {
            const n = fs.writeSync(fd, data, done % size, size - (done % size), done)
            done += n
          } catch (error) {
            failed = (error as NodeJS.ErrnoException).code ?? ''
          }
        }
        t.equal(failed, 'ENOSPC')
        t.ok(done > 6 * MIB && done <= 8 * MIB, `${done} bytes were written`)
        t.equal(fs.fstatSync(fd).size, done)
        const expected = Buffer.concat(Array.from({ length: Math.ceil(done / size) }, () => data)).subarray(
          0,
          done,
        )
        t.ok(fs.readFileSync(path.join(upper, 'data')).equals(expected), 'in upper')
        t.ok(fs.readFileSync(path.join(mount.mountpoint, 'data')).equals(expected), 'in the view')
        fs.ftruncateSync(fd, 0)
      }
      fs.closeSync(fd)
    } finally {
      umount(disk)
    }
  })
}
