import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import t from 'tap'
import { E } from '../../src/base/errno.js'
import * as sys from '../../src/sys/index.js'
import { isRoot, scratch } from './sys-scratch.js'

const index = JSON.stringify(new URL('../../src/sys/index.js', import.meta.url).href)

/** Runs `script` as root of a new user namespace, in which 0 is 0 and 1 to 999 are 100,001 to 100,999 outside. */
async function inNamespace(script: string): Promise<unknown> {
  const child = spawn(
    'unshare',
    ['--user', 'sh', '-c', 'echo ready; read go; exec "$0" --input-type=module', process.execPath],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  )
  const exited = new Promise<number | null>((resolve, reject) => {
    child.once('exit', resolve)
    child.once('error', reject)
  })
  await new Promise<void>(resolve => child.stdout.once('data', () => resolve()))
  for (const map of ['uid_map', 'gid_map'])
    writeFileSync(`/proc/${child.pid}/${map}`, '0 0 1\n1 100001 999\n')
  child.stdin.write('go\n')
  const output = text(child.stdout)
  child.stdin.end(`import * as sys from ${index}
    const result = await (async () => { ${script} })()
    process.stdout.write(JSON.stringify(result))`)
  const answer = await output
  if ((await exited) !== 0) throw new Error('the script in the namespace failed')
  return JSON.parse(answer)
}

t.test('in a user namespace', { skip: !isRoot && 'needs root' }, async t => {
  const { path, dir } = scratch(t)
  const result = await inNamespace(`
    const dir = sys.openat(sys.AT_FDCWD, ${JSON.stringify(path)}, sys.O_RDONLY | sys.O_DIRECTORY)
    const caught = fn => { try { fn(); return 0 } catch (error) { return error.errno } }
    const umask = sys.umask(0o022)
    return {
      creator: sys.asCreator(500, 600, 0o027, () => {
        sys.openat(dir.n, 'f', sys.O_CREAT | sys.O_WRONLY, 0o666).close()
        sys.mkdirat(dir.n, 'd', 0o777)
        return sys.hasCapability(sys.CAP_DAC_OVERRIDE) && sys.hasCapability(sys.CAP_CHOWN)
      }),
      after: sys.hasCapability(sys.CAP_DAC_OVERRIDE),
      unmappedUid: caught(() => sys.asCreator(5000, 0, 0, () => sys.mkdirat(dir.n, 'never', 0o777))),
      unmappedGid: caught(() => sys.asCreator(0, 5000, 0, () => sys.mkdirat(dir.n, 'never', 0o777))),
      whiteout: caught(() => sys.mknodat(dir.n, 'w', sys.S_IFCHR, 0)),
      device: caught(() => sys.mknodat(dir.n, 'null', sys.S_IFCHR | 0o666, sys.makedev(1, 3))),
      trusted: caught(() => sys.setxattrAt(dir.n, 'f', 'trusted.x', Buffer.of(1))),
      user: caught(() => sys.setxattrAt(dir.n, 'f', 'user.x', Buffer.of(1))),
      own: (sys.mkdirat(dir.n, 'own', 0o777), sys.statAt(dir.n, 'own').uid),
      seen: sys.statAt(dir.n, 'f').uid,
    }
  `)
  t.same(result, {
    creator: true,
    after: true,
    unmappedUid: E.EINVAL,
    unmappedGid: E.EINVAL,
    whiteout: 0,
    device: E.EPERM,
    trusted: E.EPERM,
    user: 0,
    own: 0,
    seen: 500,
  })
  const made = sys.statAt(dir.n, 'f')
  t.same([made?.uid, made?.gid, made?.mode], [100_500, 100_600, 0o100640])
  t.equal(sys.statAt(dir.n, 'never'), undefined)
})
