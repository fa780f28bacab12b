import t from 'tap'
import {
  expandHeredoc,
  expandWord,
  expandWords,
  parseContainerfile,
  parseDockerignore,
  parseDuration,
  readStep,
  splitWords,
  type BuildStep,
} from '../../src/oci/index.js'

const vars: Record<string, string> = { A: 'one', B: 'two words', EMPTY: '', PATHS: '/a/b/c.tar.gz' }
const lookup = (name: string): string | undefined => vars[name]

/** The steps of the first stage. */
function steps(text: string): BuildStep[] {
  const file = parseContainerfile(text)
  return (file.stages[0]?.instructions ?? []).map(instruction => readStep(instruction, lookup, file.escape))
}

t.test('words and variables, as buildkit has them', async t => {
  const cases: [string, string][] = [
    ['plain', 'plain'],
    ['$A', 'one'],
    ['${A}x', 'onex'],
    ['\\$A', '$A'],
    ["'$A'", '$A'],
    ['"$A b"', 'one b'],
    ['"\\$A"', '$A'],
    ['"a\\b"', 'a\\b'],
    ['$NOTHING-', '-'],
    ['${NOTHING:-def}', 'def'],
    ['${EMPTY:-def}', 'def'],
    ['${EMPTY-def}', ''],
    ['${A:+set}', 'set'],
    ['${NOTHING+set}', ''],
    ['${EMPTY+set}', 'set'],
    ['${NOTHING:-${A}-$B}', 'one-two words'],
    ['${NOTHING:-"q u"}', 'q u'],
    ['${PATHS#*/}', 'a/b/c.tar.gz'],
    ['${PATHS##*/}', 'c.tar.gz'],
    ['${PATHS%.*}', '/a/b/c.tar'],
    ['${PATHS%%.*}', '/a/b/c'],
    ['${PATHS/a/X}', '/X/b/c.tar.gz'],
    ['${PATHS//a/X}', '/X/b/c.tXr.gz'],
    ['a$', 'a$'],
    ['it\\ is', 'it is'],
    ['$A$A', 'oneone'],
    ['${A?must}', 'one'],
  ]
  for (const [text, expected] of cases) t.equal(expandWord(text, lookup), expected, text)
  t.equal(expandWord('C:\\dir`$A', lookup, '`'), 'C:\\dir$A')
  for (const bad of ['${A', '"open', "'open", '${}', '${A^^}', '${NOTHING:?must be set}', '${NOTHING?}']) {
    t.throws(() => expandWord(bad, lookup), { code: 'malformed' }, bad)
  }
  t.same(splitWords('a "b c" d\\ e \'f g\''), ['a', '"b c"', 'd\\ e', "'f g'"])
  t.same(expandWords('$B "$B" x', lookup), ['two', 'words', 'two words', 'x'])
  t.equal(expandHeredoc('$A "$B" \\$A ${A}\n', lookup), 'one "two words" $A one\n')
})

t.test('a file with stages, directives, comments and continuation lines', async t => {
  const file = parseContainerfile(`# syntax=docker/dockerfile:1
# a comment
ARG BASE=debian:12
FROM --platform=linux/arm64 \${BASE} AS Build
RUN apt-get update && \\
    # not part of it
\\
    apt-get install -y x \\
  && true

from build
`)
  t.equal(file.directives.get('syntax'), 'docker/dockerfile:1')
  t.equal(file.globalArgs.length, 1)
  t.equal(file.stages.length, 2)
  const [build, second] = file.stages
  t.match(build, { name: 'build', base: '${BASE}', platform: 'linux/arm64', index: 0 })
  t.match(second, { name: undefined, base: 'build', index: 1 })
  const run = build?.instructions[0]
  t.equal(run?.line, 5)
  t.equal(run?.args.replace(/\s+/g, ' '), 'apt-get update && apt-get install -y x && true')
})

