import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { readFileSync } from 'node:fs'
import t from 'tap'
import { Bench, isRoot, lacking, leftovers, run } from './fixture.js'

/** `lamina build`: what instructions make of files and config, and what comes from the cache. */

const skip = !isRoot && 'needs root'

/** A root filesystem that can run sh, made of this host's own programs and their libraries. */
function shellImage(bench: Bench): void {
  const root = bench.path('shell')
  const script = `
    set -e; mkdir -p "$1/bin" "$1/etc" "$1/tmp"; cp "$(readlink -f /bin/sh)" "$1/bin/sh"
    for p in cat id ls mkdir rm touch env; do cp "$(command -v $p)" "$1/bin/$p"; done
    for f in "$1"/bin/*; do ldd "$f" | grep -o '/[^ ]*' | while read -r l; do mkdir -p "$1$(dirname "$l")"; cp -n "$(readlink -f "$l")" "$1$l"; done; done
    printf 'root:x:0:0:root:/root:/bin/sh\\nweb:x:33:34::/srv:/bin/sh\\n' > "$1/etc/passwd"; printf 'root:x:0:\\nwww:x:34:\\nextra:x:55:web\\n' > "$1/etc/group"`
  run('sh', ['-c', script, 'sh', root])
  bench.run('image', 'import', '-c', 'ENV PATH=/bin', root, 'shell')
}

for (const runtime of ['default', 'none']) {
  void t.test(`RUN (runtime: ${runtime})`, { skip }, async t => {
    const bench = new Bench(t)
    shellImage(bench)
    const env = runtime === 'none' ? { LAMINA_RUNTIME: 'none' } : {}
    const build = (file: string, ...more: string[]): ReturnType<Bench['lamina']> =>
      bench.laminaWith({ input: file, env }, 'build', '-t', 'out', ...more, '-')
    const cat = (path: string): string => {
      const at = bench.run('image', 'mount', 'out').trim()
      const text = readFileSync(join(at, path), 'utf8')
      bench.run('image', 'umount', 'out')
      return text
    }

    await t.test('runs with the environment, directory and user that the file says', t => {
      const made = build(
        'FROM shell\nARG WHO=you\nENV HI="hello $WHO"\nWORKDIR /srv/w\nRUN echo "$HI $PWD $WHO" > out; id >> out; chmod 777 . 2>/dev/null || true\nRUN touch mine && ls /proc/1/exe >/dev/null\nUSER web\nRUN id -u > /tmp/who; id -G >> /tmp/who; echo $HOME >> /tmp/who'
          .replace('chmod 777 . 2>/dev/null || true', 'true')
          .replace('RUN touch mine', 'RUN mkdir -p /tmp && touch mine')
          .replace('/tmp/who; id -G', '/tmp/who; id -G'),
      )
      t.equal(made.status, 1, 'web may not write to /tmp of mode 755')
      const open = build(
        'FROM shell\nARG WHO=you\nENV HI="hello $WHO"\nWORKDIR /srv/w\nRUN echo "$HI $PWD $WHO" > out; id -u >> out\nCOPY --chown=web <<EOF /tmp/who\nEOF\nUSER web\nRUN id -u > /tmp/who; id -G >> /tmp/who; echo $HOME >> /tmp/who',
      )
      t.equal(open.status, 0, open.stderr)
      t.equal(cat('srv/w/out'), 'hello you /srv/w you\n0\n')
      t.equal(cat('tmp/who'), '33\n34 55\n/srv\n')
      t.end()
    })

    await t.test('what it only needed to run is not in the layer', t => {
      build('FROM shell\nRUN touch /x')
      t.equal(bench.run('image', 'diff', 'shell', 'out').trim(), 'A /x')
      t.end()
    })

    await t.test('a failure shows its output, names the line, and leaves no layer', t => {
      const before = bench.run('layer', 'ls', '-q')
      const failed = build(
        'FROM shell\nRUN echo the-output; echo the-error >&2; touch /x; exit 7',
        '--no-cache',
      )
      t.equal(failed.status, 1)
      t.match(failed.stdout, /the-output/)
      t.match(failed.stdout + failed.stderr, /the-error/)
      t.match(failed.stderr, /^lamina: line 2: RUN .* ended with 7\n$/)
      t.equal(bench.run('layer', 'ls', '-q'), before)
      t.same(leftovers(bench.root), [])
      t.end()
    })

    await t.test('mounts: cache stays between builds, secret and tmpfs leave nothing', t => {
      const secret = bench.path('secret')
      writeFileSync(secret, 'hush')
      const file = (text: string): string =>
        `FROM shell\nRUN --mount=type=cache,target=/cache --mount=type=secret,id=key --mount=type=tmpfs,target=/scratch ls /cache > /listing; cat /run/secrets/key >> /listing; echo ${text} > /cache/${text}; touch /scratch/f`
      const options = ['--secret', `id=key,src=${secret}`]
      t.equal(build(file('one'), ...options).status, 0)
      const second = build(file('two'), ...options)
      t.equal(second.status, 0, second.stderr)
      t.equal(cat('listing'), 'one\nhush')
      t.equal(bench.run('image', 'diff', 'shell', 'out').trim(), 'A /listing')
      t.end()
    })
  })
}

