import path from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { busyboxRoot, Machine, unavailable } from './machine.js'

/** A real dockerd with the volumes of a Lamina store: `docker volume create -d lamina`, `docker run -v`. */

const missing = unavailable('dockerd', 'docker', 'containerd', 'runc', 'busybox')
const LAMINA = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../../bin/lamina.js')

if (missing !== undefined) {
  t.test('docker', { skip: missing }, () => undefined)
} else {
  const machine = await Machine.start()
  t.teardown(() => {
    machine.end()
  })
  busyboxRoot(path.join(machine.root, 'base'))

  await t.test('docker volume create, run -v, inspect, ls and rm with the plugin', async t => {
    const said = await machine.sh(
      `
cd ${machine.root}
export LAMINA_ROOT=${machine.root}/store
lamina() { ${process.execPath} ${LAMINA} "$@"; }
mkdir -p /run/docker-volumes /run/docker/plugins
tar -C base -cf base.tar .
# Not by the function: what is ended below is this process.
${process.execPath} ${LAMINA} plugin docker-volumes >plugin.log 2>&1 &
plugin=$!
for i in $(seq 200); do [ -S /run/docker/plugins/lamina.sock ] && break; sleep 0.1; done
dockerd --iptables=false --ip6tables=false --bridge=none --storage-driver=vfs --host unix:///run/docker-volumes/s \
  --data-root ${machine.root}/docker --exec-root /run/docker-volumes/exec --pidfile /run/docker-volumes/pid \
  --default-ulimit nofile=4096:4096 --default-ulimit nproc=4096:4096 >log 2>&1 &
daemon=$!
trap 'kill $daemon; wait $daemon || true; kill $plugin; wait $plugin || true' EXIT
D() { docker -H unix:///run/docker-volumes/s "$@"; }
for i in $(seq 300); do D version >/dev/null 2>&1 && break; sleep 0.1; done
D import base.tar base >/dev/null
D volume create -d lamina data
D volume create -d lamina -o size=4m small
D volume create -d lamina -o quota=1 wrong 2>&1 | grep -o "'quota' is not an option of a volume"
run() { D run --rm --network none "$@"; }
run -v data:/srv/big base sh -c 'ls /srv/big | wc -l; echo kept > /srv/big/mine'
run -v data:/d:ro base sh -c 'cat /d/mine; echo x > /d/y 2>/dev/null || echo read-only'
run -v small:/s base sh -c 'dd if=/dev/zero of=/s/big bs=1M count=8 2>&1 | grep -o "No space left on device"'
D volume ls -q --filter driver=lamina | sort
lamina run --rm -v data:/d "$(lamina image import base.tar base2 >/dev/null; echo base2)" cat /d/mine
D create --name holder -v data:/d base true >/dev/null
D volume rm data 2>&1 | grep -o 'volume is in use'
D rm holder >/dev/null
D volume rm data small
lamina volume ls -q | wc -l
`,
      { seconds: 150 },
    )
    t.strictSame(said.trim().split('\n'), [
      'data',
      'small',
      "'quota' is not an option of a volume",
      // dockerd fills a new volume from the image, whoever made it.
      '50',
      'kept',
      'read-only',
      'No space left on device',
      'data',
      'small',
      'kept',
      'volume is in use',
      'data',
      'small',
      '0',
    ])
    t.strictSame(await machine.settled(), [], 'no mount and no process left')
  })
}