t.test('every instruction becomes a typed step', async t => {
  t.same(
    steps(`FROM x
RUN --mount=type=cache,target=/c --network=none echo $A
RUN ["/bin/echo", "a b", "\\"q\\""]
CMD echo hi
CMD []
ENTRYPOINT ["a"]
ENV N=1 M="two $A" O=it\\ is
ENV OLD the rest of $A
LABEL "a b"=c d=e
ARG P Q=$A
WORKDIR /w/$A
USER \${A}:g
EXPOSE 80 53/udp 8000-8002
VOLUME /a "/b c"
VOLUME ["/x y"]
STOPSIGNAL SIGKILL
SHELL ["/bin/bash", "-c"]
HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f http://x
HEALTHCHECK NONE
MAINTAINER me
`),
    [
      {
        kind: 'run',
        mounts: [{ type: 'cache', id: '/c', source: '', target: '/c', readOnly: false, sharing: 'shared' }],
        network: 'none',
        security: 'sandbox',
        command: { shell: 'echo $A' },
      },
      {
        kind: 'run',
        mounts: [],
        network: 'default',
        security: 'sandbox',
        command: { exec: ['/bin/echo', 'a b', '"q"'] },
      },
      { kind: 'cmd', command: { shell: 'echo hi' } },
      { kind: 'cmd', command: { exec: [] } },
      { kind: 'entrypoint', command: { exec: ['a'] } },
      {
        kind: 'env',
        pairs: [
          ['N', '1'],
          ['M', 'two one'],
          ['O', 'it is'],
        ],
      },
      { kind: 'env', pairs: [['OLD', 'the rest of one']] },
      {
        kind: 'label',
        pairs: [
          ['a b', 'c'],
          ['d', 'e'],
        ],
      },
      {
        kind: 'arg',
        args: [
          { name: 'P', value: undefined },
          { name: 'Q', value: 'one' },
        ],
      },
      { kind: 'workdir', value: '/w/one' },
      { kind: 'user', value: 'one:g' },
      { kind: 'expose', ports: ['80/tcp', '53/udp', '8000/tcp', '8001/tcp', '8002/tcp'] },
      { kind: 'volume', paths: ['/a', '/b c'] },
      { kind: 'volume', paths: ['/x y'] },
      { kind: 'stopsignal', value: 'SIGKILL' },
      { kind: 'shell', command: ['/bin/bash', '-c'] },
      {
        kind: 'healthcheck',
        healthcheck: { test: ['CMD-SHELL', 'curl -f http://x'], interval: 90e9, retries: 3 },
      },
      { kind: 'healthcheck', healthcheck: { test: ['NONE'] } },
      { kind: 'maintainer', value: 'me' },
    ],
  )
})

t.test('COPY and ADD with their flags, JSON form and files given in place', async t => {
  const [plain, json, inline, add] = steps(`FROM x
COPY --from=build --chown=1:$A --chmod=755 --link a b$A /dest/
COPY ["a b", "/d"]
COPY <<EOF <<-'RAW' /etc/
hello $A
EOF
	raw $A
	RAW
ADD --checksum=sha256:aa --keep-git-dir=true --exclude=*.md --exclude=x https://x/y.tar /z
`)
  const none = { inline: [], link: false, parents: false, keepGitDir: false, exclude: [] }
  t.same(plain, {
    ...none,
    kind: 'copy',
    sources: ['a', 'bone'],
    destination: '/dest/',
    from: 'build',
    chown: '1:one',
    chmod: '755',
    link: true,
  })
  t.same(json, { ...none, kind: 'copy', sources: ['a b'], destination: '/d' })
  t.same(inline, {
    ...none,
    kind: 'copy',
    sources: [],
    destination: '/etc/',
    inline: [
      { name: 'EOF', content: 'hello one\n' },
      { name: 'RAW', content: 'raw $A\n' },
    ],
  })
  t.same(add, {
    ...none,
    kind: 'add',
    sources: ['https://x/y.tar'],
    destination: '/z',
    checksum: 'sha256:aa',
    keepGitDir: true,
    exclude: ['*.md', 'x'],
  })
})

t.test('RUN with heredocs: a script of its own, or fed to a command', async t => {
  const [script, fed] = steps(`FROM x
RUN <<EOF
set -e
echo $A
EOF
RUN cat <<A - <<'B' && true
one
A
two
B
`)
  const usual = { kind: 'run', mounts: [], network: 'default', security: 'sandbox' }
  t.same(script, { ...usual, command: { shell: 'set -e\necho $A\n' } })
  t.same(fed, { ...usual, command: { shell: "cat <<A - <<'B' && true\none\nA\ntwo\nB" } })
  const [own] = steps('FROM x\nRUN <<-"E.x"\n\t#!/bin/awk -f\n\tBEGIN { print $A }\n\tE.x\n')
  t.same(own, {
    ...usual,
    command: { shell: '/dev/pipes/E.x' },
    script: { name: 'E.x', content: '#!/bin/awk -f\nBEGIN { print $A }\n' },
  })
})

