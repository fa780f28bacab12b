/**
 * What the wrappers of src/sys cost above their syscalls: CPU time of one call, in nanoseconds, in JavaScript and the addon
 * ("user") and in the kernel ("system"). CPU time, because wall time on a busy machine says nothing.
 *
 *   npm run build && node dist/test/bench/sys-cost.js [DIRECTORY]
 */
import * as sys from '../../src/sys/index.js'

const path = process.argv[2] ?? '/usr/bin'
using dir = sys.openat(sys.AT_FDCWD, path, sys.O_RDONLY | sys.O_DIRECTORY)
const { names } = sys.listDir(dir.n)
const name = names[0] ?? ''

/** @param units how many results one call gives */
function measure(title: string, calls: number, call: () => void, units = 1): void {
  for (let i = 0; i < calls / 4; i++) call()
  const before = process.cpuUsage()
  for (let i = 0; i < calls; i++) call()
  const { user, system } = process.cpuUsage(before)
  const each = (microseconds: number) => ((microseconds * 1000) / calls / units).toFixed(0).padStart(7)
  console.log(`${title.padEnd(36)}${each(user)}${each(system)}`)
}

console.log(`${'nanoseconds per call'.padEnd(36)}${'user'.padStart(7)}${'system'.padStart(7)}`)
measure('statAt', 400_000, () => sys.statAt(dir.n, name))
measure('statAt, absent', 400_000, () => sys.statAt(dir.n, 'no such name'))
measure(`statMany of ${names.length}, per name`, 200, () => sys.statMany(dir.n, names), names.length)
measure(`listDir of ${names.length}, per name`, 200, () => sys.listDir(dir.n), names.length)
measure('tryOpenat2 + close', 200_000, () => {
  const fd = sys.tryOpenat2(dir.n, name, sys.O_PATH, 0, sys.RESOLVE_BENEATH)
  if (fd >= 0) sys.close(fd)
})
measure('getxattrAt, absent', 200_000, () => sys.getxattrAt(dir.n, name, 'user.none'))
measure('listxattrAt', 200_000, () => sys.listxattrAt(dir.n, name))
measure('unlinkat, absent, thrown', 100_000, () => {
  try {
    sys.unlinkat(dir.n, 'no such name')
  } catch {
    // It is the error that is measured.
  }
})
measure('asCreator, the same ids', 400_000, () =>
  sys.asCreator(sys.geteuid(), process.getegid?.() ?? 0, 0, () => 0),
)
if (sys.geteuid() === 0) measure('asCreator, other ids', 50_000, () => sys.asCreator(1000, 1000, 0, () => 0))
