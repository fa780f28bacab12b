import { spawn, spawnSync, type SpawnSyncReturns } from 'node:child_process'
import {
  chmodSync,
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { t } from 'tap'
import { importRootfs } from '../../src/manager/index.js'
import { packTree } from '../../src/manager/layer-tar.js'
import { skipBox, withBox } from '../manager/box-image.js'
import { lacking, leftovers, PROJECT, run } from '../manager/fixture.js'
import { runtimes } from './runtimes.js'

/** What a process in a container can do to the host: devices, system calls, capabilities, descriptors, the program that started it. */

const skip = skipBox
/** A device of the host's that anybody may open, and no container: /dev/fuse. */
const FUSE = 'c 10 229'

for (const { name, env } of runtimes()) {
  t.test(`devices, system calls, capabilities and masked paths, ${name}`, { skip }, async t => {
    const bench = await withBox(t)
    const tree = bench.path('tree')
    for (const applet of ['mknod', 'grep', 'unshare', 'head', 'test', 'readlink', 'wc', 'setsid'])
      spawnSync('ln', ['-sf', 'busybox', join(tree, 'bin', applet)])
    mkdirSync(join(tree, 'nodes'))
    run('mknod', [join(tree, 'nodes/fuse'), ...FUSE.split(' ')])
    chmodSync(join(tree, 'nodes/fuse'), 0o666)
    const store = await bench.open()
    await importRootfs(store, packTree(tree), { name: 'nodes' })
    store.close()
    const volume = bench.path('volume')
    mkdirSync(volume)
    run('mknod', [join(volume, 'fuse'), ...FUSE.split(' ')])
    chmodSync(join(volume, 'fuse'), 0o666)
    const lamina = (...words: string[]): SpawnSyncReturns<string> =>
      bench.laminaWith({ env }, 'run', '--rm', '-v', `${volume}:/volume`, ...words)

    const opens = (path: string): string => `if : 2>/dev/null < ${path}; then echo open ${path}; fi`
    const first = lamina(
      'nodes',
      'sh',
      '-c',
      `mknod /made ${FUSE} 2>/dev/null; mknod /dev/made ${FUSE} 2>/dev/null; mknod /volume/made ${FUSE} 2>/dev/null
       for path in /made /dev/made /volume/made /nodes/fuse /volume/fuse; do (${opens('$path')}); done
       for path in null zero full random urandom; do head -c 0 /dev/$path || echo no $path; done; echo > /dev/null
       unshare -m true 2>/dev/null && echo unshared; mount -t tmpfs none /srv 2>/dev/null && echo mounted
       grep -E '^(Seccomp|CapEff|NoNewPrivs):' /proc/self/status; readlink /proc/self/ns/cgroup
       for path in kcore keys timer_list interrupts; do test -s /proc/$path && head -c 1 /proc/$path | wc -c; done
       for path in sys/kernel/domainname sysrq-trigger; do (: >> /proc/$path) 2>/dev/null && echo wrote $path; done
       ls /proc/self/fd | wc -l`,
    )
    t.equal(first.status, 0, first.stderr)
    const bits = name === 'none' ? '00000000a00425fb' : '00000000a80425fb'
    const lines = first.stdout.trim().split('\n')
    const cgroup = lines.splice(3, 1)
    t.not(cgroup[0], run('readlink', ['/proc/self/ns/cgroup']).trim(), 'a cgroup namespace of its own')
    t.same(lines, [`CapEff:\t${bits}`, 'NoNewPrivs:\t0', 'Seccomp:\t2', '4'], first.stdout)

    const user = lamina(
      '-u',
      '1000',
      'nodes',
      'sh',
      '-c',
      `(${opens('/nodes/fuse')}); (${opens('/volume/fuse')}); id -u`,
    )
    t.equal(user.stdout, '1000\n', 'nor for a user who may by its mode')

    const status = "grep -E '^(Seccomp|CapEff|CapBnd|NoNewPrivs):' /proc/self/status | tr -d '\\n'"
    spawnSync('ln', ['-sf', 'busybox', join(tree, 'bin/tr')])
    const less = lamina(
      '--cap-drop',
      'all',
      '--cap-add',
      'cap_chown',
      '--security-opt',
      'no-new-privileges',
      'nodes',
      'sh',
      '-c',
      status.replace(" | tr -d '\\n'", ''),
    )
    t.equal(
      less.stdout,
      `CapEff:\t0000000000000001\nCapBnd:\t0000000000000001\nNoNewPrivs:\t1\nSeccomp:\t2\n`,
      less.stderr,
    )

    const profile = bench.path('profile.json')
    const rules = [{ names: ['mkdir', 'mkdirat'], action: 'SCMP_ACT_ERRNO', errnoRet: 28 }]
    writeFileSync(profile, JSON.stringify({ defaultAction: 'SCMP_ACT_ALLOW', syscalls: rules }))
    const own = lamina('--security-opt', `seccomp=${profile}`, 'nodes', 'sh', '-c', 'mkdir /new')
    t.match(own.stderr, /No space left/, 'a profile of one’s own')
    const without = lamina(
      '--security-opt',
      'seccomp=unconfined',
      'nodes',
      'grep',
      '^Seccomp:',
      '/proc/self/status',
    )
    t.equal(without.stdout, 'Seccomp:\t0\n', without.stderr)

    const device = lamina('--device', '/dev/fuse:/dev/other', 'nodes', 'sh', '-c', opens('/dev/other'))
    t.equal(device.stdout, 'open /dev/other\n', device.stderr)
    t.same(leftovers(bench.root), [])
  })

  t.test(`CVE-2024-21626 and what is inherited: no descriptor of the host's, ${name}`, { skip }, async t => {
    const bench = await withBox(t)
    const root = openSync('/', 'r')
    t.teardown(() => closeSync(root))
    const inherited: SpawnSyncReturns<string>[] = []
    const lamina = (...words: string[]): SpawnSyncReturns<string> => {
      // Descriptor 9 of the command is a directory of the host's.
      const stdio = ['ignore', 'pipe', 'pipe', ...Array<'ignore'>(6).fill('ignore'), root] as const
      const ran = spawnSync(process.execPath, [join(PROJECT, 'bin/lamina.js'), 'run', '--rm', ...words], {
        encoding: 'utf8',
        stdio: [...stdio],
        env: { ...process.env, LAMINA_ROOT: bench.root, ...env },
      })
      inherited.push(ran)
      return ran
    }
    const mark = bench.path('tree')
    for (const fd of [7, 9]) {
      const found = `for up in . .. ../.. ../../..; do ls -d $up${mark}; done 2>/dev/null; echo end`
      const { stdout } = lamina('-w', `/proc/self/fd/${fd}`, 'box', 'sh', '-c', found)
      t.notMatch(stdout, mark, `fd ${fd} as the working directory`)
    }
    const { stdout } = lamina('box', 'sh', '-c', `ls -d /proc/self/fd/*${mark} 2>/dev/null; echo end`)
    t.equal(stdout, 'end\n', 'nor is it open in the command')
    t.same(leftovers(bench.root), [])
  })

  t.test(
    `CVE-2019-5736: /proc/self/exe as the command changes nothing of the host's, ${name}`,
    { skip },
    async t => {
      const bench = await withBox(t)
      const programs = [
        process.execPath,
        '/usr/bin/crun',
        '/usr/sbin/runc',
        join(PROJECT, 'build/Release/lamina-enter'),
      ]
      const before = programs.map(path => statSync(path, { throwIfNoEntry: false })?.mtimeMs)
      symlinkSync('/proc/self/exe', join(bench.path('tree'), 'bin/self'))
      const store = await bench.open()
      await importRootfs(store, packTree(bench.path('tree')), { name: 'evil' })
      store.close()
      for (const words of [
        ['/bin/self', '-e', 'console.log(process.version)'],
        ['/proc/self/exe', '-p', '1+41'],
      ]) {
        const { stdout } = bench.laminaWith({ env }, 'run', '--rm', 'evil', ...words)
        t.notMatch(stdout, /^(v\d|42)/, 'Node of the host does not run in it')
      }
      const child = spawn(
        process.execPath,
        [join(PROJECT, 'bin/lamina.js'), 'run', '--rm', '--name', 'one', 'evil', 'sleep', '20'],
        {
          stdio: 'ignore',
          env: { ...process.env, LAMINA_ROOT: bench.root, ...env },
        },
      )
      const exec = (...words: string[]): SpawnSyncReturns<string> =>
        bench.laminaWith({ env }, 'exec', 'one', ...words)
      while (exec('true').status === 125 || child.exitCode !== null) if (child.exitCode !== null) break
      const { stdout } = exec('/bin/self', '-p', '1+41')
      t.notMatch(stdout, /^42/, 'nor with exec')
      bench.laminaWith({ env }, 'container', 'rm', '-f', 'one')
      t.same(
        programs.map(path => statSync(path, { throwIfNoEntry: false })?.mtimeMs),
        before,
      )
    },
  )
}

/** A terminal, whose input is looked at when the command has ended. Prints what came out, and whether anything was typed into it. */
const TERMINAL = `
import pty, os, sys, select, termios, time
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
sys.stdout.write(out.decode().replace('\\r\\n', '|'))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))`

t.test(
  'TIOCSTI and the keyring: nothing is typed into the terminal of the host',
  { skip: skip || lacking('python3') || lacking('cc') || false },
  async t => {
    const bench = await withBox(t)
    const source = bench.path('attack.c')
    writeFileSync(
      source,
      `#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(void) {
  for (int fd = 0; fd < 3; fd++) for (const char* c = "echo typed\\n"; *c; c++) if (ioctl(fd, TIOCSTI, c) == 0 && !*(c + 1)) printf("typed %d\\n", fd);
  char name[64] = ""; ssize_t n = readlink("/proc/self/fd/1", name, 63); (void)n;
  printf("%s sid %d\\n", name, getsid(0) == getpid());
  printf("session %ld\\n", syscall(SYS_keyctl, 0L, -3L, 0L));
  return 0;
}`,
    )
    run('cc', ['-static', '-o', join(bench.path('tree'), 'bin/attack'), source])
    const store = await bench.open()
    await importRootfs(store, packTree(bench.path('tree')), { name: 'evil' })
    store.close()
    const under = (...words: string[]): string =>
      spawnSync(
        'python3',
        ['-c', TERMINAL, process.execPath, join(PROJECT, 'bin/lamina.js'), 'run', '--rm', ...words],
        {
          encoding: 'utf8',
          timeout: 60_000,
          env: {
            ...process.env,
            LAMINA_ROOT: bench.root,
            LAMINA_RUNTIME: 'none',
            LAMINA_STORAGE_DRIVER: 'overlay2',
          },
        },
      ).stdout
    for (const options of [[], ['-i'], ['-it']]) {
      const said = under(...options, 'evil', '/bin/attack')
      t.match(
        said,
        options[0] === '-it'
          ? // Into the container's own it may.
            /\/dev\/pts\/0 sid 1\|session -1\|quiet\|$/
          : /^pipe:\[\d+\] sid 1\|session -1\|quiet\|$/,
        options.join(' '),
      )
    }
    const keys = readFileSync('/proc/keys', 'utf8')
    t.type(keys, 'string')
    t.same(leftovers(bench.root), [])
  },
)