t.test('the lines of a heredoc are no instructions, whatever they look like', async t => {
  const [fed, next] = steps(
    'FROM x\nRUN <<EOF 3<<IN1 awk \\\n  # a comment\n  -f -\nprint \\\nEOF\nRUN no <<X\n# none\nIN1\nRUN yes\n',
  )
  t.match(fed, {
    command: { shell: /^<<EOF 3<<IN1 awk +-f -\nprint \\\nEOF\nRUN no <<X\n# none\nIN1$/ },
  })
  t.match(next, { command: { shell: 'yes' } })
})

t.test('ONBUILD carries an instruction', async t => {
  const [step] = steps('FROM x\nONBUILD COPY a b\n')
  t.match(step, { kind: 'onbuild', text: 'COPY a b', trigger: { keyword: 'COPY', args: 'a b', line: 2 } })
  t.throws(() => steps('FROM x\nONBUILD FROM y\n'), { code: 'malformed' })
})

t.test('mistakes name their line', async t => {
  const wrong: [string, RegExp][] = [
    ['', /no FROM/],
    ['RUN x\nFROM a', /^line 1: RUN before FROM/],
    ['FROM a\n\nNONSENSE x', /^line 3: unknown instruction/],
    ['FROM a b', /^line 1: /],
    ['FROM a AS b\nFROM c AS B', /^line 2: .*second stage/],
    ['FROM a\nCOPY x', /^line 2: COPY: .*destination/],
    ['FROM a\nCOPY --nope a b', /^line 2: COPY: .*--nope/],
    ['FROM a\nENV X', /^line 2: ENV: .*no value/],
    ['FROM a\nENV A=1 B', /^line 2: ENV: /],
    ['FROM a\nRUN', /^line 2: RUN: needs/],
    ['FROM a\nSHELL /bin/sh', /^line 2: SHELL: .*JSON/],
    ['FROM a\nEXPOSE x', /^line 2: EXPOSE: .*port/],
    ['FROM a\nEXPOSE 70000', /^line 2: EXPOSE: .*port/],
    ['FROM a\nHEALTHCHECK --interval=1x CMD a', /^line 2: HEALTHCHECK: .*duration/],
    ['FROM a\nWORKDIR ${X', /^line 2: WORKDIR: /],
    ['FROM a\nCOPY <<EOF /x\nnever ends', /^line 2: .*unterminated heredoc/],
  ]
  for (const [text, message] of wrong) t.throws(() => steps(text), { name: 'OciError', message }, text)
})

t.test('the escape directive, CRLF and a byte order mark', async t => {
  const file = parseContainerfile('\ufeff# escape=`\r\nFROM x\r\nRUN a `\r\n  b\r\nWORKDIR C:\\x\r\n')
  t.equal(file.escape, '`')
  const [run, workdir] = file.stages[0]?.instructions ?? []
  t.equal(run?.args, 'a   b')
  t.same(readStep(workdir as NonNullable<typeof workdir>, lookup, '`'), { kind: 'workdir', value: 'C:\\x' })
})

t.test('durations of Go', async t => {
  t.equal(parseDuration('1h2m3s4ms'), 3_723_004_000_000)
  t.equal(parseDuration('0.5s'), 500_000_000)
  t.equal(parseDuration('0'), 0)
  t.equal(parseDuration('5'), undefined)
  t.equal(parseDuration('x'), undefined)
})

t.test('.dockerignore is docker’s, not git’s', async t => {
  const cases: [rules: string, ignored: string[], kept: string[]][] = [
    ['*.md\n!README.md', ['a.md'], ['README.md', 'sub/a.md']],
    ['**/*.md', ['a.md', 'a/b/c.md'], ['a.txt']],
    ['/foo', ['foo', 'foo/bar'], ['x/foo']],
    ['node_modules', ['node_modules', 'node_modules/a'], ['x/node_modules']],
    ['*/temp*', ['a/temp1'], ['temp', 'a/b/temp']],
    ['*\n!src', ['x'], ['src', 'src/a']],
    ['# comment\n\n  foo?  ', ['foo1'], ['foo', '# comment']],
    ['./a/../b/', ['b', 'b/c'], ['a']],
    ['*\n!a/b', ['a/c', 'x'], ['a/b']],
    ['', [], ['anything']],
  ]
  for (const [text, ignored, kept] of cases) {
    const rules = parseDockerignore(text)
    for (const path of ignored) t.ok(rules.matches(path), `${JSON.stringify(text)} ignores ${path}`)
    for (const path of kept) t.notOk(rules.matches(path), `${JSON.stringify(text)} keeps ${path}`)
  }
})
