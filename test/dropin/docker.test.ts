import fs from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { entriesOf } from './layer-entries.js'
import { busyboxRoot, Machine, unavailable, which } from './machine.js'

/**
 * Docker's graph driver fuse-overlayfs: it starts whatever is called `fuse-overlayfs` on PATH. Built once with ours under that
 * name and once with the real one; every layer must hold the same.
 */

const missing = unavailable('dockerd', 'docker', 'containerd', 'runc', 'busybox')
const peer = which('fuse-overlayfs')

const DOCKERFILE = `FROM base
RUN mkdir /data && echo a > /data/a && ln /data/a /data/b && rm -rf /var && mkdir /var && echo v > /var/v
COPY tree /copied
RUN mv /data /moved && rm /etc/group && chmod 600 /srv/big/f7 && rm -rf /srv/big/f1* && touch /copied/one
RUN rm /copied/one && echo x > /copied/x && chown 5:6 /moved/a
RUN rm -r /srv && mkdir -p /srv/big && echo x > /srv/big/f20
`

if (missing !== undefined) {
  t.test('docker', { skip: missing }, () => undefined)
} else {
  const machine = await Machine.start()
  t.teardown(() => {
    machine.end()
  })
  busyboxRoot(path.join(machine.root, 'base'))
  const context = path.join(machine.root, 'context')
  fs.mkdirSync(path.join(context, 'tree'), { recursive: true })
  fs.writeFileSync(path.join(context, 'tree/one'), 'one\n')
  fs.writeFileSync(path.join(context, 'Dockerfile'), DOCKERFILE)
  await machine.sh(`tar -C ${machine.root}/base --sort=name -cf ${machine.root}/base.tar .`)

  await t.test('Docker: import, build, run, diff, commit, remove, prune', async t => {
    const ours = await round(machine, 'ours', machine.fuseLamina)
    t.strictSame(await machine.settled(), [], 'no mount and no process left')
    t.match(ours.said, /^Storage Driver: fuse-overlayfs$/m)
    if (peer === undefined) return
    const theirs = await round(machine, 'theirs', peer)
    t.strictSame(ours.said, theirs.said, 'what Docker said')
    t.equal(ours.layers.length, theirs.layers.length)
    for (const [i, layer] of ours.layers.slice(0, -1).entries())
      t.strictSame(layer, theirs.layers[i], `layer ${i}`)
    // Not compared: with fuse-overlayfs a directory made anew at times has the number of the removed one, and Docker then takes
    // it for the old one and forgets what was in it.
    const last = ours.layers.at(-1)?.map(line => line.split(' ')[0])
    t.ok(
      last?.includes('srv/big/.wh.f30') || last?.includes('srv/.wh..wh..opq'),
      'what was removed is whited out',
    )
  })
}

interface Round {
  said: string
  layers: string[][]
}

async function round(machine: Machine, name: string, program: string): Promise<Round> {
  const dir = path.join(machine.root, `docker-${name}`)
  fs.mkdirSync(path.join(dir, 'bin'), { recursive: true })
  fs.symlinkSync(program, path.join(dir, 'bin/fuse-overlayfs'))
  const said = await machine.sh(
    `
export PATH=${dir}/bin:$PATH
mkdir -p /run/docker-${name}
dockerd --iptables=false --ip6tables=false --bridge=none --storage-driver=fuse-overlayfs --host unix:///run/docker-${name}/s \
  --data-root ${dir}/root --exec-root /run/docker-${name}/exec --pidfile /run/docker-${name}/pid \
  --default-ulimit nofile=4096:4096 --default-ulimit nproc=4096:4096 >${dir}/log 2>&1 &
daemon=$!
trap 'kill $daemon; wait $daemon || true' EXIT
D() { docker -H unix:///run/docker-${name}/s "$@"; }
for i in $(seq 300); do D version >/dev/null 2>&1 && break; sleep 0.1; done
D info 2>/dev/null | sed -n 's/^ *\\(Storage Driver: .*\\)/\\1/p'
D import ${machine.root}/base.tar base >/dev/null
DOCKER_BUILDKIT=0 D build -q --network none -t built ${context(machine)} >/dev/null
D run --name changed --network none built sh -c 'echo new > /new; rm /moved/b; cat /copied/x; ls /srv/big; mv /etc/passwd /etc/p'
D diff changed | sort
D commit changed committed >/dev/null
D run --rm --network none committed sh -c 'cat /new; ls /moved /etc/p'
D save -o ${dir}/saved.tar built
D rm changed >/dev/null
D rmi -f committed built base >/dev/null
D system prune -af | tail -1
ls ${dir}/root/fuse-overlayfs | grep -v '^l$' | wc -l
`,
    { seconds: 170 },
  )
  const saved = path.join(dir, 'saved')
  fs.mkdirSync(saved)
  await machine.ok('tar', ['-C', saved, '-xf', path.join(dir, 'saved.tar')])
  const [manifest] = JSON.parse(fs.readFileSync(path.join(saved, 'manifest.json'), 'utf8')) as {
    Layers: string[]
  }[]
  return { said, layers: (manifest?.Layers ?? []).map(layer => entriesOf(path.join(saved, layer))) }
}

function context(machine: Machine): string {
  return path.join(machine.root, 'context')
}
