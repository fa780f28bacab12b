import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import t from 'tap'
import { skipBox, withBox } from './box-image.js'
import { lacking, leftovers, PROJECT, run, type Bench } from './fixture.js'

/** RUN of `lamina build`: what its mounts show, heredocs, caches, secrets, agents. */

const skip = skipBox

const RUNTIMES = ['crun', 'runc', 'none'].filter(name => name === 'none' || lacking(name) === undefined)

interface Built {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

function build(bench: Bench, file: string, ...more: string[]): Built {
  return bench.laminaWith({ input: file }, 'build', '-t', 'out', ...more, '-')
}

/** As {@link build}, with this process free meanwhile. */
async function building(
  bench: Bench,
  dir: string,
  env: NodeJS.ProcessEnv,
  ...more: string[]
): Promise<Built> {
  const args = [join(PROJECT, 'bin/lamina.js'), 'build', '--no-cache', ...more, dir]
  const child = spawn(process.execPath, args, {
    env: { ...process.env, LAMINA_ROOT: bench.root, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const said = { stdout: '', stderr: '' }
  child.stdout.on('data', data => (said.stdout += String(data)))
  child.stderr.on('data', data => (said.stderr += String(data)))
  const [status] = (await once(child, 'close')) as [number | null]
  return { status, ...said }
}

/** What steps printed, without the lines of the builder. */
function printed({ stdout }: Built): string {
  return stdout
    .split('\n')
    .filter(line => !/^(STEP |sha256:| {2}CACHED)/.test(line))
    .join('\n')
}

void t.test('a context that is named by a relative path is bound', { skip }, async t => {
  const bench = await withBox(t)
  const dir = bench.tree('ctx', {
    'a/f': 'text\n',
    'b.txt': 'other\n',
    Containerfile: `FROM box
WORKDIR /w
RUN --mount=target=/src cat /src/a/f; stat -c %u:%g:%a /src/a/f
RUN --mount=type=bind,source=a/f,target=f --mount=source=b.txt,target=/w/b.txt,readonly cat f b.txt; ! echo x 2>/dev/null > f
RUN ls -A /w
`,
  })
  chmodSync(join(dir, 'a/f'), 0o600)
  run('chown', ['-R', '1234:1234', dir])
  for (const [cwd, name] of [
    [dir, '.'],
    [bench.dir, 'ctx'],
  ] as const) {
    const made = bench.laminaWith({ cwd }, 'build', '--no-cache', name)
    t.equal(made.status, 0, made.stderr)
    // All is root's, as COPY makes it, and what was mounted on is gone.
    t.equal(printed(made).replace(/^.*Read-only file system\n/m, ''), 'text\n0:0:600\ntext\nother\n')
  }
  t.same(leftovers(bench.root), [])
})

void t.test('.dockerignore hides in binds, and what it hides is in no cache key', { skip }, async t => {
  const bench = await withBox(t)
  const dir = bench.tree('ctx', {
    Containerfile: 'FROM box\nRUN --mount=target=/src cd /src && echo * d/* && cat seen\n',
    '.dockerignore': 'hidden\nd\n!d/kept\ne\n.dockerignore\n',
    seen: '1\n',
    hidden: 'x',
    'd/kept': 'k',
    'd/gone': 'g',
    'e/f': 'f',
  })
  const first = bench.lamina('build', dir)
  t.equal(printed(first), 'Containerfile d seen d/kept\n1\n', first.stderr)
  writeFileSync(join(dir, 'hidden'), 'changed')
  writeFileSync(join(dir, 'd/gone'), 'changed')
  t.match(bench.lamina('build', dir).stdout, / {2}CACHED/)
  writeFileSync(join(dir, 'd/kept'), 'changed')
  t.notMatch(bench.lamina('build', dir).stdout, / {2}CACHED/)
})

void t.test('heredocs: scripts, with an interpreter of their own, several', { skip }, async t => {
  const bench = await withBox(t)
  const file = String.raw`FROM box
RUN <<EOF
set -e
A=1; echo "plain $A"
EOF
RUN <<-"E_2"
	#!/bin/cat
	it is $ITSELF
	E_2
RUN cat <<A - <<'B' && echo done
one $COLOUR
A
two $COLOUR
B
RUN <<EOF cat
fed
EOF
RUN <<EOF
#!/bin/sh
echo $0; ! echo x 2>/dev/null > $0; exit 3
EOF
`
  for (const runtime of RUNTIMES) {
    const options = { input: file, env: { LAMINA_RUNTIME: runtime } }
    const made = bench.laminaWith(options, 'build', '--no-cache', '-')
    t.equal(made.status, 1)
    t.equal(
      printed(made).replace(/^.*Read-only file system\n/m, ''),
      'plain 1\n#!/bin/cat\nit is $ITSELF\ntwo $COLOUR\ndone\nfed\n/dev/pipes/EOF\n',
      runtime,
    )
    t.match(made.stderr, /^lamina: line 18: RUN \/bin\/sh -c \/dev\/pipes\/EOF ended with 3\n$/)
  }
  const onbuild = build(bench, 'FROM box\nONBUILD RUN <<EOF\necho triggered\nEOF\nRUN echo now\n')
  t.equal(onbuild.status, 0, onbuild.stderr)
  t.equal(printed(onbuild), 'now\n')
  t.equal(printed(build(bench, 'FROM out\n')), 'triggered\n')
})

void t.test('a secret is a file on a tmpfs or a variable, and is left nowhere', { skip }, async t => {
  const bench = await withBox(t)
  const token = `t0ken${process.pid}`
  const dir = bench.tree('ctx', {
    Containerfile: `FROM box
RUN --mount=type=secret,id=a,env=TOK --mount=type=secret,id=a,target=/run/a,mode=0440,uid=33,gid=34 --mount=type=secret,id=f [ "$(cat /run/a)" = "$TOK" ] && echo same; stat -c %a:%u:%g /run/a /run/secrets/f; stat -f -c %T /run/a
RUN --mount=type=secret,id=none --mount=type=secret,id=none,env=NONE ls /run/secrets 2>/dev/null; echo "[$NONE]"
RUN --mount=type=secret,id=a,env=TOK,target=/s touch /hold; while ! [ -e /go ]; do sleep 0.1; done; false
`,
    f: 'file\n',
  })
  const secrets = ['--secret', 'id=a,env=SECRET', '--secret', `id=f,src=${dir}/f`]
  const child = building(bench, dir, { SECRET: token }, ...secrets)
  // The third step waits: nothing on disk has the secret while it runs.
  const root = await heldIn(join(bench.root, 'scratch'))
  const found = (...more: string[]): string =>
    run('sh', ['-c', 'find "$1" $3 -type f -exec grep -l "$2" {} +; true', 'sh', bench.root, token, ...more])
  t.equal(found('-xdev'), '')
  writeFileSync(join(root, 'go'), '')
  const made = await child
  t.equal(made.status, 1)
  t.equal(printed(made), 'same\n440:33:34\n400:0:0\ntmpfs\n[]\n')
  t.notMatch(made.stderr, new RegExp(token))
  t.equal(found(), '', 'after it, too')

  await t.test('where it comes from', async t => {
    const file = 'FROM box\nRUN --mount=type=secret,id=S,required,target=/s cat /s; echo\n'
    const one = bench.tree('one', { Containerfile: file, S: 'of the file' })
    const env = { S: 'of the variable' }
    t.equal(printed(await building(bench, one, env, '--secret', 'id=S')), 'of the variable\n')
    const typed = await building(bench, one, env, '--secret', 'type=env,id=S,src=LAMINA_ROOT')
    t.equal(printed(typed), `${bench.root}\n`)
    t.equal(
      printed(bench.laminaWith({ cwd: one }, 'build', '--no-cache', '--secret', 'id=S', '.')),
      'of the file\n',
    )
    for (const [words, message] of [
      [[], /line 2: the build needs the secret 'S': give it with --secret id=S,src=FILE/],
      [['--secret', 'id=S,env=NOT_SET'], /--secret id=S,env=NOT_SET: the variable NOT_SET is not set/],
      [['--secret', 'id=S,src=/nowhere'], /cannot read \/nowhere/],
      [['--secret', 'src=x'], /there is no id/],
    ] as const) {
      const { status, stderr } = bench.lamina('build', '--no-cache', ...words, one)
      t.ok(status === 1 || status === 2)
      t.match(stderr, message)
    }
  })
  t.same(leftovers(bench.root), [])
})

/** The tree of the step that has made the file `hold`. */
async function heldIn(scratch: string): Promise<string> {
  for (;;) {
    for (const name of readdirSync(scratch)) {
      const root = join(scratch, name, 'merged')
      try {
        if (readdirSync(root).includes('hold')) return root
      } catch {
        // not this one, or not yet
      }
    }
    await wait(20)
  }
}

void t.test('caches: owners, sources, what they begin with', { skip }, async t => {
  const bench = await withBox(t)
  const made = build(
    bench,
    `FROM box AS base
RUN mkdir -p /seed/in && echo seeded > /seed/in/f && chown -R web /seed
FROM box
RUN --mount=type=cache,target=/c stat -c %a:%u:%g /c; echo one > /c/f
RUN --mount=type=cache,target=/c,uid=33,gid=34,mode=0700 stat -c %a:%u:%g /c; ls /c
RUN --mount=type=cache,id=/c,target=/d,readonly cat /d/f; ! touch /d/x 2>/dev/null
RUN --mount=type=cache,from=base,source=/seed,target=/s cat /s/in/f; stat -c %u /s/in; echo more > /s/g
RUN --mount=type=cache,id=/s,from=base,source=/seed,target=/t ls /t
RUN --mount=type=cache,id=/s,target=/s ls /s; ls -d /c /d /t /seed 2>/dev/null; true
RUN --mount=type=bind,from=base,source=/seed,target=/s ls /s
`,
  )
  t.equal(made.status, 0, made.stderr)
  t.equal(printed(made), '755:0:0\n700:33:34\none\nseeded\n33\ng\nin\nin\n')
  t.same(leftovers(bench.root), [])
})

void t.test('caches: two builds at once', { skip }, async t => {
  const bench = await withBox(t)
  /** Leaves its name, waits for the other's for a while, and says what it saw. */
  const context = (name: string, sharing: string, other: string): string =>
    bench.tree(`${name}-${sharing}`, {
      Containerfile: `FROM box
RUN --mount=type=cache,id=${sharing},target=/c,sharing=${sharing} touch /c/${name}; n=0; while [ $n -lt 20 ] && ! [ -e /c/${other} ]; do sleep 0.1; n=$((n+1)); done; ls /c
`,
    })
  const both = async (sharing: string): Promise<string[]> => {
    const dirs = [context('a', sharing, 'b'), context('b', sharing, 'a')]
    const builds = await Promise.all(dirs.map(dir => building(bench, dir, {})))
    for (const { status, stderr } of builds) t.equal(status, 0, stderr)
    return builds
      .map(made => printed(made).replaceAll('\n', ' ').trim())
      .sort((a, b) => a.length - b.length || (a < b ? -1 : 1))
  }
  const [first, second] = await both('locked')
  t.equal(first?.length, 1, 'the first is alone')
  t.equal(second, 'a b', 'the second has what it left')
  t.same(await both('private'), ['a', 'b'], 'each has its own')
  t.same(leftovers(bench.root), [])
})

void t.test(
  'a cache is free again after kill -9 of its build, whose command is ended first',
  { skip },
  async t => {
    const bench = await withBox(t)
    const seconds = `${20_000 + (process.pid % 50_000)}.5`
    const cache = '--mount=type=cache,id=k,target=/c,sharing=locked'
    const script = `touch /c/first; exec sleep ${seconds}`
    const dir = bench.tree('first', { Containerfile: `FROM box\nRUN ${cache} ${script}\n` })
    const second = bench.tree('second', { Containerfile: `FROM box\nRUN ${cache} ls /c\n` })
    const running = (): boolean => run('ps', ['-eo', 'args']).split('\n').includes(`sleep ${seconds}`)
    const child = bench.start('build', dir)
    while (!running()) await wait(20)
    const waiting = building(bench, second, {})
    // It waits where it has made its own scratch directory beside the first one's.
    while (readdirSync(join(bench.root, 'scratch')).filter(name => name !== 'empty').length < 2)
      await wait(20)
    child.kill('SIGKILL')
    const made = await waiting
    t.equal(printed(made), 'first\n', made.stderr)
    t.notOk(running())
    t.same(leftovers(bench.root), [])
  },
)

const ssh = lacking('ssh-agent') ?? lacking('ssh-keygen') ?? false

void t.test('an agent: a socket of the step’s own leads to it', { skip: skip || ssh }, async t => {
  const bench = await withBox(t)
  const added = bench.path('ssh-add')
  const copy = `mkdir -p "$1/usr/bin"; cp "$(command -v ssh-add)" "$1/usr/bin"
    ldd "$1/usr/bin/ssh-add" | grep -o '/[^ ]*' | while read -r l; do mkdir -p "$1$(dirname "$l")"; cp "$(readlink -f "$l")" "$1$l"; done`
  run('sh', ['-ec', copy, 'sh', added])
  bench.run('build', '-t', 'ssh', '-f', bench.tree('f', { f: 'FROM box\nCOPY . /\n' }) + '/f', added)
  const [key, socket] = ['key', 'agent'].map(name => bench.path(name)) as [string, string]
  run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', 'the-key', '-f', key])
  const agent = spawn('ssh-agent', ['-D', '-a', socket], { stdio: 'ignore' })
  t.teardown(() => agent.kill())
  while (!existsSync(socket)) await wait(20)
  run('env', [`SSH_AUTH_SOCK=${socket}`, 'ssh-add', '-q', key])
  const dir = bench.tree('ctx', {
    Containerfile: `FROM ssh
RUN --mount=type=ssh,uid=33,mode=0660 stat -c %F:%a:%u "$SSH_AUTH_SOCK"; echo $SSH_AUTH_SOCK; ssh-add -l
RUN --mount=type=ssh,id=other,target=/s echo "[$SSH_AUTH_SOCK]"; ls /s 2>/dev/null; true
RUN --mount=type=ssh,id=other,required true
`,
  })
  for (const runtime of RUNTIMES) {
    const env = { SSH_AUTH_SOCK: socket, LAMINA_RUNTIME: runtime }
    const made = await building(bench, dir, env, '--ssh', 'default')
    t.match(
      printed(made),
      /^socket:660:33\n\/run\/buildkit\/ssh_agent.0\n256 SHA256:\S+ the-key \(ED25519\)\n\[\]\n$/,
      `${runtime}: ${made.stderr}`,
    )
    t.match(
      made.stderr,
      /^lamina: line 4: the build needs the SSH agent 'other': give it with --ssh other=SOCKET\n$/,
    )
  }
  const none = bench.laminaWith({ env: { SSH_AUTH_SOCK: '' } }, 'build', '--ssh', 'default', dir)
  t.match(none.stderr, /^lamina: --ssh default: there is no agent: SSH_AUTH_SOCK is not set\n$/)

  await t.test('keys are held by ssh-agent, as long as the build lasts', async t => {
    const file = 'FROM ssh\nRUN --mount=type=ssh,id=git,target=/s SSH_AUTH_SOCK=/s ssh-add -l\n'
    const keyed = bench.tree('keys', { Containerfile: file })
    const made = await building(bench, keyed, {}, '--ssh', `git=${key}`)
    t.match(printed(made), /the-key/, made.stderr)
    writeFileSync(bench.path('bad'), 'no key')
    const bad = await building(bench, keyed, {}, '--ssh', `git=${bench.path('bad')}`)
    t.match(bad.stderr, /line 2: ssh-agent does not take the key .*bad/)
    t.equal(bad.stderr.split('\n').length, 2)
  })
  t.notMatch(run('ps', ['-eo', 'args']), /ssh-agent -a \/proc/)
  t.same(leftovers(bench.root), [])
})
