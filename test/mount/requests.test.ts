import { execFileSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import t from 'tap'
import * as sys from '../../src/sys/index.js'
import {
  chmod,
  exists,
  join,
  mkdir,
  open,
  read,
  rename,
  stat,
  symlink,
  text,
  unlink,
  write,
} from '../conformance/posix.js'
import { Scratch, unavailable, type Mount } from './fixture.js'

/** A round trip is the cost: what the kernel knows already must not be asked again. */

const skip = unavailable('lamina') ?? false
const SYMLINKS = 3

/** Requests sent while `act` ran, by name; none is {}. */
function sent(mount: Mount, act: () => void): Record<string, number> {
  const before = mount.stats().requests
  act()
  const grown: Record<string, number> = {}
  for (const [name, count] of Object.entries(mount.stats().requests)) {
    const more = count - (before[name] ?? 0)
    if (more > 0) grown[name] = more
  }
  return grown
}

/**
 * Gives what `measure` gives, done again when the kernel let go of an inode meanwhile: then somebody else has dropped the
 * caches of the whole machine. Of pages nothing is told (a machine may reclaim those that it takes for cold at any time), so that where
 * `again` says so it is done a few more times.
 */
function undisturbed<T>(mount: Mount, measure: () => T, again: (result: T) => boolean = () => false): T {
  const forgotten = (): number => {
    const { requests } = mount.stats()
    return (requests['FORGET'] ?? 0) + (requests['BATCH_FORGET'] ?? 0)
  }
  for (let tries = 0; ; tries++) {
    const before = forgotten()
    const result = measure()
    if (forgotten() === before && (tries >= 3 || !again(result))) return result
    if (tries === 20) throw new Error("the machine's caches are dropped all the time")
  }
}

/** In the tree of `withTree`: the root, its directories, their files, and symlinks. */
const OBJECTS = 1 + 20 * (1 + 3 * 7) + SYMLINKS

/**
 * `requests` without one for the attributes of each of so many objects: where the kernel had something read it asks for the
 * atime once more when somebody wants that (fuse_invalidate_atime).
 */
function withoutAtime(requests: Record<string, number>, objects: number): Record<string, number> {
  const { GETATTR = 0, STATX = 0, ...others } = requests
  return GETATTR + STATX <= objects ? others : requests
}

/** A tree in two lower layers and an upper one, of 20 directories and 400 files. */
function withTree(act: (mount: Mount, root: string) => void, options: readonly string[] = []): void {
  using scratch = new Scratch('requests', 150)
  for (const layer of ['lower0', 'lower1', 'upper']) {
    const dir = scratch.mkdir(layer)
    for (let i = 0; i < 20; i++) {
      mkdir(join(dir, `d${i}`))
      for (let j = 0; j < 7; j++) write(join(dir, `d${i}`, `${layer}-${j}`), `${i} ${j}\n`)
    }
    symlink('d1', join(dir, `link-${layer}`))
  }
  const mount = scratch.overlay('lamina', 2, options)
  act(mount, mount.mountpoint)
}

const shell = (program: string, dir: string): void => {
  execFileSync('sh', ['-c', program], { cwd: dir, stdio: ['ignore', 'ignore', 'inherit'], timeout: 30_000 })
}

const SECOND_TIME: Record<string, string> = {
  'ls -lR': 'ls -lR . >/dev/null',
  find: 'find . >/dev/null',
  'find -newer, which stats everything': 'find . -newer d1 >/dev/null',
  'cat of every file': 'find . -type f | xargs cat >/dev/null',
  'du, which stats and lists': 'du -a . >/dev/null',
  'readlink of every symlink': 'readlink link-* >/dev/null',
  'stat of every file': 'find . | xargs stat >/dev/null',
  'grep -r': 'grep -r nothing . >/dev/null; true',
}

/** Sent for each object of a mount by programs that want what the kernel keeps no cache of. */
const NOT_CACHED: Record<string, readonly string[]> = {
  // ls asks for security.selinux, and the kernel caches no xattr but ACLs.
  'ls -lR': ['GETXATTR'],
}

for (const [name, program] of Object.entries(SECOND_TIME))
  t.test(`once everything is known, ${name} sends no request`, { skip }, child => {
    withTree((mount, root) => {
      const [second, third] = undisturbed(
        mount,
        () => {
          shell(program, root)
          return [sent(mount, () => shell(program, root)), sent(mount, () => shell(program, root))] as const
        },
        results => results.some(requests => 'READ' in requests || 'READLINK' in requests),
      )
      for (const key of NOT_CACHED[name] ?? []) for (const requests of [second, third]) delete requests[key]
      child.same(withoutAtime(second, OBJECTS), {}, 'a second time')
      child.same(third, {}, 'a third time')
    })
    child.end()
  })

t.test('a name known to be missing is not asked for again', { skip }, child => {
  withTree((mount, root) => {
    const names = Array.from({ length: 50 }, (_, i) => join(root, `d${i % 20}`, `missing${i}`))
    const none = undisturbed(mount, () => {
      child.same(names.filter(exists), [])
      return sent(mount, () => void names.filter(exists))
    })
    child.same(none, {})
    const path = names[0]!
    // Held open, or else the kernel lets go of its inode, which looks like a disturbance.
    const removed: Disposable[] = []
    const [asked, again] = undisturbed(mount, () => {
      write(path, 'x')
      removed.push(open(path, sys.O_RDONLY))
      unlink(path)
      return [sent(mount, () => void exists(path)), sent(mount, () => void exists(path))]
    })
    for (const file of removed) file[Symbol.dispose]()
    child.ok((asked['LOOKUP'] ?? 0) <= 1, 'removed, it is asked for once')
    child.same(again, {})
  })
  child.end()
})

t.test(
  'what a listing has shown is known: looking at each entry after ls sends nothing more',
  { skip },
  child => {
    withTree((mount, root) => {
      const more = undisturbed(mount, () => {
        shell('ls -lR . >/dev/null; ls -lR . >/dev/null', root)
        return sent(mount, () => shell('du -a . >/dev/null', root))
      })
      // ls wants no atime; du does, and that of a symlink has changed with ls.
      child.same(withoutAtime(more, SYMLINKS), {})
    })
    child.end()
  },
)

t.test('a change asks again only about what changed', { skip }, child => {
  withTree((mount, root) => {
    const look = 'find . -newer d1 >/dev/null'
    const [after, later] = undisturbed(mount, () => {
      shell(`${look}; ${look}`, root)
      write(join(root, 'd3', 'lower0-1'), 'changed')
      chmod(join(root, 'd4', 'lower1-2'), 0o600)
      write(join(root, 'd5', 'moving'), '')
      rename(join(root, 'd5', 'moving'), join(root, 'd6', 'moved'))
      const first = sent(mount, () => shell(look, root))
      shell(look, root)
      return [first, sent(mount, () => shell(look, root))]
    })
    const total = Object.values(after).reduce((sum, n) => sum + n, 0)
    child.ok(
      total <= 20,
      `${total} requests after changes in four of twenty directories: ${JSON.stringify(after)}`,
    )
    child.same(later, {})
    child.equal(text(join(root, 'd3', 'lower0-1')), 'changed')
  })
  child.end()
})

t.test('opening and closing what was open before sends nothing', { skip }, child => {
  withTree((mount, root) => {
    const path = join(root, 'd1', 'lower0-0')
    const opens = undisturbed(mount, () => {
      read(path)
      return sent(mount, () => {
        for (let i = 0; i < 100; i++) open(path, sys.O_RDONLY).close()
      })
    })
    child.same(opens, {})
  })
  child.end()
})

t.test('a program run twice is read once', { skip }, child => {
  using scratch = new Scratch('requests-exec', 60)
  write(join(scratch.mkdir('lower0'), 'true'), read('/bin/true'), 0o755)
  const mount = scratch.overlay('lamina')
  const again = undisturbed(mount, () => {
    shell('./true', mount.mountpoint)
    return sent(mount, () => shell('./true', mount.mountpoint))
  })
  // exec asks for security.capability, and the kernel caches no xattr but ACLs.
  delete again['GETXATTR']
  child.same(again, {})
  child.end()
})

t.test('timeout=0 asks every time', { skip }, child => {
  withTree(
    (mount, root) => {
      const path = join(root, 'd1', 'lower0-0')
      stat(path)
      const again = sent(mount, () => void stat(path))
      child.ok((again['LOOKUP'] ?? 0) + (again['GETATTR'] ?? 0) > 0, JSON.stringify(again))
    },
    ['timeout=0'],
  )
  child.end()
})

t.test('a program that asks one thing after the other finds the daemon awake', { skip }, child => {
  if (availableParallelism() < 2) child.comment('one core: the daemon sleeps between requests')
  else
    withTree((mount, root) => {
      // On a machine that has other things to do it may well be asleep: one quiet moment within half a minute is enough.
      const asleep: number[] = []
      for (const end = Date.now() + 30_000; Date.now() < end && !asleep.some(times => times < 250);) {
        const before = mount.stats().dataPlane.wakeups
        for (let i = 0; i < 500; i++) exists(join(root, `none-${asleep.length}-${i}`))
        asleep.push(mount.stats().dataPlane.wakeups - before)
      }
      child.ok(Math.min(...asleep) < 250, `woken ${asleep.join(', ')} times for 500 requests`)
    })
  child.end()
})
