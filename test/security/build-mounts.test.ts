import { existsSync, lstatSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { skipBox, withBox } from '../manager/box-image.js'
import { lacking, leftovers, type Bench } from '../manager/fixture.js'

/**
 * `RUN --mount` of a hostile Containerfile, stage, image or context: the host's files are neither read nor written.
 * CVE-2024-1753, CVE-2024-9407, CVE-2024-9675, CVE-2024-11218 (Buildah), CVE-2024-23651 to 23653 (BuildKit).
 */

/** A directory of the host that nothing in a build may reach, and the file in it. */
function hostDir(bench: Bench): { dir: string; untouched: () => boolean } {
  const dir = bench.path('host')
  mkdirSync(`${dir}/sub`, { recursive: true })
  writeFileSync(`${dir}/secret`, 'HOSTSECRET')
  writeFileSync(`${dir}/empty`, '')
  const untouched = (): boolean =>
    readFileSync(`${dir}/secret`, 'utf8') === 'HOSTSECRET' &&
    lstatSync(`${dir}/sub`).isDirectory() &&
    existsSync(`${dir}/empty`)
  return { dir, untouched }
}

for (const runtime of ['crun', 'runc', 'none']) {
  const skip = skipBox || (runtime === 'none' ? false : lacking(runtime)) || false
  void t.test(`runtime ${runtime}`, { skip }, async t => {
    const bench = await withBox(t)
    const { dir: host, untouched } = hostDir(bench)
    const build = (file: string, ...more: string[]): ReturnType<Bench['lamina']> =>
      bench.laminaWith(
        { input: file, env: { LAMINA_RUNTIME: runtime } },
        'build',
        '--no-cache',
        '-t',
        'out',
        ...(more.length > 0 ? more : ['-']),
      )
    const context = (name: string, file: string): string => bench.tree(name, { Containerfile: file })

    await t.test('a source that is a symlink in a stage ends in the stage (CVE-2024-1753)', t => {
      const up = '../'.repeat(20)
      for (const target of [host, `${up}${host.slice(1)}`]) {
        const made = build(`FROM box AS a
RUN ln -s ${target} /link && mkdir -p ${host} && echo ofstage > ${host}/secret
FROM box
RUN --mount=type=bind,from=a,source=/link,target=/src,rw cat /src/secret > /read; echo PWNED > /src/secret
RUN --mount=type=bind,from=a,source=${up}${host}/../host,target=/src cat /src/secret >> /read; cat /read
`)
        t.equal(made.status, 0, made.stderr)
        t.match(made.stdout, /^ofstage\nofstage$/m)
        t.notMatch(made.stdout, /HOSTSECRET/)
        t.ok(untouched())
      }
      const dangling = build(`FROM box AS a
RUN ln -s ${host}/sub /link
FROM box
RUN --mount=type=bind,from=a,source=/link,target=/src ls /src
`)
      t.equal(dangling.status, 1, 'it leads to nothing in the stage')
      t.match(dangling.stderr, /^lamina: line 4: '\/link' is not in 'a'\n$/)
      t.end()
    })

    await t.test('a symlink of the context ends in the context', t => {
      const dir = context(
        'linked',
        'FROM box\nRUN --mount=type=bind,source=link,target=/src,rw rm /src/secret\n',
      )
      symlinkSync(host, `${dir}/link`)
      symlinkSync('/', `${dir}/root`)
      const made = build('', dir)
      t.equal(made.status, 1)
      t.match(made.stderr, /'link' is not in the build context/)
      t.ok(untouched())
      writeFileSync(
        `${dir}/Containerfile`,
        `FROM box\nRUN --mount=type=bind,source=root,target=/src ls -A /src; ! cat /src${host}/secret\n`,
      )
      const root = build('', dir)
      t.equal(root.status, 0, root.stderr)
      t.match(root.stdout, /^Containerfile\nlink\nroot$/m, 'the root of the context')
      t.end()
    })

    await t.test('a cache’s id and source end in the cache (CVE-2024-9675, CVE-2024-23651)', t => {
      const made = build(`FROM box
RUN --mount=type=cache,id=../../../../../..${host},target=/c ls -A /c; ln -s ${host} /c/link; mkdir /c/in; echo c > /c/in/f
RUN --mount=type=cache,id=../../../../../..${host},source=in,target=/c cat /c/f
RUN --mount=type=cache,id=../../../../../..${host},source=link,target=/c rm -f /c/secret
`)
      t.equal(made.status, 1)
      t.match(made.stdout, /^c$/m)
      t.match(made.stderr, /^lamina: line 4: 'link' is not in the cache '.*'\n$/)
      t.ok(untouched())
      t.end()
    })

    await t.test('what a step makes of a mount’s parents is not taken for stubs (CVE-2024-23652)', t => {
      const made = build(`FROM box
RUN --mount=type=tmpfs,target=/a/b/sub --mount=type=cache,target=/a/b/empty mv /a /moved && ln -s ${host} /a && mkdir -p /moved/x && ln -s ${host} /moved/c
RUN --mount=type=secret,id=k,target=/q/r/empty --mount=type=tmpfs,target=/q/r/sub mv /q/r /q/s && ln -s ${host} /q/r
RUN --mount=type=tmpfs,target=/left/alone true
RUN --mount=type=tmpfs,target=/kept/t touch /kept/file
RUN ls -A / /moved /q /q/s /kept
`)
      t.equal(made.status, 0, made.stderr)
      t.ok(untouched())
      const listing = made.stdout.slice(made.stdout.lastIndexOf('STEP'))
      t.match(listing, /\/kept:\nfile\n/, 'what was put beside a mount stays')
      t.match(listing, /\/moved:\nc\nx\n/, 'its own stubs went, wherever they were moved')
      t.match(listing, /\/q:\nr\ns\n\n\/q\/s:\nsha256:/, 'nothing is left in it')
      t.notMatch(listing, /left/)
      t.end()
    })

    await t.test('a target that is a symlink ends in the tree of the step (CVE-2024-23653’s kind)', t => {
      const made = build(`FROM box
RUN ln -s ${host} /t && ln -s / /r && ln -s ${'../'.repeat(20)}${host.slice(1)}/new /u
RUN --mount=type=tmpfs,target=/t touch /t/secret /t/x
RUN --mount=type=tmpfs,target=/u/deep touch /u/deep/y; ls ${host}/new/deep
RUN --mount=type=tmpfs,target=/r true
`)
      t.equal(made.status, 1)
      t.match(made.stdout, /^y$/m)
      t.match(made.stderr, /line 5: cannot mount on \/r: it leads to the root of the image/)
      t.ok(untouched())
      t.notOk(existsSync(`${host}/new`))
      t.end()
    })

    await t.test('writes to a bind of the context are thrown away', t => {
      const dir = context(
        'written',
        'FROM box\nRUN --mount=type=bind,target=/src,rw rm /src/f && echo made > /src/g && echo more >> /src/h && chmod 0 /src/d && cat /src/g /src/h\nRUN --mount=type=bind,target=/src ls /src; ! touch /src/x\n',
      )
      mkdirSync(`${dir}/d`, { mode: 0o755 })
      for (const name of ['f', 'h']) writeFileSync(`${dir}/${name}`, 'mine\n')
      const made = build('', dir)
      t.equal(made.status, 0, made.stderr)
      t.match(made.stdout, /^made\nmine\nmore$/m, 'the step itself sees them')
      t.match(made.stdout, /^Containerfile\nd\nf\nh$/m, 'the next one does not')
      t.equal(readFileSync(`${dir}/f`, 'utf8') + readFileSync(`${dir}/h`, 'utf8'), 'mine\nmine\n')
      t.notOk(existsSync(`${dir}/g`))
      t.equal(lstatSync(`${dir}/d`).mode & 0o777, 0o755)
      t.end()
    })

    await t.test('writes to a bind of a stage change neither the stage nor another mount', t => {
      const made = build(`FROM box AS a
RUN mkdir /d && echo ofstage > /d/f
FROM box
RUN --mount=type=bind,from=a,source=/d,target=/one,rw --mount=type=bind,from=a,source=/d,target=/two,rw echo one > /one/f; cat /two/f; echo x > /two/g; ls /one
RUN --mount=type=bind,from=a,source=/d,target=/one cat /one/f; ls /one
`)
      t.equal(made.status, 0, made.stderr)
      t.equal(made.stdout.match(/^ofstage$/gm)?.length, 2)
      t.notMatch(made.stdout, /^(one|g)$/m)
      t.end()
    })

    t.same(leftovers(bench.root), [])
  })
}

void t.test('nothing widens what a step may do unless the caller says so', { skip: skipBox }, async t => {
  const bench = await withBox(t)
  const refuses = (line: string, message: RegExp, ...more: string[]): void => {
    const dir = bench.tree('refused', { Containerfile: `FROM box\nRUN ${line} true\n` })
    const { status, stderr } = bench.lamina('build', ...more, dir)
    t.equal(status, 1, line)
    t.match(stderr, message)
    t.equal(stderr.split('\n').length, 2, 'one line')
  }
  refuses('--security=insecure', /line 2: RUN --security=insecure is not/)
  refuses('--security=odd', /line 2: RUN: --security=odd: sandbox, insecure are/)
  refuses('--mount=type=bind,target=/x,bind-propagation=shared', /there is no field 'bind-propagation'/)
  refuses('--mount=type=bind,target=/x/..', /cannot have the target \//)
  refuses(
    '--network=host',
    /--network=host is not allowed in a build with --network none/,
    '--network',
    'none',
  )
  const allowed = ['--network', 'none', '--allow', 'network.host']
  const dir = bench.tree('net', { Containerfile: 'FROM box\nRUN --network=host true\n' })
  t.equal(bench.lamina('build', ...allowed, dir).status, 0)
})
