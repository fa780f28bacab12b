import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { busyboxRoot, Machine, unavailable, USER } from '../dropin/machine.js'

/** What container-rights.test.ts tries of a hostile image, in the containers of an ordinary user. */

const missing = unavailable('newuidmap', 'busybox', 'cc', 'python3', 'crun', 'runc')
t.setTimeout(280_000)

const ATTACK = `
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#define TELL(what, call) (errno = 0, printf(" " what " %d", (call) == -1 ? errno : 0))
int main(void) {
  if (isatty(0)) for (const char* c = "echo typed\\n"; *c; c++) ioctl(0, TIOCSTI, c);
  TELL("keyctl", syscall(SYS_keyctl, 0L, -3L, 0L));
  TELL("unshare", unshare(CLONE_NEWUSER));
  TELL("mount", mount("none", "/srv", "tmpfs", 0, ""));
  TELL("clone3", syscall(SYS_clone3, 0L, 0L));
  TELL("mknod", mknod("/made", S_IFCHR | 0666, makedev(1, 3)));
  TELL("mknod", mknod("/dev/made", S_IFBLK | 0666, makedev(8, 0)));
  TELL("mknod", mknod("/volume/made", S_IFBLK | 0666, makedev(8, 0)));
  for (int fd = 3; fd < 200; fd++) if (lseek(fd, 0, SEEK_CUR) != -1 || errno != EBADF) printf(" inherited %d", fd);
  puts("");
  return 0;
}
`

const TERMINAL = `
import pty, os, sys, select
pid, fd = pty.fork()
if pid == 0:
  if os.fork(): os.wait()
  else: os.execvp(sys.argv[1], sys.argv[1:])
  print('typed' if select.select([0], [], [], 0)[0] else 'quiet', flush=True)
  os._exit(0)
out = b''
while True:
  try: part = os.read(fd, 4096)
  except OSError: break
  if not part: break
  out += part
sys.stdout.write(out.decode().replace('\\r\\n', '|'))`

if (missing !== undefined) {
  t.test('rootless', { skip: missing }, () => undefined)
} else {
  const machine = await Machine.start()
  t.teardown(() => {
    machine.end()
  })
  const tree = path.join(machine.root, 'tree')
  busyboxRoot(tree)
  fs.symlinkSync('/proc/self/exe', path.join(tree, 'bin/self'))
  fs.writeFileSync(path.join(machine.root, 'attack.c'), ATTACK)
  const volume = path.join(machine.home, 'volume')
  fs.mkdirSync(volume)
  await machine.sh(
    `cd ${machine.root}; cc -static -o tree/bin/attack attack.c; chown ${USER.uid}:${USER.uid} ${volume}
     mkdir tree/nodes; mknod -m 666 tree/nodes/fuse c 10 229; tar -C tree -cf tree.tar .`,
  )
  const imported = await machine.run(
    machine.lamina,
    ['image', 'import', path.join(machine.root, 'tree.tar'), 'evil'],
    {
      user: true,
    },
  )
  t.match(imported.stderr, /device node 'nodes\/fuse' \(10:229\) was left out/)

  for (const runtime of ['crun', 'runc', 'none']) {
    await t.test(`devices, system calls, capabilities, what is inherited, ${runtime}`, async t => {
      const options = { user: true, env: { LAMINA_RUNTIME: runtime } } as const
      const lamina = async (...words: string[]): Promise<string> =>
        await machine.ok(machine.lamina, ['run', '--rm', '-v', `${volume}:/volume`, ...words], options)
      const facts = `attack; (: < /nodes/fuse) 2>/dev/null && echo node;
        grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; cat /proc/keys; ls /proc/self/fd | wc -l`
      const refused = ' keyctl 1 unshare 1 mount 1 clone3 38 mknod 1 mknod 1 mknod 1'
      const bits = runtime === 'none' ? 'a00425fb' : 'a80425fb'
      t.equal(
        await lamina('evil', 'sh', '-c', facts),
        `${refused}\nCapEff:\t00000000${bits}\nNoNewPrivs:\t0\nSeccomp:\t2\n4\n`,
      )
      const less = ['--cap-drop', 'all', '--cap-add', 'cap_chown', '--security-opt', 'no-new-privileges']
      t.equal(
        await lamina(...less, 'evil', 'grep', '-E', '^(CapEff|CapBnd|NoNewPrivs):', '/proc/self/status'),
        'CapEff:\t0000000000000001\nCapBnd:\t0000000000000001\nNoNewPrivs:\t1\n',
      )
      const self = await machine.run(
        machine.lamina,
        ['run', '--rm', 'evil', '/bin/self', '-p', '1+41'],
        options,
      )
      t.notMatch(self.stdout, /^42/, '/proc/self/exe as the command')
      const typed = await machine.ok(
        'python3',
        ['-c', TERMINAL, machine.lamina, 'run', '--rm', '-it', 'evil', '/bin/attack'],
        options,
      )
      t.match(typed, / keyctl 1 unshare 1 mount 1 .*quiet\|$/s, 'TIOCSTI')
    })
  }
}
