/**
 * /etc/hosts, /etc/hostname and /etc/resolv.conf of a container that runs something: files of its own below containers/ID/etc,
 * written anew at each start and mounted in the rootfs like any bind mount. Contents are Docker's.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { join } from 'node:path'
import { fromUtf8 } from '../../base/bytes.js'
import * as sys from '../../sys/index.js'
import type { ContainerRecord } from '../containers.js'
import type { BindMount } from '../mounts/mount-spec.js'
import type { Store } from '../store.js'
import { StoreError } from '../store-error.js'
import { rootOf, specOf, type ProcessSpec } from './container-spec.js'

/** Of the host's files, in bytes: nobody resolves names by more. */
const LONGEST = 1 << 20

const REWRITE = sys.O_WRONLY | sys.O_CREAT | sys.O_TRUNC | sys.O_NOFOLLOW

const LOCALHOST = `127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
`

/** As gethostname(2) gives it in the container. */
export function hostnameOf(container: Pick<ContainerRecord, 'id'>, wanted: ProcessSpec): string {
  return wanted.hostname ?? container.id.slice(0, 12)
}

/** Writes the files, and says where they are to be mounted: not where the user mounts something himself. */
export function etcFiles(store: Store, container: ContainerRecord, wanted: ProcessSpec): BindMount[] {
  const spec = specOf(container)
  const dir = join(store.paths.containers, container.id, 'etc')
  mkdirSync(dir, { recursive: true, mode: 0o755 })
  const owner = rootOf(spec)
  const taken = new Set(spec.mounts.map(mount => mount.target))
  const mounts: BindMount[] = []
  for (const [name, text] of contents(container, wanted)) {
    const target = `/etc/${name}`
    if (taken.has(target) || taken.has('/etc')) continue
    const source = join(dir, name)
    // In place: a rootfs that stays mounted between two runs shows this very file.
    using file = sys.openat(sys.AT_FDCWD, fromUtf8(source), REWRITE, 0o644)
    sys.fchmod(file.n, 0o644)
    sys.fchown(file.n, owner.uid, owner.gid)
    writeFileSync(file.n, text)
    mounts.push({
      type: 'bind',
      source,
      target,
      readOnly: spec.readOnly,
      propagation: 'rprivate',
      recursive: false,
      createSource: false,
    })
  }
  return mounts
}

function contents(container: ContainerRecord, wanted: ProcessSpec): [name: string, text: string][] {
  const hostname = hostnameOf(container, wanted)
  const ofHost = wanted.network === 'host'
  const own = hostname === container.name ? hostname : `${hostname} ${container.name}`
  const added = (wanted.addHosts ?? []).map(entry => addedHost(entry, wanted.network))
  const hosts = [(ofHost ? readHost('/etc/hosts') : undefined) ?? LOCALHOST, `127.0.1.1\t${own}`, ...added]
  const resolver = ofHost ? readHost('/etc/resolv.conf') : undefined
  return [
    ['hosts', `${hosts.map(part => part.replace(/\n$/, '')).join('\n')}\n`],
    ['hostname', `${hostname}\n`],
    ...(resolver === undefined ? [] : [['resolv.conf', resolver] satisfies [string, string]]),
  ]
}

function readHost(path: string): string | undefined {
  try {
    const text = readFileSync(path, 'utf8')
    return text.length > LONGEST ? undefined : text
  } catch {
    return undefined
  }
}

/** `NAME:IP` as a line of hosts(5). */
function addedHost(entry: string, network: ProcessSpec['network']): string {
  const { name, address } = splitHost(entry, network)
  return `${address}\t${name}`
}

/**
 * `NAME:IP`, `NAME=IP`; `host-gateway` is where the host answers.
 * @throws StoreError invalid
 */
export function splitHost(
  entry: string,
  network: ProcessSpec['network'],
): { readonly name: string; readonly address: string } {
  const [, name = '', text = ''] = /^([A-Za-z0-9_.-]+)[:=](.+)$/s.exec(entry) ?? []
  const address =
    text === 'host-gateway' && network === 'host' ? '127.0.0.1' : text.replace(/^\[(.*)\]$/, '$1')
  if (name !== '' && isIP(address) !== 0) return { name, address }
  if (text === 'host-gateway')
    throw new StoreError(
      'invalid',
      `--add-host ${entry}: there is no host without a network`,
      'use --network host',
    )
  throw new StoreError('invalid', `--add-host ${JSON.stringify(entry)}: write NAME:IP`, 'e.g. db:192.0.2.7')
}

/** @throws StoreError invalid. Source: hostname(7), sethostname(2) */
export function checkHostname(name: string): void {
  if (/^[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?$/.test(name)) return
  throw new StoreError(
    'invalid',
    `--hostname ${JSON.stringify(name)}: not a name of a host`,
    'letters, digits, - . _ and at most 64',
  )
}
