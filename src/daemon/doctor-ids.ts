/** Subordinate ids: what an ordinary user's containers need to have more than one user in them. */
import { readFileSync, statSync } from 'node:fs'
import { userInfo } from 'node:os'
import * as sys from '../sys/index.js'
import { programInPath, type Finding } from './doctor.js'

/** As many as an image may use: uids up to 65,534 are common (nobody). */
const ENOUGH = 65_536

const WITHOUT =
  "in an ordinary user's containers there is one user: an image's other owners are kept in an attribute, and shown as root's"

export function subordinateIds(): Finding {
  const name = 'subordinate ids'
  const { uid, username } = whoIs()
  const programs = ['newuidmap', 'newgidmap'].map(program => ({ program, file: programInPath(program) }))
  const missing = programs.filter(({ file }) => file === undefined).map(({ program }) => program)
  const weak = programs.filter(({ file }) => file !== undefined && !privileged(file))
  const said = missing.length > 0 ? `no ${missing.join(', ')}` : 'newuidmap, newgidmap'
  if (uid === 0) {
    return missing.length === 0
      ? { name, state: 'ok', found: `${said}; root needs no ranges`, without: '', remedy: '' }
      : { name, state: 'missing', found: said, without: WITHOUT, remedy: 'apt-get install uidmap' }
  }
  const ranges = ['subuid', 'subgid'].map(file => ({ file, count: idsOf(`/etc/${file}`, username, uid) }))
  const short = ranges.filter(({ count }) => count < ENOUGH)
  const found = [said, ...ranges.map(({ file, count }) => `${count} ids in /etc/${file}`)].join(', ')
  const remedies = [
    ...(missing.length > 0 ? ['apt-get install uidmap'] : []),
    ...weak.map(({ file }) => `chmod u+s ${file ?? ''}`),
    ...(short.length > 0
      ? [
          `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ${username} (a range nobody else has)`,
        ]
      : []),
  ]
  if (remedies.length === 0) return { name, state: 'ok', found, without: '', remedy: '' }
  return { name, state: 'missing', found, without: WITHOUT, remedy: remedies.join('; ') }
}

function whoIs(): { uid: number; username: string } {
  const uid = process.getuid?.() ?? 0
  try {
    return { uid, username: userInfo().username }
  } catch {
    // Not in /etc/passwd.
    return { uid, username: String(uid) }
  }
}

/** Setuid root, or with file capabilities. */
function privileged(file: string): boolean {
  const { mode, uid } = statSync(file)
  return uid === 0 && ((mode & 0o4000) !== 0 || hasCapabilities(file))
}

function hasCapabilities(file: string): boolean {
  try {
    using found = sys.openat(sys.AT_FDCWD, file, sys.O_RDONLY)
    return sys.getxattrAt(found.n, '', 'security.capability') !== undefined
  } catch {
    return false
  }
}

/** Lines are `user:first:count`, the user by name or number. */
function idsOf(file: string, username: string, uid: number): number {
  let lines: string[]
  try {
    lines = readFileSync(file, 'utf8').split('\n')
  } catch {
    return 0
  }
  return lines
    .map(line => line.split(':'))
    .filter(([who]) => who === username || who === String(uid))
    .reduce((sum, [, , count]) => sum + (Number(count) || 0), 0)
}