void t.test('COPY and ADD: names, owners, modes, archives, ignored files, heredocs', { skip }, t => {
  const bench = new Bench(t)
  bench.run(
    'image',
    'import',
    bench.tree('base', {
      'etc/passwd': 'web:x:33:34::/:/x\n',
      'etc/group': 'www:x:34:\n',
      'opt/there/old': 'o',
    }),
    'base',
  )
  const context = bench.tree('context', {
    'a.txt': 'a',
    'b.txt': 'b',
    'dir/in/x': 'x',
    'dir/skip.log': 's',
    'keep.log': 'k',
    '.dockerignore': '*.log\n**/*.log\n!keep.log\n',
  })
  run('sh', [
    '-c',
    'cd "$1" && ln -s a.txt link && tar -czf arch.tgz -C dir . && chmod 700 b.txt && printf "not a tar" > plain.tgz',
    'sh',
    context,
  ])
  writeFileSync(
    join(context, 'Containerfile'),
    `FROM base
COPY *.txt /many/
COPY a.txt /opt/there
COPY a.txt /renamed
COPY --chown=web:www --chmod=0640 a.txt /owned
COPY dir keep.log /dir/
COPY link /followed
ADD arch.tgz /unpacked
ADD plain.tgz /plain/
COPY <<-'EOF' /script
	no $expansion
	EOF
`,
  )
  bench.run('build', '-t', 'out', context)
  const at = bench.run('image', 'mount', 'out').trim()
  const find = run('sh', [
    '-c',
    'cd "$1" && find . -mindepth 1 -type f -printf "%P %m %U:%G %s\\n" | sort',
    'sh',
    at,
  ])
  bench.run('image', 'umount', 'out')
  t.same(
    find
      .trim()
      .split('\n')
      .filter(line => !line.startsWith('etc/')),
    [
      'dir/in/x 644 0:0 1',
      'dir/keep.log 644 0:0 1',
      'followed 644 0:0 1',
      'many/a.txt 644 0:0 1',
      'many/b.txt 700 0:0 1',
      'opt/there/a.txt 644 0:0 1',
      'opt/there/old 644 0:0 1',
      'owned 640 33:34 1',
      'plain/plain.tgz 644 0:0 9',
      'renamed 644 0:0 1',
      'script 644 0:0 14',
      'unpacked/in/x 644 0:0 1',
      'unpacked/skip.log 644 0:0 1',
    ],
  )
  const missing = bench.laminaWith(
    { cwd: context, input: 'FROM base\nCOPY nope /x\n' },
    'build',
    '-f',
    '-',
    '.',
  )
  t.match(missing.stderr, /'nope' is not in the build context/)
  const escape = bench.laminaWith(
    { cwd: context, input: 'FROM base\nCOPY ../secret /x\n' },
    'build',
    '-f',
    '-',
    '.',
  )
  t.match(escape.stderr, /'\.\.\/secret' is not in the build context/, 'the context is its own root')
  t.end()
})

void t.test(
  'the cache: unchanged steps are CACHED, a change reaches what stands on it and nothing else',
  { skip },
  t => {
    const bench = new Bench(t)
    const context = bench.tree('context', {
      Containerfile:
        'FROM scratch AS one\nCOPY a /a\nCOPY b /b\nENV X=1\nFROM scratch\nCOPY --from=one /a /c\nLABEL l=1\n',
      a: 'a',
      b: 'b',
    })
    const cached = (...options: string[]): string[] => {
      const lines = bench.run('build', '-t', 'out', ...options, context).split('\n')
      return lines.flatMap((line, i) =>
        line.includes('CACHED') ? [(lines[i - 1] ?? '').replace(/^STEP \S+ /, '')] : [],
      )
    }
    t.same(cached(), [])
    const id = bench.run('image', 'inspect', '--format', '{{.id}}', 'out')
    t.same(cached(), ['COPY a /a', 'COPY b /b', 'ENV X=1', 'COPY --from=one /a /c', 'LABEL l=1'])
    t.equal(bench.run('image', 'inspect', '--format', '{{.id}}', 'out'), id, 'the image is the same one')
    writeFileSync(join(context, 'b'), 'changed')
    // What is copied from stage one is the same as before, so what stands on it is too.
    t.same(cached(), ['COPY a /a', 'LABEL l=1'])
    t.same(cached('--no-cache'), [])
    run('touch', [join(context, 'a')])
    t.ok(cached().includes('COPY a /a'), 'times do not count')
    t.match(bench.run('system', 'prune', '--dry-run'), /Build steps: /)
    bench.run('system', 'prune')
    t.same(cached(), [], 'prune empties the cache')
    t.end()
  },
)

