import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { busyboxRoot, Machine, unavailable, PLAIN, USER } from '../dropin/machine.js'

/**
 * What build-mounts.test.ts tries of a hostile Containerfile, as an ordinary user has it, with a range of subordinate ids and
 * without one: it must not reach the user's own files outside.
 */

const missing = unavailable('newuidmap', 'busybox')

if (missing !== undefined) {
  t.test('rootless', { skip: missing }, () => undefined)
} else {
  const machine = await Machine.start()
  t.teardown(() => {
    machine.end()
  })
  const tree = path.join(machine.root, 'tree')
  busyboxRoot(tree)
  // Names of what the attack uses, where the image has not all of busybox's.
  for (const name of ['mv', 'ln', 'mkdir', 'touch', 'rm', 'cat', 'ls', 'chmod', 'stat', 'df']) {
    if (!fs.existsSync(path.join(tree, 'bin', name))) fs.symlinkSync('busybox', path.join(tree, 'bin', name))
  }
  const who = [
    { user: true as const, uid: USER.uid, home: machine.home, what: 'with subordinate ids' },
    { user: 'plain' as const, uid: PLAIN.uid, home: machine.plainHome, what: 'with one id' },
  ]
  for (const { user, uid, home, what } of who) {
    await t.test(`an ordinary user ${what}`, async t => {
      const own = path.join(home, 'own')
      const context = path.join(home, 'context')
      for (const dir of [own, context, path.join(context, 'd')]) fs.mkdirSync(dir)
      fs.writeFileSync(path.join(own, 'secret'), 'HOSTSECRET')
      fs.writeFileSync(path.join(own, 'empty'), '')
      fs.mkdirSync(path.join(own, 'sub'))
      fs.writeFileSync(path.join(context, 'd/f'), 'mine\n')
      fs.symlinkSync(own, path.join(context, 'link'))
      fs.writeFileSync(
        path.join(context, 'escape'),
        `FROM box\nRUN --mount=source=link,target=/s,rw rm /s/secret\n`,
      )
      fs.writeFileSync(
        path.join(context, 'Containerfile'),
        `FROM box AS a
RUN ln -s ${own} /link && mkdir -p ${own} && echo ofstage > ${own}/secret
FROM box
RUN --mount=from=a,source=/link,target=/src,rw cat /src/secret; echo PWNED > /src/secret; rm -f /src/empty
RUN --mount=target=/src,rw --mount=type=cache,target=/c cat /src/d/f; rm -r /src/d; echo x > /src/new; ln -sfn ${own} /c/l
RUN --mount=type=secret,id=k,target=/q/r/empty --mount=type=tmpfs,target=/q/r/sub cat /q/r/empty; mv /q/r /q/s && ln -s ${own} /q/r
RUN <<EOF
#!/bin/sh
ls -A /q /q/s
EOF
RUN --mount=type=cache,id=/c,target=/c,source=l rm /c/secret
`,
      )
      await machine.sh(`chown -R ${uid}:${uid} ${own} ${context}`)
      await machine.sh(`${machine.lamina} image import ${tree} box`, { user })
      for (const runtime of ['crun', 'runc', 'none']) {
        const options = { user, env: { LAMINA_RUNTIME: runtime, K: 'the-secret\n' } }
        const words = ['build', '--no-cache', '--secret', 'id=k,env=K']
        const made = await machine.run(machine.lamina, [...words, context], options)
        const said = made.stdout.split('\n').filter(line => !/^(STEP|sha256:)/.test(line) && line !== '')
        t.same(
          said,
          ['ofstage', 'mine', 'the-secret', '/q:', 'r', 's', '/q/s:'],
          `${runtime}: ${made.stderr}`,
        )
        t.match(made.stderr, /line 11: 'l' is not in the cache '\/c'/)
        const escape = await machine.run(
          machine.lamina,
          [...words, '-f', `${context}/escape`, context],
          options,
        )
        t.match(escape.stderr, /line 2: 'link' is not in the build context/)
        t.same(fs.readdirSync(own).sort(), ['empty', 'secret', 'sub'], runtime)
        t.equal(fs.readFileSync(path.join(own, 'secret'), 'utf8'), 'HOSTSECRET')
        t.same(fs.readdirSync(context).sort(), ['Containerfile', 'd', 'escape', 'link'])
        t.equal(fs.readFileSync(path.join(context, 'd/f'), 'utf8'), 'mine\n')
      }
      await machine.ok(machine.lamina, ['unshare', '--end'], { user })
    })
  }
  t.same(await machine.settled(), [])
}
