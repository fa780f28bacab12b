import t from 'tap'
import { Scratch, unavailable, type Subject } from '../mount/fixture.js'
import { change, fillLowers } from './interchange-script.js'
import { compare, walk, type CompareOptions, type Tree } from './tree.js'

/** An upperdir that one has written is the same tree under the other. */

type Overlay = Exclude<Subject, 'plain'>

const PAIRS: readonly [Overlay, Overlay][] = [
  ['lamina', 'kernel'],
  ['kernel', 'lamina'],
  ['lamina', 'fuse-overlayfs'],
  ['fuse-overlayfs', 'lamina'],
  ['lamina', 'lamina'],
]

/** Debian's fuse-overlayfs 1.10, on any upperdir: st_nlink of a lower hard link, and which names are one inode. */
const PECULIAR: CompareOptions = { allow: (_path, field) => field === 'nlink' || field === 'inode' }

for (const [writer, reader] of PAIRS) {
  const skip = unavailable(writer) ?? unavailable(reader) ?? false
  t.test(`what ${writer} wrote is the same tree under ${reader}, twice over`, { skip }, child => {
    using scratch = new Scratch(`interchange-${writer}-${reader}`, 90)
    const lowers = ['l0', 'l1', 'l2'].map(name => scratch.mkdir(name))
    fillLowers(lowers)
    const peculiar = writer === 'fuse-overlayfs' || reader === 'fuse-overlayfs'
    const extent = { special: !peculiar, longest: peculiar ? 251 : 255 }
    const options = peculiar ? PECULIAR : {}
    const dirs = { lowers, upper: scratch.mkdir('upper') }
    const under = (subject: Overlay, act: (view: string) => void): Tree => {
      // A workdir of its own: what is left in one belongs to whoever made it.
      const work = scratch.mkdir(`work-${subject}-${scratch.mounts.length}`)
      using mount = scratch.mount({ subject, ...dirs, work, mountpoint: scratch.mkdir('mnt') })
      act(mount.mountpoint)
      return walk(mount.mountpoint, { passOverGhosts: subject === 'kernel' })
    }
    const nothing = (): void => {}

    for (const [round, author, other] of [
      [0, writer, reader],
      [1, reader, writer],
    ] as const) {
      const seen = under(author, view => change(view, round, extent))
      const kept = under(author, nothing)
      // With its writeback cache fuse-overlayfs shows times that it does not keep, and a broken lower link as if whole.
      if (author !== 'fuse-overlayfs') child.same(compare(seen, kept), [], `${author} after a remount`)
      child.same(compare(kept, under(other, nothing), options), [], `${other} sees what ${author} wrote`)
    }
    child.end()
  })
}
