import path from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { busyboxRoot, Machine, unavailable } from './machine.js'
import { Store } from './store.js'

/** Podman with the volumes of a Lamina store, named in containers.conf: `podman volume create --driver lamina`, `podman run -v`. */

const missing = unavailable('podman', 'crun', 'busybox')
const LAMINA = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../../bin/lamina.js')

if (missing !== undefined) {
  t.test('podman', { skip: missing }, () => undefined)
} else {
  const machine = await Machine.start()
  t.teardown(() => {
    machine.end()
  })
  busyboxRoot(path.join(machine.root, 'base'))

  await t.test('podman volume create, run -v, inspect, ls and rm with the plugin', async t => {
    const said = await machine.sh(
      `
cd ${machine.root}
export LAMINA_ROOT=${machine.root}/store
lamina() { ${process.execPath} ${LAMINA} "$@"; }
mkdir -p /run/docker/plugins tmp
cat >containers.conf <<'END'
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[engine.volume_plugins]
lamina = "/run/docker/plugins/lamina.sock"
END
export CONTAINERS_CONF=${machine.root}/containers.conf
# Not by the function: what is ended below is this process.
${process.execPath} ${LAMINA} plugin docker-volumes >plugin.log 2>&1 &
plugin=$!
trap 'kill $plugin; wait $plugin || true' EXIT
for i in $(seq 200); do [ -S /run/docker/plugins/lamina.sock ] && break; sleep 0.1; done
P() { podman --root ${machine.root}/podman --runroot /run/pv --tmpdir ${machine.root}/tmp --storage-driver vfs --runtime crun "$@"; }
run() { P run --rm ${Store.LIMITS.join(' ')} "$@"; }
tar -C base -c . | P import -q - base >/dev/null
P volume create --driver lamina data
P volume create --driver lamina -o size=4m small
P volume create --driver lamina -o quota=1 wrong 2>&1 | grep -o "'quota' is not an option of a volume"
run -v data:/d base sh -c 'echo kept > /d/mine'
run -v data:/d:ro base sh -c 'cat /d/mine; echo x > /d/y 2>/dev/null || echo read-only'
run -v small:/s base sh -c 'dd if=/dev/zero of=/s/big bs=1M count=8 2>&1 | grep -o "No space left on device"'
P volume ls -q --filter driver=lamina | sort
P volume inspect --format '{{.Driver}} {{.Mountpoint}}' data | grep -c "^lamina.*$"
# Made by Lamina: Podman finds it by the plugin.
lamina volume create beside
P volume reload >/dev/null
run -v beside:/b base sh -c 'echo seen > /b/file'
cat "$(lamina volume inspect --format '{{.mountpoint}}' beside)/file"
P create --name holder ${Store.LIMITS.join(' ')} -v data:/d base true >/dev/null
P volume rm data 2>&1 | grep -o 'volume is being used'
P start --attach holder
lamina volume rm small >/dev/null && run -v small:/s base true >/dev/null 2>&1 || echo gone
P rm holder >/dev/null
P volume rm data
lamina volume ls -q
`,
      { seconds: 120 },
    )
    t.strictSame(said.trim().split('\n'), [
      'data',
      'small',
      "'quota' is not an option of a volume",
      'kept',
      'read-only',
      'No space left on device',
      'data',
      'small',
      '1',
      'beside',
      'seen',
      'volume is being used',
      'gone',
      'data',
      'beside',
    ])
    t.strictSame(await machine.settled(), [], 'no mount and no process left')
  })
}