void t.test(
  'config: every instruction as podman writes it',
  { skip: skip || lacking('skopeo') || false },
  t => {
    const bench = new Bench(t)
    const context = bench.tree('context', {
      Containerfile: `FROM scratch
ARG PORT=80
ENV A=1 B="two words" C=$A
LABEL "some key"="some value" other=$B
EXPOSE $PORT 53/udp
VOLUME /data ["x"]
USER 1000:2000
WORKDIR /w
WORKDIR sub
SHELL ["/bin/other", "-e"]
CMD echo hi
ENTRYPOINT ["/e", "x"]
STOPSIGNAL SIGUSR1
ONBUILD RUN echo triggered
`.replace('VOLUME /data ["x"]', 'VOLUME ["/data", "/more"]'),
    })
    bench.run('build', '-t', 'out', context)
    bench.run('image', 'save', '-o', bench.path('out.tar'), 'out')
    const ours = JSON.parse(bench.run('image', 'inspect', '--format', '{{json .config}}', 'out')) as Record<
      string,
      unknown
    >
    t.same(ours, {
      Env: ['A=1', 'B=two words', 'C='],
      Labels: { 'some key': 'some value', other: 'two words' },
      ExposedPorts: { '80/tcp': {}, '53/udp': {} },
      Volumes: { '/data': {}, '/more': {} },
      User: '1000:2000',
      WorkingDir: '/w/sub',
      Shell: ['/bin/other', '-e'],
      Cmd: ['/bin/other', '-e', 'echo hi'],
      Entrypoint: ['/e', 'x'],
      StopSignal: 'SIGUSR1',
      OnBuild: ['RUN echo triggered'],
    })
    const raw = JSON.parse(
      run('skopeo', ['inspect', '--config', `docker-archive:${bench.path('out.tar')}`]),
    ) as { config: { WorkingDir: string } }
    t.equal(raw.config.WorkingDir, '/w/sub', 'and other tools read it')
    t.end()
  },
)

for (const driver of ['overlay2', 'fuse', 'vfs']) {
  void t.test(`a layer that is in the stack twice (${driver})`, { skip }, t => {
    const bench = new Bench(t)
    const env = { LAMINA_STORAGE_DRIVER: driver }
    const context = bench.tree('context', {
      Containerfile: 'FROM scratch\nCOPY a /d/f\nCOPY b /d/f\nCOPY a /d/f\nCOPY b /other\nWORKDIR /w\n',
      a: 'first',
      b: 'second',
    })
    // Times out of the way: the same file is the same layer.
    run('touch', ['-d', '2020-01-01', join(context, 'a'), join(context, 'b')])
    const built = bench.laminaWith(
      { env: { ...env, SOURCE_DATE_EPOCH: '1000000000' } },
      'build',
      '-t',
      'out',
      context,
    )
    t.equal(built.status, 0, built.stderr)
    const shown = bench.run('image', 'inspect', '--format', '{{json .layers}}', 'out')
    const layers = [...shown.matchAll(/"diffId": ?"(\S+?)"/g)].map(match => match[1])
    t.ok(new Set(layers).size < layers.length, `${layers.length} layers, of which some are the same`)
    const at = bench.laminaWith({ env }, 'image', 'mount', 'out').stdout.trim()
    t.equal(readFileSync(join(at, 'd/f'), 'utf8'), 'first')
    t.equal(readFileSync(join(at, 'other'), 'utf8'), 'second')
    bench.run('image', 'umount', 'out')
    const other = new Bench(t)
    bench.run('image', 'save', '-o', bench.path('out.tar'), 'out')
    other.run('image', 'load', bench.path('out.tar'))
    t.equal(other.run('image', 'ls', '-q'), bench.run('image', 'ls', '-q'))
    t.end()
  })
}
